"""Has it become slower? Ratios to peers beside those of a run before, never absolute times.

A ratio is the peer's time in terms of ours, both taken in the same run, so it holds on another
machine as far as anything does; a time does not. Ratios of the same case, subject and peer are
compared: network, size, batch, threads, precision.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from crn_fast.bench.ours import OURS
from crn_fast.errors import CheckFailed, Mismatch
from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread

Key = tuple[str, str, str, str]
"""Suite, case, subject, peer."""


ROUNDS = 3
"""At least, of what is compared."""


class Pair(NamedTuple):
    """A ratio in two runs."""

    suite: str
    case: str
    subject: str
    peer: str
    before: Spread
    now: Spread

    @property
    def change(self) -> float:
        """-0.1: ours has become a tenth slower beside this peer."""
        return self.now.median / self.before.median - 1

    @property
    def noisy(self) -> bool:
        return self.before.noisy or self.now.noisy

    def worse(self, allowed: float) -> bool:
        """Whether ours is slower by more than allowed, and the two runs' spreads lie apart.

        Of fewer than ROUNDS there is no spread to speak of.
        """
        enough = min(self.before.n, self.now.n) >= ROUNDS
        return enough and self.change < -allowed and self.now.p90 < self.before.p10

    def __str__(self) -> str:
        figures = (f"{s.median:.3g} ({s.p10:.3g} to {s.p90:.3g})" for s in (self.before, self.now))
        before, now = figures
        return (
            f"{self.suite} {self.case}: {self.peer}'s time is {now} of {self.subject}'s, was "
            f"{before}: {self.change:+.1%}"
        )


def pairs(now: Iterable[Row], before: Iterable[Row], *, every: bool = False) -> list[Pair]:
    """The ratios of ours to peers that both runs have; the last of each counts.

    `every`: also those among ours and among peers.
    """
    old, new = _ratios(before, every), _ratios(now, every)
    return [Pair(*key, old[key], spread) for key, spread in new.items() if key in old]


def check(
    now: Sequence[Row],
    before: Sequence[Row],
    allowed: float,
    source: str,
    complete: bool = False,
) -> list[Pair]:
    """Compare a run with a baseline.

    Args:
        now: rows of this run.
        before: of the baseline.
        allowed: share by which a ratio may fall, as in 0.05.
        source: the baseline, for messages.
        complete: this run was to have every backend that can run here.

    Returns:
        what was compared.

    Raises:
        Mismatch: nothing can be compared; both sides are named.
        CheckFailed: a ratio has fallen further, beyond the spread of both runs; the worst is named.
            Or a complete run lacks a backend of ours that the baseline has.
    """
    found = pairs(now, before)
    if not found:
        raise Mismatch(
            f"{source}: holds no ratio that this run has: it has {_named(_ratios(before))}; this "
            f"run has {_named(_ratios(now))}: take a baseline of the same case with --json"
        )
    timed = {row.subject for row in now if row.time}
    ours = {row.subject for row in before if row.ratios and row.subject in OURS}
    if complete and (lost := sorted(ours - timed)):
        raise CheckFailed(f"{source}: has times of {', '.join(lost)}, and this run has none")
    if worse := sorted((p for p in found if p.worse(allowed)), key=lambda pair: pair.change):
        more = f" (and {len(worse) - 1} more)" if len(worse) > 1 else ""
        raise CheckFailed(f"{worse[0]}; allowed is {-allowed:.1%}{more}")
    return found


def _ratios(found: Iterable[Row], every: bool = False) -> dict[Key, Spread]:
    return {
        (row.suite, describe(row), row.subject, peer): spread
        for row in found
        for peer, spread in row.ratios.items()
        if every or (row.subject in OURS and peer not in OURS)
    }


def describe(row: Row) -> str:
    """A row's case, for people: 'street-256 256x512, batch 1, 2 threads, fp32'."""
    case = dict(row.case)
    network, height, width = (case.pop(name, "?") for name in ("network", "height", "width"))
    batch, threads = case.pop("batch", 1), case.pop("threads", "?")
    precision = case.pop("precision", "?")
    more = "".join(f", {name} {value}" for name, value in sorted(case.items()))
    return f"{network} {height}x{width}, batch {batch}, {threads} threads, {precision}{more}"


def _named(ratios: dict[Key, Spread]) -> str:
    cases = dict.fromkeys(f"{suite} {case} ({s} to {p})" for suite, case, s, p in ratios)
    return "; ".join([*cases][:3]) + (f" and {len(cases) - 3} more" if len(cases) > 3 else "") or (
        "none"
    )
