"""Tuning: which tiles are tried, and which one is taken by a clock that is told what to say."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from ops.gpu_ops import DEVICE

# isort: split

import numpy as np
import torch

from crn_fast.fused import packed, tune
from crn_fast.fused.tune import Bench, Trial, candidates, fastest_tile, shapes_of
from crn_fast.kernels.gpu.tuning import SHARED_MEMORY, Shape, Tile, choose, shared_bytes
from crn_fast.spec import PRESETS

SHAPE = Shape("fp16", 128, 256, 512, 20, 256, "align_corners")


@pytest.mark.parametrize("arch", SHARED_MEMORY)
@pytest.mark.parametrize("precision", ["fp16", "fp32", "fp8"])
def test_candidates_are_within_the_limits(arch: int, precision: str) -> None:
    spec = PRESETS["1024p"]
    for shape in shapes_of(spec, packed.blank(spec, precision), arch, precision):
        tiles = candidates(shape, arch)
        assert tiles[0] == choose(shape, arch)
        assert 2 <= len(tiles) == len(set(tiles)) <= 40
        for tile in tiles[1:]:
            assert shared_bytes(tile, shape.precision) <= SHARED_MEMORY[arch]
            # The fold's neighbours aside, sums of a thread stay where kernels do not spill.
            assert tile.rows * tile.wide * tile.outputs // (32 * tile.warps) <= 128
    assert candidates(SHAPE, arch) == candidates(SHAPE, arch)


class Lab:
    """Trials whose results and times are as told, by the number of the tile."""

    def __init__(self, tiles: list[Tile], seconds: list[float]) -> None:
        self.tiles, self.seconds = tiles, seconds
        self.results = [np.linspace(-1, 1, 100)] * len(tiles)
        self.calls = [0] * len(tiles)

    def __call__(self, tile: Tile) -> Trial:
        i = self.tiles.index(tile)
        if self.seconds[i] < 0:
            raise RuntimeError("out of resource: shared memory")

        def seconds() -> float:
            self.calls[i] += 1
            return self.seconds[i] + (100 if self.calls[i] in (1, 4) else 0)  # outliers

        return Trial(self.results[i], seconds)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ([3.0, 2.0, 1.0], 2),
        ([1.0, 2.0, 3.0], 0),
        ([2.0, 1.99, 3.0], 0),  # not clearly faster than the rule's
        ([3.0, -1.0, 2.0], 2),  # one that does not compile
    ],
)
def test_the_clock_decides(seconds: list[float], expected: int) -> None:
    tiles = candidates(SHAPE, 90)[:3]
    lab = Lab(tiles, seconds)
    assert fastest_tile(SHAPE, tiles, lab) == tiles[expected]
    assert lab.calls[0] == tune.ROUNDS + 1


@pytest.mark.parametrize(
    "spoil", [lambda r: 0 * r, lambda r: np.roll(r, 1), lambda r: r * np.nan, lambda r: r[:50]]
)
def test_a_wrong_result_never_wins(spoil: Callable[[np.ndarray], np.ndarray]) -> None:
    tiles = candidates(SHAPE, 90)[:2]
    lab = Lab(tiles, [3.0, 1.0])
    lab.results[1] = spoil(lab.results[1])
    assert fastest_tile(SHAPE, tiles, lab) == tiles[0]


@pytest.mark.parametrize(
    ("shape", "ids"),
    [
        (Shape("fp32", 4, 6, 16, 12, 16, "half_pixel"), True),
        (Shape("fp16", 4, 6, 0, 12, 16, "none"), False),
        (Shape("fp16", 4, 6, 16, 0, 16, "none"), False),
    ],
)
def test_trials_of_every_kind_of_convolution(shape: Shape, ids: bool) -> None:
    """All forms give one result, to rounding, in the interpreter."""
    ran: list[int] = []

    def timed(run: Callable[[int], object]) -> Callable[[], float]:
        def seconds() -> float:
            ran.append(1)
            return 1.0

        return seconds

    bench = Bench(shape, torch.device(DEVICE), timed, ids)
    rule = choose(shape, 80)
    tiles = [rule]
    if shape.inputs:
        tiles.append(tune.on_load_tile(rule))
    if shape.upsampling == "half_pixel":
        tiles.append(Tile("fold", 8, 8, 64, 16, 4, 2))
    found = [bench(tile).result for tile in tiles]
    assert found[0].std() > 0.1
    for other in found[1:]:
        assert np.abs(other - found[0]).max() < tune.TOLERANCE * found[0].std()
    assert fastest_tile(shape, tiles, bench, rounds=1) == rule and ran


@pytest.mark.gpu
def test_tuning_on_a_gpu() -> None:
    arch = 10 * torch.cuda.get_device_capability()[0] + torch.cuda.get_device_capability()[1]
    shape = Shape("fp16", 64, 128, 256, 0, 128, "none")
    tiles = candidates(shape, arch)[:4]
    bench = Bench(shape, torch.device("cuda", 0), tune.on_gpu)
    assert fastest_tile(shape, tiles, bench) in tiles
    assert bench(tiles[0]).seconds() > 0
