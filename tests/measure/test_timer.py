"""Medians and percentiles against numpy, and a time that nobody may have."""

from __future__ import annotations

from typing import Any, cast

import numpy as np
import pytest

from crn_fast.measure.timer import Spread, Timing


@pytest.mark.parametrize("count", [1, 2, 3, 5, 10, 37])
def test_percentiles_are_numpys(count: int) -> None:
    values = np.random.default_rng(count).lognormal(size=count).tolist()
    spread = Spread.of(values)
    expected = np.percentile(values, [50, 10, 90])
    assert [spread.median, spread.p10, spread.p90] == pytest.approx(expected.tolist())
    assert spread.n == count


@pytest.mark.parametrize(
    ("values", "noisy"),
    [
        ([1.0, 1.0, 1.0], False),
        ([1.0, 1.01, 0.99, 1.0, 1.02], False),
        ([1.0, 1.3, 0.9], True),
        ([1.0, 1.0], True),
    ],
)
def test_noise_is_named(values: list[float], noisy: bool) -> None:
    assert Spread.of(values).noisy is noisy


def test_no_time_without_the_gates_proof() -> None:
    with pytest.raises(TypeError, match="Passed"):
        Timing("peer", "", cast(Any, True), [1.0])
