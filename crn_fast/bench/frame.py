"""Suite `frame`: a whole picture, ours and the peers by turns, each in a process of its own.

From labels in memory to a picture in memory. A round of a subject that is quick is the mean of as
many runs as fill `BURST`. Each process also says what memory it took.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from crn_fast.backends import sees_gpu
from crn_fast.bench.gpu_peers import GPU
from crn_fast.bench.inputs import Inputs
from crn_fast.bench.ours import OURS, REFERENCE
from crn_fast.bench.peers import CPU, Peer
from crn_fast.measure import ceilings
from crn_fast.measure.ceilings import Ceilings
from crn_fast.measure.child import Child
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Timing
from crn_fast.measure.turns import Taken, take

LIMITS = {"fp32": 1.0, "fp16": 4.0}
"""Grey levels before rounding that a picture may be off; the first is native's promise."""
PAUSE = 0.2
"""Seconds between two subjects, in which a library's threads stop spinning."""
SUBJECTS: dict[str, Peer] = {**OURS, **CPU, **GPU}
BURST = 0.3
"""Seconds that a round takes at least: one run of a few hundredths says little."""
ENVIRONMENT = {
    # Else a pool of compiler processes goes on using the CPUs while others are timed.
    "TORCHINDUCTOR_COMPILE_THREADS": "1",
}
"""Of every child process, besides its number of threads."""


class Run(NamedTuple):
    """One subject in one case."""

    name: str
    """Of the subject."""
    inputs: Inputs
    threads: int
    key: str
    """Tells it from the other runs of a measurement."""


def case_of(inputs: Inputs, threads: int, name: str = "native") -> dict[str, str | int | float]:
    height, width = inputs.spec.size
    return {
        "network": inputs.network,
        "height": height,
        "width": width,
        "batch": inputs.batch,
        "threads": threads,
        "precision": precision_of(name),
    }


def precision_of(name: str) -> str:
    """In which a subject computes here."""
    half = name in GPU or name in ("fused", "trt") or (name == REFERENCE and sees_gpu())
    return "fp16" if half else "fp32"


def compare(
    inputs: Inputs,
    names: Sequence[str],
    threads: int,
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """A row of each of `SUBJECTS` that is named: measured, or why not."""
    limits = ceilings.measure(threads)
    runs = [Run(name, inputs, threads, name) for name in names]
    taken = measure(runs, rounds, told)
    operations = inputs.spec.flops() * inputs.batch

    def figures(name: str, timing: Timing) -> dict[str, Any]:
        # Half precision is a GPU's, which has nothing to do with the CPU's ceilings.
        whole = precision_of(name) == "fp32"
        gflops = operations / timing.spread.median / 1e9
        return {"operations": operations, **(shares(limits, gflops) if whole else {})}

    return [
        taken.row("frame", case_of(inputs, threads, name), name, origin, partial(figures, name))
        for name in names
    ]


def measure(runs: Sequence[Run], rounds: int, told: Callable[[str], object]) -> Taken:
    """Start a process for each run, pass the gate, and take their times by turns."""

    def start(run: Run) -> Child:
        started = child(run.inputs, run.name, run.threads)
        started.settings += f"; rounds of at least {BURST} s"
        return started

    starts = {run.key: partial(start, run) for run in runs}
    return take(starts, rounds, pause=PAUSE, told=told)


def child(inputs: Inputs, name: str, threads: int) -> Child:
    """A process with a subject, ready and through the gate; raises as `Child`."""
    native = inputs.engine if name == "native" else None
    model: Path = native or inputs.model
    return Child(
        partial(SUBJECTS[name], model, inputs.labels, threads),
        inputs.expected,
        LIMITS[precision_of(name)],
        inputs.against,
        weights=native,
        environment={**ceilings.environment_of(threads), **ENVIRONMENT},
        burst=BURST,
    )


def shares(limits: Ceilings, gflops: float) -> dict[str, Any]:
    """The fields of a row that say how near it comes to the measured ceilings."""
    return {
        "ceilings": {**limits.products, "copy": limits.copy},
        "shares": {"effective": gflops / limits.product},
    }
