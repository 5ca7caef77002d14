"""Times of several subjects taken by turns, so that whatever slows the machine slows them all.

A ratio is taken within each round, of two runs a moment apart, and summed up over the rounds: it
stays true where the machine's speed drifts and absolute times do not. The order rotates, so that
nobody always runs after the same neighbour.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from crn_fast.errors import CheckFailed, CrnError
from crn_fast.measure.gate import Passed
from crn_fast.measure.timer import Spread, Timing


class Timed(Protocol):
    """A subject that passed the gate: `gate.Checked` in this process, `child.Child` in its own."""

    name: str
    settings: str
    passed: Passed

    def seconds(self) -> float:
        """Run once, and say how long it took."""

    def confirm(self) -> object:
        """Check the last result; CheckFailed if it is wrong."""


class Rounds(NamedTuple):
    timings: dict[str, Timing]
    failures: dict[str, str]
    """Of those that came to nothing on the way: why."""
    wrong: frozenset[str] = frozenset()
    """Those of `failures` whose last result was wrong."""


def interleave(
    subjects: Sequence[Timed],
    rounds: int,
    warmup: int = 1,
    pause: float = 0.0,
    told: Callable[[str], object] = lambda message: None,
) -> Rounds:
    """Time every subject once a round.

    Args:
        subjects: with different names.
        rounds: that count, at least 1.
        warmup: rounds before them that do not.
        pause: seconds of rest before each run, for threads that spin on after a library's work.
        told: is given a line after each round.

    Returns:
        A timing for each subject, or why there is none: it raised one of our errors, or its last
        result was wrong.
    """
    assert len({subject.name for subject in subjects}) == len(subjects) and rounds > 0
    taken: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    failures: dict[str, str] = {}
    wrong: set[str] = set()
    for turn in range(warmup + rounds):
        first = turn % len(subjects) if subjects else 0
        for subject in [*subjects[first:], *subjects[:first]]:
            if subject.name in failures:
                continue
            try:
                time.sleep(pause)
                seconds = subject.seconds()
                if turn == warmup + rounds - 1:
                    subject.confirm()
            except CrnError as error:
                failures[subject.name] = str(error)
                if isinstance(error, CheckFailed):
                    wrong.add(subject.name)
                continue
            if turn >= warmup:
                taken[subject.name].append(seconds)
        counted = {name: f"{s[-1]:.4g} s" for name, s in taken.items() if s}
        told(f"round {turn + 1 - warmup} of {rounds}: {counted}" if counted else "warm-up")
    timings = {
        subject.name: Timing(subject.name, subject.settings, subject.passed, taken[subject.name])
        for subject in subjects
        if subject.name not in failures
    }
    return Rounds(timings, failures, frozenset(wrong))


def ratio(peer: Timing, ours: Timing) -> Spread:
    """How many times longer the peer took, round by round; above 1, ours is faster."""
    return Spread.of([a / b for a, b in zip(peer.seconds, ours.seconds, strict=True)])
