"""The ruler itself: what must not pass."""

import numpy as np
import pytest

from tolerance import assert_close

ORACLE = np.random.default_rng(0).normal(5.0, 2.0, (3, 7, 5))


def spoil(kind: str) -> np.ndarray:
    found = ORACLE.copy()
    if kind == "zeroed":
        found[:] = 0
    elif kind == "shifted":
        found = np.roll(found, 1, axis=-1)
    elif kind == "one element":
        found[1, 2, 3] += 0.01
    elif kind == "nan":
        found[0, 0, 0] = np.nan
    return found


@pytest.mark.parametrize("kind", ["zeroed", "shifted", "one element", "nan"])
def test_a_wrong_output_fails(kind: str) -> None:
    with pytest.raises(AssertionError):
        assert_close(spoil(kind), ORACLE, 1e-3)


def test_a_wrong_shape_fails() -> None:
    with pytest.raises(AssertionError, match="shape"):
        assert_close(ORACLE[:1], ORACLE, 1e-3)


def test_rounding_passes() -> None:
    assert_close(ORACLE.astype(np.float32), ORACLE, 1e-6)
