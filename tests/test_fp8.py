"""The stages and scales of fp8, which every backend that has it shares."""

from __future__ import annotations

import numpy as np
import pytest

import tiny
from crn_fast import fp8
from crn_fast.errors import UsageError
from crn_fast.spec import PRESETS


@pytest.mark.parametrize(("gamma", "beta"), [(1.0, 0.0), (0.1, 3.0), (40.0, -5.0), (0.0, 0.0)])
def test_the_quantum_leaves_room(gamma: float, beta: float) -> None:
    quantum = fp8.quantum(np.array([gamma, 0.0]), np.array([0.0, beta], np.float32))
    assert quantum.hex().startswith("0x1.0000000000000p")  # a power of two
    largest = gamma * fp8.HEADROOM + abs(beta)
    assert largest * quantum <= fp8.LARGEST
    assert largest * quantum > 223 or largest == 0


def test_the_rule_takes_most_of_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fp8.stages(tiny.SPEC) == set()
    assert fp8.stages(PRESETS["1024p"]) == {4, 5, 6, 7}
    monkeypatch.setenv(fp8.VARIABLE, " 1,2 ")
    assert fp8.stages(tiny.SPEC) == {1, 2}
    monkeypatch.setenv(fp8.VARIABLE, "1,7")
    with pytest.raises(UsageError, match="names stage '7'; expected indices from 0 to 2"):
        fp8.stages(tiny.SPEC)
