"""The meter: what counts as time, and that its figures are what they are called."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.training import speed  # noqa: E402
from crn_fast.training.speed import Meter, matmul_tflops  # noqa: E402


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """A clock that stands where the test puts it: its only element, in seconds."""
    now = [100.0]
    monkeypatch.setattr(speed.time, "perf_counter", lambda: now[0])
    return now


def test_figures_are_ratios_of_what_passed(clock: list[float]) -> None:
    meter = Meter(flops=2 * 10**12, peak_tflops=60.0)
    with meter.waiting():
        clock[0] += 1
    clock[0] += 3
    meter.images += 8
    with meter.paused():
        clock[0] += 50
    found = meter.read()
    assert found.images_per_second == 2
    assert found.data_wait == 0.25
    assert found.tflops == 12  # forward, and twice as much backward
    assert (found.peak_tflops, found.utilisation) == (60, 0.2)
    assert found.memory_gb > 0.01
    meter.images += 1
    clock[0] += 1
    assert (meter.read().images_per_second, meter.read().images_per_second) == (1, 0)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_matrix_product_reaches_something_and_draws_no_numbers(precision: str) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    assert 1e-5 < matmul_tflops("cpu", precision) < 1e4
    assert torch.equal(torch.get_rng_state(), before)
