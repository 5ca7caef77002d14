"""Which tile a convolution is worked out in: a rule, or a measurement.

F(4x4) and F(6x6) multiply less than the direct convolution, but read weights four and seven times
as large. The rule was drawn from measurements on one kind of machine (docs/native.md); a CPU with
other caches may have its limits elsewhere.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import TILES, pack_convolution, padded

DIRECT_PIXELS = 128
"""Up to this size a stage is bound by reading its weights, of which F(4x4) has four times more."""
LARGE_PIXELS = 64 * 128
"""From this size on, F(6x6) gains more than reading its weights costs, 1.8 times as many."""
DIRECT_LIMIT, LARGE_LIMIT = 32 * 64, 16 * 32
"""Beyond these sizes the direct convolution, and below them F(6x6), are not worth a trial."""
ROUNDS = 5
GAIN = 0.97
"""A tile must take at most this share of the rule's tile's time to be preferred to it."""


class Shape(NamedTuple):
    """A convolution as `refine` or `conv` meets it."""

    height: int
    """of the output, pixels"""
    width: int
    features: int
    classes: int
    """of the layout; 0 for `conv`"""
    outputs: int
    ids: bool
    """whether the layout comes as ids"""


def default_tile(height: int, width: int) -> int:
    """The rule: side of the tiles for a stage of that size."""
    pixels = height * width
    return 1 if pixels <= DIRECT_PIXELS else 4 if pixels < LARGE_PIXELS else 6


def candidates(height: int, width: int) -> list[int]:
    """The sides that may be the fastest at that size."""
    pixels = height * width
    ruled_out = {1} if pixels > DIRECT_LIMIT else {6} if pixels < LARGE_LIMIT else set()
    return [tile for tile in TILES if tile not in ruled_out]


def fastest_tile(
    shape: Shape,
    threads: int = 0,
    isa: str = "",
    clock: Callable[[], float] = time.perf_counter,
) -> int:
    """Time a convolution of made-up values in each tile, by turns: side of the fastest.

    The rule's tile wins unless another is clearly faster.

    Args:
        shape: the convolution's.
        threads: as for the ops.
        isa: as for the ops.
        clock: seconds.
    """
    tiles = candidates(shape.height, shape.width)
    trials = {tile: _trial(shape, tile, threads, isa) for tile in tiles}
    seconds: dict[int, list[float]] = {tile: [] for tile in tiles}
    for _ in range(ROUNDS + 1):
        for tile, run in trials.items():
            start = clock()
            run()
            seconds[tile].append(clock() - start)
    medians = {tile: statistics.median(times[1:]) for tile, times in seconds.items()}
    default = default_tile(shape.height, shape.width)
    best = min(medians, key=lambda tile: medians[tile])
    return best if medians[best] <= GAIN * medians[default] else default


def _trial(shape: Shape, tile: int, threads: int, isa: str) -> Callable[[], object]:
    rng = np.random.default_rng(0)
    height, width, features, classes, outputs, ids = shape

    def uniform(*sides: int) -> np.ndarray:
        return rng.random(sides, np.float32) - np.float32(0.5)

    weights = SimpleNamespace(
        weight=pack_convolution(uniform(outputs, features + classes, 3, 3), features, tile, ids),
        gamma=np.ones(outputs, np.float32),
        beta=np.zeros(outputs, np.float32),
    )
    out = np.zeros(height * width * padded(outputs), np.float32)
    source = None
    if features:
        half = 2 if classes else 1
        pending = np.ones((1, padded(features)), np.float32)
        raw = uniform(1, height // half, width // half, padded(features))
        source = cpu.Features(raw, pending, 0 * pending)
    if not classes:
        assert source  # only a stage's first convolution may be without features
        return lambda: cpu.conv(source, weights, threads, isa, out)
    layout = np.zeros((1, height, width), np.uint8) if ids else uniform(1, classes, height, width)
    return lambda: cpu.refine(source, layout, weights, "align_corners", threads, isa, out)
