"""Suite `alternatives`: the networks of `alternatives.py` beside ours, at equal size.

Their weights are random: time and operations can be compared, pictures cannot. From uint8 labels to
uint8 pictures, one-hot and rounding included, each in a process of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast.bench import frame
from crn_fast.bench.inputs import Inputs
from crn_fast.files import write_whole
from crn_fast.measure import ceilings, rows
from crn_fast.measure.child import Child
from crn_fast.measure.gate import Subject
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Timing
from crn_fast.measure.turns import take

MODES = ("eager", "compiled")
SEED = 0
LIMIT = 0.5
"""Grey levels before rounding that a picture may be off; random weights make dull ones."""


def measure(
    ours: Sequence[Inputs],
    names: Sequence[str],
    threads: int,
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of ours, and of each of the networks in each of `MODES`.

    Args:
        ours: cascades of one size, with the same classes for all; the layout is the first one's.
        names: of `alternatives.NETWORKS`.
        threads: as of `frame.compare`, and so are the next.
        rounds: by turns.
        origin: of the rows.
        told: is given lines for people.
    """
    import alternatives

    first = ours[0]
    classes, size = first.spec.classes, first.spec.size
    starts: dict[str, Callable[[], Child]] = {}
    cases: dict[str, tuple[rows.Case, float]] = {}
    for inputs in ours:
        key = f"native {inputs.network}"
        starts[key] = partial(frame.child, inputs, "native", threads)
        cases[key] = frame.case_of(inputs, threads), float(inputs.spec.flops())
    for name in names:
        case = {**frame.case_of(first, threads), "network": name}
        for mode in MODES:
            starts[f"{name} {mode}"] = partial(_child, first, name, mode, threads)
            cases[f"{name} {mode}"] = case, float(alternatives.flops(name, classes, size))
    limits = ceilings.measure(threads)

    def figures(operations: float, timing: Timing) -> dict[str, Any]:
        shares = frame.shares(limits, operations / timing.spread.median / 1e9)
        return {"operations": operations, **shares}

    taken = take(starts, rounds, pause=frame.PAUSE, told=told)
    return [
        taken.row("alternatives", case, key, origin, partial(figures, operations))
        for key in taken.keys
        for case, operations in [cases[key]]
    ]


def make(name: str, mode: str, classes: int, labels: Path, threads: int) -> Subject:
    """One of the networks as a subject, in the process that it is timed in."""
    import torch

    torch.set_num_threads(threads)
    ids = torch.from_numpy(np.load(labels))
    network = _network(name, classes, (ids.shape[1], ids.shape[2]))
    forward: Any = torch.compile(network, dynamic=False) if mode == "compiled" else network

    def exact() -> np.ndarray:
        with torch.inference_mode():
            rgb: np.ndarray = _picture(forward, ids, classes, torch.float32).numpy()
            return rgb

    def run() -> np.ndarray:
        with torch.inference_mode():
            rgb = _picture(forward, ids, classes, torch.float32)
            found: np.ndarray = (rgb.clamp(0, 255) + 0.5).floor().to(torch.uint8).numpy()
            return found

    settings = f"torch {torch.__version__}, {mode}, random weights, {threads} threads"
    return Subject(f"{name} {mode}", run, settings, exact)


def synthesize(name: str, classes: int, labels: Path, out: Path) -> None:
    """The oracle: the same network in float64, before rounding."""
    import torch

    ids = torch.from_numpy(np.load(labels))
    network = _network(name, classes, (ids.shape[1], ids.shape[2])).double()
    with torch.inference_mode():
        rgb = _picture(network, ids, classes, torch.float64).numpy()
    write_whole(out, lambda stream: np.save(stream, rgb))


def _network(name: str, classes: int, size: tuple[int, int]) -> Any:
    import torch

    import alternatives

    torch.manual_seed(SEED)
    return alternatives.NETWORKS[name](classes, size).eval()


def _picture(network: Any, ids: Any, classes: int, dtype: Any) -> Any:
    """RGB [N, 1, H, W, 3] around 0..255, of labels uint8 [N, H, W]."""
    import torch

    known = torch.arange(classes, dtype=torch.uint8)[:, None, None]
    rgb = network(torch.eq(ids[:, None], known).to(dtype))
    return ((rgb + 1) * 127.5).permute(0, 2, 3, 1)[:, None].contiguous()


def _child(inputs: Inputs, name: str, mode: str, threads: int) -> Child:
    classes, (height, width) = inputs.spec.classes, inputs.spec.size
    expected = inputs.labels.with_name(f"{name}.{classes}.{height}x{width}.float64.npy")
    sources = [inputs.labels, Path(__file__).with_name("alternatives.py")]
    if not expected.exists() or expected.stat().st_mtime < max(s.stat().st_mtime for s in sources):
        synthesize(name, classes, inputs.labels, expected)
    return Child(
        partial(make, name, mode, classes, inputs.labels, threads),
        expected,
        LIMIT,
        "float64",
        environment={**ceilings.environment_of(threads), **frame.ENVIRONMENT},
    )
