"""Subjects in child processes: timed, watched, and when they fail, named."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import subjects
from crn_fast.errors import CheckFailed, Unavailable
from crn_fast.measure import pairs
from crn_fast.measure.child import Child
from crn_fast.measure.gate import Subject
from subjects import ORACLE, sleeper


@pytest.fixture
def expected(tmp_path: Path) -> Path:
    np.save(tmp_path / "oracle.npy", ORACLE)
    return tmp_path / "oracle.npy"


def test_the_clock_is_around_the_run_alone(expected: Path) -> None:
    make = partial(sleeper, 0.5, 0.02)
    with Child(make, expected, 1.0, "float64", environment={"CRN_TEST": "1"}) as child:
        assert (child.name, child.settings) == ("sleeper", "CRN_TEST is 1")
        assert child.passed.error.largest == pytest.approx(0.5)
        timing = pairs.interleave([child], rounds=3, warmup=0).timings["sleeper"]
        assert all(seconds >= 0.02 for seconds in timing.seconds)
        if sys.platform == "linux":
            assert child.memory["run"].peak > child.memory["run"].private > 1 << 20


def test_a_wrong_one_is_refused(expected: Path) -> None:
    with pytest.raises(CheckFailed, match="no time is taken"):
        Child(partial(sleeper, 1.5), expected, 1.0, "float64")


@pytest.mark.parametrize(
    ("make", "said"),
    [(subjects.broken, "ValueError: no such"), (subjects.killed, r"ended \(signal 9")],
)
def test_one_that_cannot_be_made_says_why(
    make: Callable[[], Subject], said: str, expected: Path
) -> None:
    with pytest.raises(Unavailable, match=said):
        Child(make, expected, 1.0, "float64")


def test_one_that_hangs_is_ended(expected: Path) -> None:
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        Child(partial(sleeper, 0.0, 60.0), expected, 1.0, "float64", patience=1.0)


def test_one_that_turns_wrong_when_timed_has_no_time(expected: Path) -> None:
    with Child(subjects.turning, expected, 1.0, "float64") as child:
        found = pairs.interleave([child], rounds=2, warmup=0)
    assert found.timings == {}
    assert "no time is taken" in found.failures["turning"]
