"""How far a result may lie from its oracle: one ruler for every test.

The error is relative to the oracle's own spread, so that a zeroed, shifted or one-element-wrong
result fails whatever the values' scale. `test_tolerance.py` tests the ruler.
"""

from __future__ import annotations

from typing import Any

import numpy as np


def assert_close(found: Any, oracle: Any, relative: float) -> None:
    """Fail unless every element is within `relative` of the oracle's standard deviation.

    Args:
        found: array or tensor of any float dtype.
        oracle: array or tensor of the same shape, in float64.
        relative: largest allowed |found - oracle| / std(oracle); NaN and infinity never pass.
    """
    found, oracle = (
        np.asarray(x.detach().cpu() if hasattr(x, "detach") else x, dtype=np.float64)
        for x in (found, oracle)
    )
    assert found.shape == oracle.shape, f"shape {found.shape}, expected {oracle.shape}"
    scale = oracle.std()
    assert scale > 0, "the oracle is constant: it cannot judge anything"
    error = np.abs(found - oracle).max() / scale
    where = np.unravel_index(np.argmax(np.abs(found - oracle)), oracle.shape)
    assert error <= relative, f"error {error:.3g} of the spread at {where}; allowed {relative:.3g}"
