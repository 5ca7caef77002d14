"""Which tile each convolution takes, by measurement on the GPU that is here.

`candidates` is a pure function: the tiles around the rule's that the architecture's limits allow.
`fastest_tile` decides by medians of trials by turns, and knows no GPU: what a trial is, is given to
it. `Bench` is the trial on a GPU, in a CUDA graph over rotating inputs. A tile whose result is not
the rule's is never taken, however fast. Never run on a GPU.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from crn_fast.cascade import CascadeWeights
from crn_fast.fused.ops import Choices, on_load_tile
from crn_fast.fused.packed import TYPES
from crn_fast.kernels.gpu import packing
from crn_fast.kernels.gpu.conv import conv
from crn_fast.kernels.gpu.operands import Convolution, Features, padded
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.refine import refine
from crn_fast.kernels.gpu.tuning import (
    PROCESSORS,
    SHARED_MEMORY,
    Shape,
    Tile,
    choose,
    power_of_two,
    shared_bytes,
)
from crn_fast.spec import CascadeSpec

ROUNDS = 7
GAIN = 0.97
"""A tile must take at most this share of the rule's tile's time to be preferred to it."""
ROTATION = 4
"""Inputs by turns, so that none is found in a cache."""
TOLERANCE = 0.02
"""Largest difference from the rule's result, in its standard deviations."""
ON_LOAD_PIXELS = 32 * 64
"""Beyond this size to activate once a tap is not worth a trial."""
ACCUMULATORS = 128
"""Sums of one thread above which the kernels were seen to spill; half of it where results are
scattered, or where fp8 holds them twice."""
Progress = Callable[[str, int, int], None]


class Trial(NamedTuple):
    """One tile, ready to be timed."""

    result: np.ndarray
    """what it computes, for one of the inputs"""
    seconds: Callable[[], float]
    """of one round"""


def candidates(shape: Shape, arch: int) -> list[Tile]:
    """The tiles worth a trial on sm_`arch`, the rule's first.

    They differ from it in one or two of box of pixels, columns, depth and stages, or in splits or
    form alone.
    """
    rule = choose(shape, arch)
    found = [rule]
    known = max(a for a in SHARED_MEMORY if a <= arch)
    pixels = rule.rows * rule.wide
    columns = shape.outputs * (4 if rule.form == "fold" else 1)
    for size, outputs, depth, stages in itertools.product(
        (pixels // 2, pixels, pixels * 2),
        (rule.outputs // 2, rule.outputs, rule.outputs * 2),
        (rule.depth // 2, rule.depth, rule.depth * 2),
        (rule.stages - 1, rule.stages, rule.stages + 1),
    ):
        wanted = (size, outputs, depth, stages)
        same = (pixels, rule.outputs, rule.depth, rule.stages)
        changes = sum(a != b for a, b in zip(wanted, same, strict=True))
        wide = min(rule.wide, size) if rule.rows > 1 else size
        if not 1 <= changes <= 2 or min(size, outputs, depth) < 16 or wide < 1:
            continue
        if outputs > power_of_two(columns) or depth > power_of_two(max(shape.inputs, 1)):
            continue
        tile = dataclasses.replace(
            rule,
            rows=size // wide,
            wide=wide,
            outputs=outputs,
            depth=depth,
            stages=max(stages, 1),
            warps=8 if size * outputs >= 128 * 128 else 4,
        )
        if stages >= 2 and _fits(tile, shape, known):
            found.append(tile)
    for splits in (rule.splits // 2, rule.splits * 2):
        programs = shape.height * shape.width // pixels * splits
        if rule.form == "apply" and splits >= 1 and programs <= 4 * PROCESSORS[known]:
            found.append(dataclasses.replace(rule, splits=splits))
    specialised = known == 90 and shape.inputs and shape.precision in ("fp16", "bf16")
    if specialised and rule.form == "apply" and rule.splits == 1:
        warps = min(8, max(4, pixels // 16))
        found.append(dataclasses.replace(rule, warps=warps, specialised=True))
    small = shape.height * shape.width <= ON_LOAD_PIXELS
    if small and shape.inputs and shape.precision != "fp8" and rule.form == "apply":
        found.append(on_load_tile(rule))
    if rule.form == "fold":
        found.append(choose(dataclasses.replace(shape, upsampling="align_corners"), arch))
    return list(dict.fromkeys(found))


def _fits(tile: Tile, shape: Shape, known: int) -> bool:
    """Within shared memory, and within the registers that the kernels were seen to need."""
    if shared_bytes(tile, shape.precision) > SHARED_MEMORY[known] * 2 // 3:
        return False
    sums = tile.rows * tile.wide * tile.outputs // (tile.warps * 32)
    most = ACCUMULATORS if known in (90, 100) else ACCUMULATORS // 2
    if tile.form == "fold" or shape.precision == "fp8":
        most = min(most, ACCUMULATORS // 2)
    if shape.precision in ("fp32", "tf32"):
        most = ACCUMULATORS // 4
    if known == 120 and tile.stages > 2:
        return False
    if known < 90 and shape.inputs <= tile.depth and tile.stages > 3:
        return False
    return sums <= most


def fastest_tile(
    shape: Shape, tiles: list[Tile], trial: Callable[[Tile], Trial], rounds: int = ROUNDS
) -> Tile:
    """The tile with the smallest median; the first one unless another is clearly faster.

    Args:
        shape: the convolution's.
        tiles: the rule's first; those that do not compile or compute something else are left out.
        trial: makes one ready.
        rounds: timed, after one that is not.
    """
    rule = tiles[0]
    right = trial(rule)
    trials = {rule: right}
    limit = TOLERANCE * float(right.result.std())
    for tile in tiles[1:]:
        try:
            made = trial(tile)
        except Exception:  # Triton's own errors have no class in common
            continue
        if made.result.shape == right.result.shape:
            error = np.abs(made.result - right.result).max()
            if error <= limit:  # never so for NaN
                trials[tile] = made
    seconds: dict[Tile, list[float]] = {tile: [] for tile in trials}
    for _ in range(rounds + 1):
        for tile, made in trials.items():
            seconds[tile].append(made.seconds())
    medians = {tile: statistics.median(taken[1:]) for tile, taken in seconds.items()}
    best = min(medians, key=lambda tile: medians[tile])
    return best if medians[best] <= GAIN * medians[rule] else rule


class Bench:
    """Trials of one convolution with made-up values."""

    def __init__(
        self,
        shape: Shape,
        device: torch.device,
        timed: Callable[[Callable[[int], object]], Callable[[], float]],
        ids: bool = False,
    ) -> None:
        """Make values up.

        Args:
            shape: the convolution's.
            device: where.
            timed: given what runs on input i, gives what times one round over the inputs.
            ids: the layout comes as ids.
        """
        self.shape, self.device, self._timed = shape, device, timed
        # Large maps are drawn where they are needed; weights on the CPU, where they are packed.
        made, there = (torch.Generator(d).manual_seed(0) for d in ("cpu", device))
        dtype = TYPES[shape.precision]

        def normal(*sides: int) -> torch.Tensor:
            return torch.randn(sides, generator=made)

        inputs = shape.inputs + shape.classes
        weight = normal(shape.outputs, inputs, 3, 3) / (9 * inputs) ** 0.5
        taps = packing.by_taps(weight[:, : shape.inputs])
        layout = packing.by_taps(weight[:, shape.inputs :]).to(dtype) if shape.classes else None
        scale = None
        if shape.precision == "fp8":
            taps, scale = packing.quantise(taps)
        elif shape.inputs:
            taps = taps.to(dtype)
        elif layout is not None:
            taps = layout[:, :, :0]
        ones = torch.ones(padded(shape.outputs))
        weights = Convolution(taps, layout, ones, 0 * ones, shape.outputs, scale)
        self.weights = self._there(weights)
        self.folded = None
        if shape.upsampling == "half_pixel" and layout is not None and scale is None:
            self.folded = self._there(packing.fold(taps, layout))
        factor = 1 if shape.upsampling == "none" else 2
        size = (1, shape.height // factor, shape.width // factor, padded(shape.inputs))
        pending = torch.ones(1, padded(shape.inputs))
        self.features: list[Features | None] = [None] * ROTATION
        if shape.inputs:
            self.features = [
                self._there(Features(drawn.to(dtype), pending, 0 * pending))
                for drawn in torch.randn((ROTATION, *size), generator=there, device=device)
            ]
        self.layout: torch.Tensor | None = None
        if shape.classes:
            map_size = (1, shape.height, shape.width, padded(shape.classes))
            soft = torch.rand(map_size, generator=there, device=device)
            self.layout = soft.to(dtype)
        if ids:
            some = torch.randint(0, shape.classes, (1, shape.height, shape.width), generator=made)
            self.layout = some.to(torch.uint8).to(device)

    def _there(self, held: Any) -> Any:
        """A named tuple with its tensors on the device."""
        return type(held)(*(x.to(self.device) if isinstance(x, torch.Tensor) else x for x in held))

    def __call__(self, tile: Tile) -> Trial:
        weights = self.weights
        if tile.form == "fold":
            weights = weights._replace(folded=self.folded)
        tf32 = self.shape.precision == "tf32"

        def run(i: int) -> torch.Tensor:
            queue, features = Queue(self.device), self.features[i]
            if self.layout is None:
                assert features is not None
                return conv(queue, features, weights, tile, tf32).raw
            mode = self.shape.upsampling
            return refine(queue, features, self.layout, weights, mode, tile, tf32).raw

        result = run(0).float().cpu().numpy()
        return Trial(result, self._timed(run))


def on_gpu(run: Callable[[int], object]) -> Callable[[], float]:
    """Times one CUDA graph of a round over the inputs, by events."""
    cuda: Any = torch.cuda  # much of which has no types
    stream = cuda.Stream()
    with cuda.stream(stream):
        run(0)
        stream.synchronize()
        graph = cuda.CUDAGraph()
        with cuda.graph(graph, stream=stream):
            for i in range(ROTATION):
                run(i)

    def seconds() -> float:
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3

    return seconds


def tune_here(
    spec: CascadeSpec, weights: CascadeWeights, arch: int, precision: str, progress: Progress
) -> dict[str, Tile]:
    """The fastest tile of every convolution of a network on this GPU, by `Shape.key`.

    Args:
        spec: the network's.
        weights: for their types; values are made up.
        arch: of the GPU that is here.
        precision: of the engine.
        progress: called with what is done, the steps done and their number.
    """
    shapes = shapes_of(spec, weights, arch, precision)
    table: dict[str, Tile] = {}
    for done, shape in enumerate(shapes):
        progress("tune", done, len(shapes))
        ids = bool(shape.classes) and (shape.height, shape.width) == spec.size
        bench = Bench(shape, torch.device("cuda", 0), on_gpu, ids)
        table[shape.key] = fastest_tile(shape, candidates(shape, arch), bench)
    progress("tune", len(shapes), len(shapes))
    return table


def shapes_of(spec: CascadeSpec, weights: CascadeWeights, arch: int, precision: str) -> list[Shape]:
    """Each different convolution of a network."""
    choices = Choices(spec, arch, precision, {})
    stages: Any = weights.stages  # whose convolutions are `Convolution`s
    found = [
        choices.tile(i, conv, held)[0]
        for i, stage in enumerate(stages)
        for conv, held in (("conv1", stage.conv1), ("conv2", stage.conv2))
    ]
    return list(dict.fromkeys(found))
