"""Packed weights are the transforms of Winograd's points, in their places, with zeros around."""

from __future__ import annotations

import numpy as np
import pytest

from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import TILES, pack_convolution

pytestmark = pytest.mark.skipif(cpu.available() is not None, reason="needs the compiled module")
POINTS = {4: (0, 1, -1, 2, -2), 6: (0, 1, -1, 2, -2, 0.5, -0.5)}


def transform(tile: int) -> np.ndarray:
    """G: powers of each point p, over the product of its distances to the others; then infinity.

    tile.h has the sign of the point 0 in F(6x6) with its inputs.
    """
    if tile == 1:
        return np.eye(3)
    rows = []
    for p in POINTS[tile]:
        distances = np.prod([p - q for q in POINTS[tile] if q != p])
        rows.append(np.array([1, p, p * p]) / (distances if p else abs(distances)))
    return np.stack([*rows, [0, 0, 1]])


@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize(
    ("outputs", "features", "classes"), [(16, 16, 4), (33, 19, 7), (3, 40, 1), (20, 0, 5)]
)
def test_packed_weights(tile: int, ids: bool, outputs: int, features: int, classes: int) -> None:
    weight = np.random.default_rng(0).normal(size=(outputs, features + classes, 3, 3))
    weight = weight.astype(np.float32)
    found = pack_convolution(weight, features, tile, ids).weight
    g = transform(tile)
    expected = np.zeros((-(-outputs // 16), len(g) ** 2, -(-features // 16) * 16 + classes, 16))
    for o in range(outputs):
        for i in range(features + classes):
            place = i if i < features else i - features + -(-features // 16) * 16
            kernel = g @ weight[o, i].astype(np.float64) @ g.T
            expected[o // 16, :, place, o % 16] = kernel.ravel()
    if ids:
        expected = expected[:, :, :-classes]
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7)
    assert found.dtype == np.float32


def test_any_number_of_threads_packs_the_same() -> None:
    weight = np.random.default_rng(1).normal(size=(70, 21, 3, 3)).astype(np.float32)
    one, several = (pack_convolution(weight, 18, 6, False, threads) for threads in (1, 5))
    np.testing.assert_array_equal(one.weight, several.weight)


def test_bad_arguments_are_refused() -> None:
    weight = np.zeros((16, 20, 3, 3), np.float32)
    with pytest.raises(ValueError, match="tile is 5; expected 1, 4 or 6"):
        pack_convolution(weight, 16, 5, False)
    with pytest.raises(ValueError, match="features is 21; expected 0 to 20"):
        pack_convolution(weight, 21, 4, False)
    with pytest.raises(ValueError, match="float64; expected float32"):
        pack_convolution(weight.astype(float), 16, 4, False)
    with pytest.raises(ValueError, match=r"shape \(16, 20, 5, 3\)"):
        pack_convolution(np.zeros((16, 20, 5, 3), np.float32), 16, 4, False)
    with pytest.raises(ValueError, match="C order"):
        pack_convolution(weight.transpose(1, 0, 2, 3), 16, 4, False)
