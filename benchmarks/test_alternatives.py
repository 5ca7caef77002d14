"""Suite `alternatives`: the generators a user would pick instead, at equal size, beside ours.

The case's network is the alternative's name; its weights are random, so only time and operations
mean anything.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import alternative_frames
import alternatives
from crn_fast.measure.rows import Row
from suites import Bench, told

QUICK: tuple[str, ...] = ()
ALL = ("street-256",)
OURS = ("native",)


@pytest.mark.parametrize("mode", alternative_frames.MODES)
@pytest.mark.parametrize("name", alternatives.NETWORKS)
def test_alternatives(
    name: str, mode: str, network: str, bench: Bench, show: Callable[[Row], None]
) -> None:
    def measure() -> list[Row]:
        names, rounds = [*alternatives.NETWORKS], bench.rounds(network, 3)
        ours = [bench.prepare(network)]
        return alternative_frames.measure(ours, names, bench.threads, rounds, bench.origin, told)

    found = bench.once(("alternatives", network), measure)
    show(next(row for row in found if row.subject == f"{name} {mode}"))
