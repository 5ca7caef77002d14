"""A campaign: one promise, tried with many cases, and what came of it.

`Campaigns` says how many cases a run tries and with which seed, and keeps an `Outcome` of each
campaign. A control is the same campaign against a subject with a planted defect: it must fail.
Nothing here knows what a case is.
"""

from __future__ import annotations

import json
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import numpy as np

from crn_fast.measure.machine import describe

SHOWN = 20
"""Failures of a campaign that are told in full."""


@dataclass
class Tally:
    """Counts of a campaign that runs."""

    cases: int = 0
    failures: list[str] = field(default_factory=list)
    figures: dict[str, str] = field(default_factory=dict)
    """What else it found, for people: {'refused': '1,310', 'slowest': '12 ms'}."""

    def case(self, wrong: str | None = None) -> None:
        """Count a case, and what was wrong with it."""
        self.cases += 1
        if wrong is not None:
            self.failures.append(wrong)


@dataclass(frozen=True)
class Outcome:
    """What came of a campaign."""

    promise: str
    """'P1' to 'P21'."""
    name: str
    """What was tried; with a control, the planted defect."""
    control: bool
    soak: bool
    cases: int
    failures: int
    """Of a control, how many cases noticed the defect."""
    seconds: float
    seed: int
    figures: dict[str, str]
    when: str
    """UTC, ISO 8601."""
    machine: str
    """Processor, and how many of its CPUs."""

    @property
    def key(self) -> tuple[str, bool, str]:
        return self.promise, self.control, self.name


class Campaigns:
    """The campaigns of one run of the tests: few cases of a fixed seed, or many of a fresh one."""

    def __init__(self, soak: bool, seed: int | None = None) -> None:
        self.soak = soak
        self.seed = seed if seed is not None else secrets.randbits(32) if soak else 0
        self.outcomes: list[Outcome] = []

    def count(self, commit: int, soak: int) -> int:
        """How many cases to try: `commit` with every commit, `soak` in the long run."""
        return soak if self.soak else commit

    def rng(self, stream: int = 0) -> np.random.Generator:
        """Random numbers of this run's seed; each `stream` is another."""
        return np.random.default_rng((self.seed, stream))

    @contextmanager
    def tried(self, promise: str, name: str) -> Iterator[Tally]:
        """A campaign, which passes if it tried something and no case failed."""
        with self._timed(promise, name, False) as tally:
            yield tally
        assert tally.cases, f"{promise}, {name}: no case was tried"
        assert not tally.failures, _explain(promise, name, self.seed, tally)

    @contextmanager
    def control(self, promise: str, defect: str, words: str = "") -> Iterator[Tally]:
        """A campaign against a planted `defect`, which passes if some case noticed it.

        `words`: a regular expression that the failures must match which count, where a case could
        fail for another reason than the defect.
        """
        with self._timed(promise, defect, True) as tally:
            yield tally
            found = tally.failures
            tally.failures = [failure for failure in found if re.search(words, failure)]
        assert tally.failures, (
            f"{promise}: {tally.cases} cases, none noticed: {defect}; found {found[:3]}"
        )

    @contextmanager
    def _timed(self, promise: str, name: str, control: bool) -> Iterator[Tally]:
        assert all(found.key != (promise, control, name) for found in self.outcomes), (
            f"{promise}: two campaigns are called {name!r}"
        )
        tally, start = Tally(), time.perf_counter()
        try:
            yield tally
        except BaseException as error:
            if not control:
                tally.failures.append(f"ended by {type(error).__name__}: {error}")
            raise
        finally:
            self.outcomes.append(
                Outcome(
                    promise=promise,
                    name=name,
                    control=control,
                    soak=self.soak,
                    cases=tally.cases,
                    failures=len(tally.failures),
                    seconds=round(time.perf_counter() - start, 2),
                    seed=self.seed,
                    figures=tally.figures,
                    when=datetime.now(UTC).isoformat(timespec="seconds"),
                    machine=_machine(),
                )
            )


@cache
def _machine() -> str:
    found = describe()
    return f"{found.cpus} CPUs of {found.cpu}"


def _explain(promise: str, name: str, seed: int, tally: Tally) -> str:
    shown = "\n".join(f"  {failure}" for failure in tally.failures[:SHOWN])
    return (
        f"{promise}, {name}: {len(tally.failures)} of {tally.cases} cases failed "
        f"(again with --seed {seed})\n{shown}"
    )


def read(path: Path) -> list[Outcome]:
    """The outcomes in a file of JSON lines; none if there is no file."""
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [Outcome(**json.loads(line)) for line in lines]


def merge(old: list[Outcome], new: list[Outcome]) -> list[Outcome]:
    """The newest outcome of each campaign, by promise; `old` ones are of an earlier run."""
    newest = {outcome.key: outcome for outcome in [*old, *new]}
    return sorted(newest.values(), key=lambda found: (int(found.promise[1:]), *found.key[1:]))


def lines(outcomes: list[Outcome]) -> str:
    """Outcomes as JSON lines."""
    return "".join(json.dumps(asdict(outcome)) + "\n" for outcome in outcomes)
