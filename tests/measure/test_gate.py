"""The gate: what is wrong has no time, whatever way it is wrong; and the ruler itself."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest

from crn_fast.errors import CheckFailed
from crn_fast.measure import gate
from crn_fast.measure.gate import Checked, Passed, Subject

ORACLE = np.random.default_rng(0).uniform(-20, 275, (1, 2, 5, 7, 3))
"""RGB before rounding: some of it outside of 0..255."""
ROUNDED = (ORACLE.clip(0, 255) + 0.5).astype(np.uint8)


def one_wrong(array: np.ndarray, by: float) -> np.ndarray:
    wrong = array.copy()
    wrong.flat[11] += np.array(by).astype(array.dtype)
    return wrong


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros_like(ORACLE),
        np.roll(ORACLE, 1, axis=3),
        one_wrong(ORACLE, 1.01),
        one_wrong(ORACLE, math.nan),
        one_wrong(ORACLE, math.inf),
        np.full_like(ORACLE, math.nan),
        ORACLE[..., :2],
        np.zeros_like(ROUNDED),
        one_wrong(ROUNDED, 2),
        np.roll(ROUNDED, 1, axis=3),
    ],
)
def test_what_is_wrong_has_no_time(wrong: np.ndarray) -> None:
    with pytest.raises(CheckFailed, match="no time is taken"):
        Passed("peer", wrong, ORACLE, 1.0, "float64")
    with pytest.raises(CheckFailed, match="no time is taken"):
        Checked(Subject("peer", lambda: wrong), ORACLE, 1.0, "float64")


def test_a_wrong_rounding_beside_right_values_has_no_time() -> None:
    wrong = one_wrong(ROUNDED, 2)
    with pytest.raises(CheckFailed):
        Checked(Subject("peer", lambda: wrong, exact=lambda: ORACLE), ORACLE, 1.0, "float64")


def test_what_turns_wrong_when_it_is_timed_is_found() -> None:
    results = iter([ORACLE, np.zeros_like(ORACLE)])
    checked = Checked(Subject("peer", lambda: next(results)), ORACLE, 1.0, "float64")
    checked.seconds()
    with pytest.raises(CheckFailed):
        checked.confirm()


def test_an_oracle_that_says_nothing_passes_nothing() -> None:
    flat = np.full((3, 4), 7.0)
    with pytest.raises(CheckFailed, match="would pass anything"):
        Passed("peer", flat, flat, 0.1, "float64")
    with pytest.raises(CheckFailed, match="would pass anything"):
        Passed("peer", np.zeros_like(ORACLE), ORACLE, 300.0, "float64")


def test_rounding_is_no_error() -> None:
    passed = Passed("ours", ROUNDED, ORACLE, 1e-3, "float64")
    assert 0.4 < passed.error.largest <= 0.5


def test_measures_of_the_error_against_their_formulas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "CHUNK", 7)  # several chunks, the last of them short
    found = (ORACLE + np.random.default_rng(1).normal(0, 0.1, ORACLE.shape)).astype(np.float32)
    error = Passed("ours", found, ORACLE, 1.0, "float64").error
    difference = found.astype(np.float64) - ORACLE
    squares = (difference**2).mean()
    assert error.largest == pytest.approx(np.abs(difference).max())
    assert error.relative == pytest.approx(math.sqrt(squares) / ORACLE.std())
    assert error.psnr == pytest.approx(10 * math.log10(255**2 / squares))
    assert error.against == "float64"


def test_no_psnr_where_there_is_none() -> None:
    assert Passed("ours", ORACLE, ORACLE, 1.0, "float64").error.psnr is None
    assert Passed("ours", ORACLE + 0.1, ORACLE, 1.0, "float64", pictures=False).error.psnr is None


def test_the_values_before_rounding_give_the_error() -> None:
    subject = Subject("ours", lambda: ROUNDED, exact=lambda: ORACLE + 0.25)
    checked = Checked(subject, ORACLE, 1.0, "float64")
    assert checked.passed.error.largest == pytest.approx(0.25)


def test_fetching_is_off_the_clock() -> None:
    now = [0.0]

    def run() -> str:
        now[0] += 2.0
        return "result"

    def fetch(result: str) -> np.ndarray:
        now[0] += 100.0
        return ORACLE

    subject = Subject("ours", run, fetch=fetch)
    checked = Checked(subject, ORACLE, 1.0, "float64", clock=lambda: now[0])
    assert checked.seconds() == 2.0


def test_a_proof_travels_between_processes() -> None:
    passed = Passed("ours", ORACLE, ORACLE + 0.1, 1.0, "float64")
    assert pickle.loads(pickle.dumps(passed)).error == passed.error
