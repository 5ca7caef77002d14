"""The tile of a convolution: the rule's, or the one that takes least by the clock."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crn_fast.kernels import cpu
from crn_fast.kernels.cpu import tuning
from crn_fast.kernels.cpu.tuning import Shape, candidates, default_tile, fastest_tile

needs_native = pytest.mark.skipif(cpu.available() is not None, reason="needs the compiled module")


def test_the_rule() -> None:
    assert [default_tile(h, 2 * h) for h in (4, 8, 16, 32, 64, 128)] == [1, 1, 4, 4, 6, 6]
    for height in (1, 4, 8, 16, 32, 64, 1024):
        assert default_tile(height, 2 * height) in candidates(height, 2 * height)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], Callable[[], float]]:
    """A clock by which each tile takes as long as it is told, while nothing is computed."""
    now, running = [0.0], [0]

    def make(seconds: dict[int, float]) -> Callable[[], float]:
        def trial(shape: Shape, tile: int, threads: int, isa: str) -> Callable[[], None]:
            def run() -> None:
                running[0] += 1
                outlier = 100 if running[0] < 3 or running[0] == 7 else 0
                now[0] += seconds[tile] + outlier

            return run

        monkeypatch.setattr(tuning, "_trial", trial)
        return lambda: now[0]

    return make


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({1: 3, 4: 2, 6: 1}, 6),
        ({1: 1, 4: 2, 6: 3}, 1),
        ({1: 3, 4: 2, 6: 2.5}, 4),
        ({1: 3, 4: 2, 6: 1.99}, 4),  # not clearly faster than the rule's
    ],
)
def test_the_clock_decides(
    seconds: dict[int, float],
    expected: int,
    told: Callable[[dict[int, float]], Callable[[], float]],
) -> None:
    shape = Shape(16, 32, 8, 0, 8, False)
    assert candidates(16, 32) == [1, 4, 6]
    assert fastest_tile(shape, clock=told(seconds)) == expected


@needs_native
@pytest.mark.parametrize(
    "shape",
    [
        Shape(16, 32, 24, 5, 20, False),
        Shape(16, 32, 24, 5, 20, True),
        Shape(16, 32, 0, 5, 20, False),
        Shape(64, 130, 20, 0, 3, False),
    ],
)
def test_every_kind_of_convolution_is_timed(shape: Shape) -> None:
    assert fastest_tile(shape, threads=1) in candidates(shape.height, shape.width)
