"""A measurement as a whole: what comes to nothing has a row, the others have times and ratios."""

from __future__ import annotations

import numpy as np
import pytest

from crn_fast.errors import Unavailable
from crn_fast.measure.gate import Checked, Subject
from crn_fast.measure.machine import describe
from crn_fast.measure.rows import Origin
from crn_fast.measure.turns import take

ORIGIN = Origin("2026-01-01 1", "pytest", describe(), {"python": "3"}, "abc")
EXPECTED = np.arange(12.0).reshape(1, 1, 2, 2, 3)


class Closing(Checked):
    """As a process of its own would be."""

    open = True

    def __enter__(self) -> Closing:
        return self

    def __exit__(self, *_: object) -> None:
        self.open = False


def subject(offset: float, later: float = 0.0) -> Subject:
    """One that is off by `offset`, and by `later` more after its first run."""
    runs = iter([EXPECTED + offset])
    return Subject("any name", lambda: next(runs, EXPECTED + offset + later), "settings")


def test_every_subject_has_a_row() -> None:
    closing = Closing(subject(0.2), EXPECTED, 0.5, "float64")

    def missing() -> Checked:
        raise Unavailable("it is not installed")

    starts = {
        "good": lambda: Checked(subject(0.1), EXPECTED, 0.5, "float64"),
        "missing": missing,
        "wrong": lambda: Checked(subject(3.0), EXPECTED, 0.5, "float64"),
        "later": lambda: Checked(subject(0.0, 3.0), EXPECTED, 0.5, "float64"),
        "other": lambda: closing,
    }
    taken = take(starts, 2)
    assert taken.keys == ["missing", "wrong", "later", "good", "other"]
    assert not closing.open
    found = {
        key: taken.row("suite", {"a": 1}, key, ORIGIN, lambda timing: {"operations": 1e9})
        for key in taken.keys
    }
    assert [row.subject for row in found.values()] == taken.keys
    assert found["missing"].reason == "it is not installed" and not found["missing"].wrong
    assert found["wrong"].wrong and found["later"].wrong
    assert all(found[key].time is None for key in ("missing", "wrong", "later"))
    for key, other in (("good", "other"), ("other", "good")):
        row = found[key]
        assert row.time is not None and row.gflops == pytest.approx(1 / row.time.median)
        assert row.ratios.keys() == {other} and row.contention == taken.contention
