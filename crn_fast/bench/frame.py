"""Suite `frame`: a whole picture, ours and the peers by turns, each in a process of its own.

From labels in memory to a picture in memory. A round of a subject that is quick is the mean of as
many runs as fill `BURST`. Each process also says what memory it took.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from crn_fast.backends import sees_gpu
from crn_fast.bench.gpu_peers import GPU
from crn_fast.bench.inputs import Inputs
from crn_fast.bench.ours import OURS, REFERENCE
from crn_fast.bench.peers import CPU, Peer
from crn_fast.errors import CheckFailed, CrnError
from crn_fast.measure import ceilings, pairs, rows
from crn_fast.measure.ceilings import Ceilings
from crn_fast.measure.child import Child
from crn_fast.measure.machine import Contention
from crn_fast.measure.memory import Memory
from crn_fast.measure.pairs import Rounds
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Spread

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


class Taken(NamedTuple):
    rounds: Rounds
    """By the runs' keys."""
    memory: Mapping[str, Mapping[str, Memory]]
    contention: float | None


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
    found = []
    operations = inputs.spec.flops() * inputs.batch
    for run in runs:
        case = case_of(inputs, threads, run.name)
        row = row_of("frame", run, case, taken, origin)
        if row is None:
            timing = taken.rounds.timings[run.key]
            row = rows.measured(
                *("frame", case, timing, origin),
                operations=operations,
                ratios=ratios(taken, run.key),
                memory=taken.memory[run.key],
                contention=taken.contention,
                # Half precision is a GPU's, which has nothing to do with the CPU's ceilings.
                **(
                    shares(limits, operations / timing.spread.median / 1e9)
                    if case["precision"] == "fp32"
                    else {}
                ),
            )
        found.append(row)
    return found


def measure(runs: Sequence[Run], rounds: int, told: Callable[[str], object]) -> Taken:
    """Start a process for each run, pass the gate, and take their times by turns."""
    failures: dict[str, str] = {}
    wrong: set[str] = set()
    with ExitStack() as stack:
        children = []
        for run in runs:
            told(f"{run.key}: loading, and through the gate")
            try:
                started = stack.enter_context(child(run.inputs, run.name, run.threads))
            except CrnError as error:
                failures[run.key] = str(error)
                if isinstance(error, CheckFailed):
                    wrong.add(run.key)
                continue
            started.name = run.key
            started.settings += f"; rounds of at least {BURST} s"
            children.append(started)
        contention = Contention()
        taken = pairs.interleave(children, rounds, 0, PAUSE, told)
        waited = contention.share()
        memory = {each.name: each.memory for each in children}
    all_failures = {**failures, **taken.failures}
    return Taken(Rounds(taken.timings, all_failures, taken.wrong | wrong), memory, waited)


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


def row_of(suite: str, run: Run, case: rows.Case, taken: Taken, origin: Origin) -> Row | None:
    """The row of a run that came to nothing; None of one that has a time."""
    reason, wrong = taken.rounds.failures.get(run.key), run.key in taken.rounds.wrong
    return Row(suite, case, run.name, "", origin, reason=reason, wrong=wrong) if reason else None


def ratios(taken: Taken, key: str) -> dict[str, Spread]:
    """What every other run took, in terms of this one's time."""
    timings = taken.rounds.timings
    return {o: pairs.ratio(peer, timings[key]) for o, peer in timings.items() if o != key}


def shares(limits: Ceilings, gflops: float) -> dict[str, Any]:
    """The fields of a row that say how near it comes to the measured ceilings."""
    return {
        "ceilings": {**limits.products, "copy": limits.copy},
        "shares": {"effective": gflops / limits.product},
    }
