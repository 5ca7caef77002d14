"""The guard: ratios of the same case alone, and only what lies beyond both spreads."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from crn_fast.bench import guard
from crn_fast.errors import CheckFailed, Mismatch
from crn_fast.measure.gate import Error
from crn_fast.measure.machine import describe
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Spread

ORIGIN = Origin("2026-01-01 1", "crn-fast bench", describe(), {"python": "3"}, "abc")
CASE = {"network": "a", "height": 4, "width": 8, "batch": 1, "threads": 2, "precision": "fp32"}


def row(ratio: float, wide: float = 0.02, seconds: float = 1.0, **case: Any) -> Row:
    spread = Spread(ratio, ratio * (1 - wide), ratio * (1 + wide), 9)
    return Row(
        *("frame", {**CASE, **case}, "native", "", ORIGIN),
        time=Spread(seconds, seconds, seconds, 9),
        error=Error(0.1, 0.1, 60.0, "float64"),
        ratios={"eager": spread, "reference": spread},
    )


def test_a_fallen_ratio_is_caught_with_both_figures() -> None:
    with pytest.raises(CheckFailed, match=r"eager's time is 2\.7 .* was 3 .*: -10\.0%; allowed"):
        guard.check([row(2.7)], [row(3.0)], 0.05, "before.jsonl")


@pytest.mark.parametrize(
    ("now", "allowed"),
    [
        (row(2.9), 0.05),  # within what is allowed
        (row(2.7), 0.15),
        (row(2.7, wide=0.2), 0.05),  # within the spread
        (row(3.5), 0.05),  # faster
        (row(3.0, seconds=100.0), 0.05),  # absolute times mean nothing
    ],
)
def test_what_is_no_regression_passes(now: Row, allowed: float) -> None:
    (pair,) = guard.check([now], [row(3.0)], allowed, "before.jsonl")
    assert (pair.subject, pair.peer) == ("native", "eager")


@pytest.mark.parametrize(
    "case",
    [{"network": "b"}, {"height": 8}, {"batch": 2}, {"threads": 1}, {"precision": "fp16"}],
)
def test_nothing_to_compare_names_both_sides(case: dict[str, Any]) -> None:
    with pytest.raises(Mismatch) as caught:
        guard.check([row(3.0)], [row(3.0, **case)], 0.05, "before.jsonl")
    said = str(caught.value)
    assert guard.describe(row(1.0)) in said and guard.describe(row(1.0, **case)) in said


def test_two_rounds_say_nothing() -> None:
    few = dataclasses.replace(row(2.7), ratios={"eager": Spread(2.7, 2.7, 2.7, 2)})
    guard.check([few], [row(3.0)], 0.05, "before.jsonl")
    enough = dataclasses.replace(row(2.7), ratios={"eager": Spread(2.7, 2.7, 2.7, 3)})
    with pytest.raises(CheckFailed):
        guard.check([enough], [row(3.0)], 0.05, "before.jsonl")


def test_a_backend_that_runs_no_more_is_caught() -> None:
    now, before = [dataclasses.replace(row(3.0), subject="reference")], [row(3.0), row(3.0)]
    before[1] = dataclasses.replace(before[1], subject="reference")
    guard.check(now, before, 0.05, "before.jsonl")  # asked for alone
    with pytest.raises(CheckFailed, match="has times of native, and this run has none"):
        guard.check(now, before, 0.05, "before.jsonl", complete=True)


def test_an_empty_baseline_is_said() -> None:
    with pytest.raises(Mismatch, match="it has none"):
        guard.check([row(3.0)], [], 0.05, "before.jsonl")


def test_the_last_row_of_a_case_counts() -> None:
    (pair,) = guard.pairs([row(1.0), row(2.9)], [row(9.0), row(3.0)])
    assert (pair.before.median, pair.now.median) == (3.0, 2.9)
    assert not pair.noisy
