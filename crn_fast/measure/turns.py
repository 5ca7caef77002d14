"""A whole measurement: subjects started behind the gate, timed by turns, and made rows.

What comes to nothing, at the gate or later, is a row with its reason beside the others' rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from typing import Any, NamedTuple

from crn_fast.errors import CheckFailed, CrnError
from crn_fast.measure import pairs, rows
from crn_fast.measure.machine import Contention
from crn_fast.measure.memory import Memory
from crn_fast.measure.pairs import Timed
from crn_fast.measure.rows import Case, Origin, Row
from crn_fast.measure.timer import Spread, Timing


class Taken(NamedTuple):
    """What was measured, by the keys that the subjects were started under."""

    timings: Mapping[str, Timing]
    failures: Mapping[str, str]
    """Of those without a timing: why."""
    wrong: frozenset[str]
    """Those of `failures` whose result was wrong."""
    memory: Mapping[str, Mapping[str, Memory]]
    contention: float | None

    @property
    def keys(self) -> list[str]:
        """All of them, what came to nothing first."""
        return [*self.failures, *self.timings]

    def ratios(self, key: str) -> dict[str, Spread]:
        """What every other one took, in terms of this one's time."""
        ours = self.timings[key]
        return {o: pairs.ratio(peer, ours) for o, peer in self.timings.items() if o != key}

    def row(
        self,
        suite: str,
        case: Case,
        key: str,
        origin: Origin,
        figures: Callable[[Timing], Mapping[str, Any]] = lambda timing: {},
    ) -> Row:
        """The row of one, measured or not; `figures` are fields of `rows.measured`, of its timing.

        Without them it has ratios to all others, memory and contention.
        """
        if key in self.failures:
            reason, wrong = self.failures[key], key in self.wrong
            return Row(suite, case, key, "", origin, reason=reason, wrong=wrong)
        timing, fields = self.timings[key], dict[str, Any]()
        fields |= {"memory": self.memory[key], "contention": self.contention}
        fields |= {"ratios": self.ratios(key), **figures(timing)}
        return rows.measured(suite, case, timing, origin, **fields)


def take(
    starts: Mapping[str, Callable[[], Timed]],
    rounds: int,
    *,
    warmup: int = 0,
    pause: float = 0.0,
    told: Callable[[str], object] = lambda message: None,
) -> Taken:
    """Start each subject, which takes it through the gate, then time all by turns.

    Args:
        starts: key -> makes a subject, in this process or in its own, that passed the gate.
        rounds: as of `pairs.interleave`, and so are the next.
        warmup: rounds before them.
        pause: seconds before each run.
        told: is given lines for people.
    """
    failures, wrong, subjects = dict[str, str](), set[str](), list[Timed]()
    with ExitStack() as stack:
        for key, start in starts.items():
            told(f"{key}: loading, and through the gate")
            try:
                subject = start()
            except CrnError as error:
                failures[key] = str(error)
                if isinstance(error, CheckFailed):
                    wrong.add(key)
                continue
            if isinstance(subject, AbstractContextManager):
                stack.enter_context(subject)
            subject.name = key
            subjects.append(subject)
        contention = Contention()
        taken = pairs.interleave(subjects, rounds, warmup, pause, told)
        waited = contention.share()
        memory = {each.name: dict(getattr(each, "memory", {})) for each in subjects}
    failures |= taken.failures
    return Taken(taken.timings, failures, taken.wrong | wrong, memory, waited)
