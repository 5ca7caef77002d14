"""The warp-specialised convolution: its own source, with stand-ins for Gluon's primitives.

It has never run on a GPU. Its machine code is looked at in test_gpu_ahead.
"""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import pytest

from ops.gpu_ops import (
    BOUNDS,
    DEVICE,
    Made,
    Poisoned,
    Tile,
    assert_features,
    conv,
    reference,
    refine,
)

# isort: split

import torch

pytest.importorskip("triton.experimental.gluon.language.nvidia.hopper")

from crn_fast.kernels.gpu import convolve_specialised
from crn_fast.kernels.gpu.convolve_specialised import (
    mbarrier,
    slot,
    warpgroup_mma,
    warpgroup_mma_wait,
)
from ops.gluon_stand_in import Deadlock, launch

if DEVICE == "cuda" and torch.cuda.get_device_capability() != (9, 0):
    pytest.skip("the kernel is for sm_90", allow_module_level=True)

TILE = Tile("apply", 8, 8, 32, depth=32, warps=4, stages=3, tma=True, specialised=True)
TILES = {
    "boxes": TILE,
    "rows": dataclasses.replace(TILE, rows=1, wide=64, outputs=16, stages=2),
    "large": dataclasses.replace(TILE, rows=8, wide=16, warps=8, outputs=64, depth=64, stages=4),
}
Functions = dict[str, Any]


class StandIn(Poisoned):
    """A queue whose Gluon kernels run through the stand-in, with fewer programs than tiles."""

    def __init__(self, seed: int = 0, replaced: Functions | None = None) -> None:
        super().__init__(DEVICE)
        self.seed, self.replaced, self.specialised = seed, replaced or {}, 0

    def launch(self, kernel: Any, grid: tuple[int, int, int], **arguments: Any) -> None:
        if kernel is not convolve_specialised.convolve_specialised or DEVICE != "cpu":
            super().launch(kernel, grid, **arguments)
            return
        self.specialised += 1
        warps = arguments.pop("num_warps")
        assert grid == (min(arguments["tiles"], 132), 1, 1)
        launch(kernel, min(grid[0], 2), warps, arguments, self.seed, **self.replaced)


def run(queue: StandIn, size: tuple[int, int, int, int, int], tile: Tile, classes: int = 0) -> None:
    n, inputs, outputs, height, width = size
    made = Made()
    dtype = torch.float16
    weights, oracle = made.weights(inputs, classes, outputs, dtype)
    if classes:
        features, plain = made.features(n, inputs, height // 2, width // 2, dtype)
        layout, soft = made.layout(n, classes, height, width, dtype)
        found = refine(queue, features, layout, weights, "half_pixel", tile)
        expected = reference.refine(plain, soft, oracle, "half_pixel")
    else:
        features, plain = made.features(n, inputs, height, width, dtype)
        found = conv(queue, features, weights, tile)
        expected = reference.conv(plain, oracle)
    assert_features(found, expected, BOUNDS[dtype], queue)
    assert queue.specialised == (DEVICE == "cpu")


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("size", [(1, 1, 3, 1, 1), (2, 20, 18, 5, 7), (1, 33, 9, 19, 9)])
def test_matches_the_reference(size: tuple[int, int, int, int, int], tile: str) -> None:
    run(StandIn(), size, TILES[tile])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(("size", "classes"), [((2, 20, 40, 4, 6), 5), ((1, 33, 9, 18, 10), 40)])
def test_adds_the_layout(size: tuple[int, int, int, int, int], classes: int, tile: str) -> None:
    run(StandIn(), size, TILES[tile], classes)


@pytest.mark.skipif(DEVICE != "cpu", reason="orders of events cannot be chosen on a GPU")
@pytest.mark.parametrize("stages", [1, 2, 3])
def test_any_order_of_events_gives_the_same(stages: int) -> None:
    """One buffer cannot work: a product is given back only when the next one was started."""
    for seed in range(4):
        queue = StandIn(seed)
        tile = dataclasses.replace(TILE, stages=stages)
        if stages == 1:
            with pytest.raises(Deadlock):
                run(queue, (1, 20, 18, 8, 18), tile, 5)
        else:
            run(queue, (1, 20, 18, 8, 18), tile, 5)


def early(acc, a, b, full, empty, stages, step, started):  # type: ignore[no-untyped-def]
    """As `multiply`, but calls the buffer empty of the product that was just started."""
    buffer, odd = slot(step, stages)
    mbarrier.wait(full.index(buffer), odd)
    acc = warpgroup_mma(a, b.permute((1, 0)), acc, is_async=True)
    mbarrier.arrive(empty.index(buffer), count=1)
    return warpgroup_mma_wait(num_outstanding=1, deps=(acc,))


WRONG: dict[str, Functions] = {
    "the phase never turns": {"slot": lambda step, stages: (step % stages, 0)},
    "the phase turns at every step": {"slot": lambda step, stages: (step % stages, step % 2)},
    "the ring is longer than it is": {"slot": lambda s, n: (s % n, s // (n + 1) % 2)},
    "buffers are given back too early": {"multiply": SimpleNamespace(fn=early)},
    "a store is not waited for": {"tma": SimpleNamespace(store_wait=lambda pendings: None)},
    "taps are shifted": {
        "depth_step": lambda i, steps, depth: ((i + 1) // steps, i % steps * depth)
    },
    "boxes overlap": {"box_corner": lambda box, width, rows, wide: (0, box)},
}


@pytest.mark.skipif(DEVICE != "cpu", reason="the kernel is broken in the stand-in alone")
@pytest.mark.parametrize("wrong", WRONG)
def test_a_broken_protocol_is_noticed(wrong: str) -> None:
    size = (1, 70, 18, 8, 18)
    run(StandIn(), size, TILE, 5)
    with pytest.raises((Deadlock, AssertionError)):
        run(StandIn(replaced=WRONG[wrong]), size, TILE, 5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"dtype": torch.float32}, "takes float16 or bfloat16, not torch.float32"),
        ({"ids": True}, "takes layouts as torch.float16, not torch.uint8"),
        ({"depth": 16}, "the depth is 32 or more"),
        ({"first": True}, "takes features"),
    ],
)
def test_what_it_does_not_take_is_refused(change: dict[str, Any], message: str) -> None:
    made = Made()
    dtype = change.get("dtype", torch.float16)
    features, _ = made.features(1, 20, 2, 3, dtype)
    weights, _ = made.weights(0 if "first" in change else 20, 40, 18, dtype)
    layout, _ = made.layout(1, 40, 4, 6, None if "ids" in change else dtype)
    tile = dataclasses.replace(TILE, depth=change.get("depth", 32))
    with pytest.raises(ValueError, match=message):
        refine(
            StandIn(), None if "first" in change else features, layout, weights, "half_pixel", tile
        )
