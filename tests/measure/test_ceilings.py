"""The measured ceilings: numbers that a machine can have, of the threads that were asked for."""

from __future__ import annotations

import json

import pytest

from crn_fast.errors import Unavailable
from crn_fast.kernels import cpu
from crn_fast.measure import ceilings


def test_they_are_measured_in_a_process_of_its_own() -> None:
    found = ceilings.measure(1)
    assert found.threads == 1
    assert {"numpy"} <= found.products.keys() <= {"numpy", "torch", "native"}
    assert ("native" in found.products) == (cpu.available() is None)
    assert all(0.1 < value < 1e5 for value in [*found.products.values(), found.copy])
    assert found.product == max(found.products.values())


def test_a_process_that_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ceilings.sys, "executable", "/bin/false")
    with pytest.raises(Unavailable, match="ceilings"):
        ceilings.measure(1)


def test_every_library_is_told_the_number_of_threads() -> None:
    assert json.dumps(ceilings.environment_of(3)).count('_THREADS": "3"') == 4
