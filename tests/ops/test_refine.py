"""The C++ refine against the reference in float64, on every path that this CPU has."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the reference ops need torch")

import torch

from crn_fast.kernels import cpu, reference
from crn_fast.kernels.cpu.packing import TILES
from ops.native_ops import ISAS, Made, assert_features, assert_same_bits, poisoned_memory

UPSAMPLING = ["align_corners", "half_pixel"]


def compare(
    made: Made,
    n: int,
    channels: tuple[int, int, int],
    size: tuple[int, int],
    ids: bool,
    upsampling: str,
    tile: int,
    isa: str,
    threads: int = 2,
) -> None:
    """`channels`: features (0 for none), classes, outputs. `size`: of the features, or the layout
    where there are none.
    """
    inputs, classes, outputs = channels
    height, width = (2 * size[0], 2 * size[1]) if inputs else size
    features, plain = made.features(n, inputs, *size) if inputs else (None, None)
    layout = (made.ids if ids else made.soft)(n, classes, height, width)
    packed, weights = made.weights(inputs, classes, outputs, tile, ids)
    with poisoned_memory() as asked:
        found = cpu.refine(features, layout, packed, upsampling, threads, isa)
    assert asked == [array.shape for array in found], "the memory was not all poisoned"
    tensor = torch.from_numpy(layout) if ids else torch.from_numpy(layout).double()
    assert_features(found, reference.refine(plain, tensor, weights, upsampling), tile)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("upsampling", UPSAMPLING)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(
    ("n", "channels", "size"),
    [
        (1, (5, 3, 7), (1, 1)),
        (2, (7, 5, 9), (5, 3)),
        (1, (33, 20, 40), (7, 9)),
        (1, (16, 1, 65), (1, 11)),
        (2, (0, 6, 5), (6, 7)),
        (1, (3, 255, 4), (4, 3)),
    ],
)
def test_matches_the_reference(
    n: int,
    channels: tuple[int, int, int],
    size: tuple[int, int],
    ids: bool,
    upsampling: str,
    tile: int,
    isa: str,
) -> None:
    compare(Made(), n, channels, size, ids, upsampling, tile, isa)


@settings(deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(0, 40), st.integers(1, 255), st.integers(1, 40)),
    size=st.tuples(st.integers(1, 14), st.integers(1, 14)),
    ids=st.booleans(),
    upsampling=st.sampled_from(UPSAMPLING),
    tile=st.sampled_from(TILES),
    isa=st.sampled_from(ISAS or [""]),
    threads=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_matches_the_reference_anywhere(
    n: int,
    channels: tuple[int, int, int],
    size: tuple[int, int],
    ids: bool,
    upsampling: str,
    tile: int,
    isa: str,
    threads: int,
    seed: int,
) -> None:
    if channels[0] == 0:
        size = (size[0] + 1, size[1] + 1)
    # Two outputs at least, and never a constant: no oracle judges those.
    channels = (channels[0], channels[1], channels[2] + 1)
    compare(Made(seed), n, channels, size, ids, upsampling, tile, isa, threads)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("ids", [False, True])
def test_the_same_bits_for_any_number_of_threads(ids: bool, isa: str) -> None:
    made = Made()
    features, _ = made.features(2, 64, 40, 33)
    layout = (made.ids if ids else made.soft)(2, 20, 80, 66)
    packed, _ = made.weights(64, 20, 48, 4, ids)
    one = cpu.refine(features, layout, packed, "align_corners", 1, isa)
    for threads in (1, 2, 3, 64):
        again = cpu.refine(features, layout, packed, "align_corners", threads, isa)
        assert_same_bits(again, one)


def test_inputs_are_left_alone_and_may_be_read_only() -> None:
    made = Made()
    features, _ = made.features(1, 8, 3, 4)
    layout = made.ids(1, 5, 6, 8)
    packed, _ = made.weights(8, 5, 6, 4, True)
    arrays = [*features, layout, *packed.weight, packed.gamma, packed.beta]
    before = [array.copy() for array in arrays]
    for array in arrays:
        array.flags.writeable = False
    cpu.refine(features, layout, packed, "half_pixel")
    for array, kept in zip(arrays, before, strict=True):
        np.testing.assert_array_equal(array, kept)


GOOD, _ = Made().features(2, 16, 3, 4)
IDS = Made().ids(2, 5, 6, 8)
SOFT = Made().soft(2, 5, 6, 8)
PACKED, _ = Made().weights(16, 5, 20, 4)
PACKED_FOR_IDS, _ = Made().weights(16, 5, 20, 4, ids=True)


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        (SOFT[:, :, :, :7].copy(), r"\(2, 5, 6, 7\); expected .* = \[2, any, 6, 8\]"),
        (SOFT[:1], r"\(1, 5, 6, 8\); expected"),
        (SOFT[:, :4].copy(), r"weight has shape .* = \[2, any, 20, 16\]"),
        (SOFT[0], r"layout has shape \(5, 6, 8\); expected \[N, classes, H, W\]"),
        (SOFT.astype(np.float64), "layout has dtype float64; expected float32"),
        (SOFT.transpose(0, 1, 3, 2)[:, :, :6], "layout"),
        (None, "layout is a <class 'NoneType'>; expected a numpy array"),
        (IDS, "table is a <class 'NoneType'>; expected a numpy array"),
    ],
)
def test_wrong_soft_layouts_are_refused(layout: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"refine: .*{message}"):
        cpu.refine(GOOD, layout, PACKED, "align_corners")


def test_wrong_ids_are_refused() -> None:
    for bad, message in (
        (IDS[:, :5].copy(), r"layout has shape \(2, 5, 8\); expected \[N, H, W\] = \[2, 6, 8\]"),
        (IDS.transpose(0, 2, 1)[:, :6], "layout has shape"),
        (IDS[:, :, ::-1], "layout has a stride of -1 on axis 2; expected 1"),
    ):
        with pytest.raises(ValueError, match=f"refine: {message}"):
            cpu.refine(GOOD, bad, PACKED_FOR_IDS, "align_corners")
    bad = IDS.copy()
    bad[1, 5, 7] = 5
    with pytest.raises(ValueError, match=r"label 5 at \[1, 5, 7\].*ids below 5"):
        cpu.refine(GOOD, bad, PACKED_FOR_IDS, "align_corners")


def test_ids_that_change_after_their_check_are_not_looked_up() -> None:
    """Ids of no class are written while the op runs: refused, or those that were valid are used."""
    made = Made()
    packed, _ = made.weights(0, 3, 64, 6, True)
    ids = np.zeros((4, 256, 256), np.uint8)
    expected = cpu.refine(None, ids, packed, "align_corners", 2)
    writer = threading.Timer(0.005, ids.fill, (255,))
    writer.start()
    try:
        found = cpu.refine(None, ids, packed, "align_corners", 1)
    except ValueError as error:
        assert "label 255 at" in str(error)
    else:
        assert_same_bits(found, expected)
    writer.join()


def test_unknown_upsampling_is_refused() -> None:
    with pytest.raises(ValueError, match="upsampling is 'cubic'; expected align_corners or half"):
        cpu.refine(GOOD, SOFT, PACKED, "cubic")
