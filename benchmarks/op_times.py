"""Suite `ops`: the time of each op of a picture, within whole pictures, and its error.

An op table around another: one keeps the times, one runs an oracle beside and passes every op
through the gate. The network itself stays `crn_fast.cascade`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from crn_fast import cascade, checkpoint
from crn_fast.bench import frame
from crn_fast.bench.inputs import Inputs
from crn_fast.cascade import CascadeWeights, ConvWeights, HeadWeights, StageWeights
from crn_fast.engine import Engine
from crn_fast.errors import CheckFailed
from crn_fast.kernels import cpu
from crn_fast.measure import ceilings, rows
from crn_fast.measure.gate import Passed
from crn_fast.measure.machine import Contention
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Timing
from crn_fast.spec import CascadeSpec

RELATIVE = 1e-3
"""Largest difference of a feature that passes, of the features' standard deviation."""
SLOPE = 0.2


class Timed:
    """An op table, and the seconds that each of its ops took, in order."""

    def __init__(self, ops: Any, clock: Callable[[], float] = time.perf_counter) -> None:
        self._ops, self._clock = ops, clock
        self.laps: list[float] = []

    def __getattr__(self, op: str) -> Callable[..., Any]:
        run = getattr(self._ops, op)

        def timed(*arguments: Any) -> Any:
            start = self._clock()
            result = run(*arguments)
            self.laps.append(self._clock() - start)
            return result

        return timed


class Pair(NamedTuple):
    """What travels between ops: ours, and the oracle's."""

    ours: Any
    oracle: Any


class Beside:
    """Two op tables as one. Each result of the first must pass the gate of the second's."""

    def __init__(self, ours: Any, oracle: Any, against: str) -> None:
        self._ops, self._against = Pair(ours, oracle), against
        self.passed: list[Passed] = []

    def label_pyramid(self, labels: Any, classes: int, stages: int) -> list[Pair]:
        pairs = zip(*self._both("label_pyramid", labels, classes, stages), strict=True)
        layouts = [Pair(*pair) for pair in pairs]
        coarse = layouts[0]
        self._check("label_pyramid", np.asarray(coarse.ours), np.asarray(coarse.oracle))
        return layouts

    def refine(self, features: Any, layout: Any, weights: Any, upsampling: str) -> Pair:
        return self._features("refine", features, layout, weights, upsampling)

    def conv(self, features: Any, weights: Any) -> Pair:
        return self._features("conv", features, weights)

    def head(self, features: Any, weights: Any) -> Pair:
        rgb = self._both("head", features, weights)
        self._check("head", rgb.ours, rgb.oracle.numpy())
        return rgb

    def to_uint8(self, rgb: Pair) -> Any:
        found = self._both("to_uint8", rgb)
        self._check("to_uint8", found.ours, rgb.oracle.numpy())
        return found.ours

    def _both(self, op: str, *arguments: Any) -> Pair:
        sides = (
            (argument[side] if isinstance(argument, Pair) else argument for argument in arguments)
            for side in (0, 1)
        )
        return Pair(*(getattr(o, op)(*a) for o, a in zip(self._ops, sides, strict=True)))

    def _features(self, op: str, *arguments: Any) -> Pair:
        found = self._both(op, *arguments)
        oracle = found.oracle
        expected = _activate(
            oracle.raw, oracle.scale[:, :, None, None], oracle.shift[:, :, None, None]
        )
        scale, shift = (x[:, None, None] for x in (found.ours.scale, found.ours.shift))
        # Ours has the channels last, padded to a multiple of sixteen.
        ours = _activate(found.ours.raw, scale, shift).transpose(0, 3, 1, 2)
        self._check(op, ours[:, : expected.shape[1]], expected.numpy())
        return found

    def _check(self, op: str, found: np.ndarray, expected: np.ndarray) -> None:
        if found.dtype == np.uint8 or op == "head":
            limit = frame.LIMITS["fp32"]
        else:
            limit = RELATIVE * float(expected.std())
        self.passed.append(Passed(op, found, expected, limit, self._against, op in PICTURES))


PICTURES = ("head", "to_uint8")


def _activate(raw: Any, scale: Any, shift: Any) -> Any:
    x = raw * scale + shift
    return x * (SLOPE + (1 - SLOPE) * (x > 0))


class Op(NamedTuple):
    """What one op of one picture costs, counted."""

    name: str
    shape: str
    operations: float
    """Of the direct convolution, each once."""
    multiplied: float
    """Of the products that are really made: of the transformed tiles."""
    moved: float
    """Bytes: what goes in (weights as they are packed) and comes out, each once."""


def names_of(spec: CascadeSpec) -> list[str]:
    """The ops of a picture in the order in which `cascade.render` calls them."""
    stages = [f"stage {stage.index} {op}" for stage in spec.stages for op in ("refine", "conv")]
    return ["label_pyramid", *stages, "head", "to_uint8"]


def ops_of(spec: CascadeSpec, weights: CascadeWeights) -> list[Op]:
    """What each of `names_of` costs."""
    height, width = spec.size
    pixels, four = height * width, 4
    pyramid = pixels + four * spec.classes * pixels / 3
    found = [Op("label_pyramid", f"{spec.classes} x {height}x{width}", 0, 0, pyramid)]
    before = 0
    for stage, packed in zip(spec.stages, weights.stages, strict=True):
        area = stage.height * stage.width
        last = stage is spec.stages[-1]
        layout = area * (1 if last else four * stage.classes)
        written = four * area * stage.channels
        inputs = {
            "refine": (packed.conv1, stage.features + stage.classes, before + layout),
            "conv": (packed.conv2, stage.channels, written),
        }
        for op, (conv, channels, read) in inputs.items():
            weight = conv.weight.weight
            # Ids are looked up, and padding earns no credit.
            multiplied = stage.features if last and op == "refine" else channels
            tiles, taken = _tiles(weight.shape[1], stage.height, stage.width)
            products = 2.0 * tiles * taken * multiplied * stage.channels
            shape = f"{channels} to {stage.channels}, {stage.height}x{stage.width}"
            direct = 2.0 * 9 * channels * stage.channels * area
            moved = read + written + weight.nbytes
            found.append(Op(f"stage {stage.index} {op}", shape, direct, products, moved))
        before = written
    outputs = 3 * spec.images
    head = 2.0 * outputs * spec.widths[-1] * pixels
    shape = f"{spec.widths[-1]} to {outputs}, {height}x{width}"
    found.append(Op("head", shape, head, head, before + four * outputs * pixels))
    found.append(
        Op("to_uint8", f"{outputs}, {height}x{width}", 0, 0, (four + 1) * outputs * pixels)
    )
    return found


def _tiles(positions: int, height: int, width: int) -> tuple[int, int]:
    """Tiles of a map, and products of each: a tile of m x m has (m + 2)^2, a pixel alone nine."""
    side = {9: 1}.get(positions) or round(positions**0.5) - 2
    return -(-height // side) * -(-width // side), positions


def measure(
    inputs: Inputs,
    threads: int,
    rounds: int,
    oracle: str,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of every op of the backend native; each has passed the gate beside the oracle's.

    Where one has not, none has a time, as what the later ones are given is wrong, too.
    """
    import torch

    from crn_fast.kernels import reference
    from crn_fast.weights import arrange

    case = frame.case_of(inputs, threads)
    if inputs.engine is None:
        reason = str(cpu.available())
        cases = [{**case, "op": op} for op in names_of(inputs.spec)]
        return [Row("ops", each, "native", "", origin, reason=reason) for each in cases]
    limits = ceilings.measure(threads)
    loaded, ids, spec = checkpoint.load(inputs.model), np.load(inputs.labels), inputs.spec
    engine = Engine.open(inputs.engine, threads=threads)
    renderer: Any = engine._renderer  # its op table and weights are for nobody else
    dtype = getattr(torch, oracle)
    plain = {name: torch.from_numpy(np.array(t)).to(dtype) for name, t in loaded.tensors.items()}
    beside = Beside(renderer.ops, _FromNumpy(reference), oracle)
    told(f"every op beside the reference in {oracle}")
    counted = ops_of(spec, renderer.weights)
    try:
        with torch.inference_mode():
            cascade.render(beside, spec, _paired(renderer.weights, arrange(spec, plain)), ids)
    except CheckFailed as error:
        return _refused(counted, len(beside.passed), str(error), case, origin)
    del plain

    timed = Timed(renderer.ops)
    taken = []
    contention = Contention()
    for turn in range(rounds + 1):  # the first warms up
        timed.laps = []
        cascade.render(timed, spec, renderer.weights, ids)
        taken.append(timed.laps)
        told(f"round {turn} of {rounds}: {sum(timed.laps):.4g} s")
    found, waited = [], contention.share()
    for index, (op, passed) in enumerate(zip(counted, beside.passed, strict=True)):
        timing = Timing("native", renderer.device, passed, [laps[index] for laps in taken[1:]])
        seconds = timing.spread.median
        shares = {"copy": op.moved / seconds / 1e9 / limits.copy}
        if op.operations:
            shares["effective"] = op.operations / seconds / 1e9 / limits.product
            shares["multiplied"] = op.multiplied / seconds / 1e9 / limits.product
        found.append(
            rows.measured(
                "ops",
                {**case, "op": op.name, "shape": op.shape},
                timing,
                origin,
                operations=op.operations or None,
                moved=op.moved,
                shares=shares,
                contention=waited,
                ceilings={**limits.products, "copy": limits.copy},
            )
        )
    return found


def _refused(
    counted: Sequence[Op], wrong: int, why: str, case: rows.Case, origin: Origin
) -> list[Row]:
    """Rows without times, of which the op at the index `wrong` says why."""
    found = []
    for index, op in enumerate(counted):
        reason = why if index == wrong else f"{counted[wrong].name} is wrong"
        each = {**case, "op": op.name, "shape": op.shape}
        found.append(Row("ops", each, "native", "", origin, reason=reason, wrong=index == wrong))
    return found


class _FromNumpy:
    """The reference ops, which take labels as an array."""

    def __init__(self, ops: Any) -> None:
        self._ops = ops

    def __getattr__(self, op: str) -> Any:
        return getattr(self._ops, op)

    def label_pyramid(self, labels: np.ndarray, classes: int, stages: int) -> Sequence[Any]:
        import torch

        found: Sequence[Any] = self._ops.label_pyramid(torch.from_numpy(labels), classes, stages)
        return found


def _paired(ours: CascadeWeights, oracle: CascadeWeights) -> CascadeWeights:
    """Weights for `Beside`: a pair wherever an op takes weights."""
    stages = tuple(
        StageWeights(*(_pair(a, b) for a, b in zip(one, other, strict=True)))
        for one, other in zip(ours.stages, oracle.stages, strict=True)
    )
    return CascadeWeights(stages, _pair(ours.head, oracle.head))


def _pair(ours: ConvWeights | HeadWeights, oracle: ConvWeights | HeadWeights) -> Any:
    return Pair(ours, oracle)
