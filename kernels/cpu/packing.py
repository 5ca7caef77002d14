"""Weights as the C++ ops read them: transformed for their tiles, sixteen outputs side by side.

Packed once, when an engine is built. The same for every instruction set.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

PANEL = 16
"""Channels in memory come in multiples of this; the rest is zeros."""

TRANSFORMS: dict[int, NDArray[np.float64]] = {
    1: np.eye(3),
    4: np.array(
        [
            [1 / 4, 0, 0],
            [-1 / 6, -1 / 6, -1 / 6],
            [-1 / 6, 1 / 6, -1 / 6],
            [1 / 24, 1 / 12, 1 / 6],
            [1 / 24, -1 / 12, 1 / 6],
            [0, 0, 1],
        ]
    ),
    6: np.array(
        [
            [1, 0, 0],
            [-2 / 9, -2 / 9, -2 / 9],
            [-2 / 9, 2 / 9, -2 / 9],
            [1 / 90, 1 / 45, 2 / 45],
            [1 / 90, -1 / 45, 2 / 45],
            [32 / 45, 16 / 45, 8 / 45],
            [32 / 45, -16 / 45, 8 / 45],
            [0, 0, 1],
        ]
    ),
}
"""Side of a tile of outputs -> G of F(m x m, 3x3): a kernel g becomes G g G^T. 1 is the direct
convolution. The other two transforms are in tile.h."""


class Packed(NamedTuple):
    weight: Floats
    """[C_out / 16, positions, C_in, 16]; positions 9 (direct), 36 (F4x4) or 64 (F6x6)"""
    table: Floats | None
    """Where the layout comes as ids: [10, classes, C_out], the nine taps' weights and their sum"""


def padded(channels: int) -> int:
    """Channels in memory."""
    return -(-channels // PANEL) * PANEL


def pack_convolution(weight: Floats, features: int, tile: int, ids: bool) -> Packed:
    """Pack the weights of `refine` or `conv`.

    Args:
        weight: [C_out, features + classes, 3, 3], the layout's channels last.
        features: channels that are not the layout's.
        tile: side of a tile of outputs: 1, 4 or 6.
        ids: whether the layout will come as uint8 ids; they take a table instead of products.
    """
    outputs = weight.shape[0]
    multiplied = features if ids else weight.shape[1]
    inputs = padded(features) + multiplied - features
    wide = np.zeros((padded(outputs), inputs, 9), np.float64)
    wide[:outputs, :features] = weight[:, :features].reshape(outputs, features, 9)
    wide[:outputs, padded(features) :] = weight[:, features:multiplied].reshape(
        outputs, multiplied - features, 9
    )
    transform = np.kron(TRANSFORMS[tile], TRANSFORMS[tile])
    packed = np.empty((padded(outputs) // PANEL, len(transform), inputs, PANEL), np.float32)
    for panel, kernels in zip(packed, np.split(wide, len(packed)), strict=True):
        panel[...] = np.moveaxis(kernels @ transform.T, (0, 1, 2), (2, 1, 0))
    return Packed(packed, _table(weight[:, features:]) if ids else None)


def _table(weight: Floats) -> Floats:
    outputs, classes = weight.shape[:2]
    taps = weight.reshape(outputs, classes, 9).transpose(2, 1, 0).astype(np.float64)
    table = np.zeros((10, classes, padded(outputs)), np.float32)
    table[:9, :, :outputs] = taps
    table[9, :, :outputs] = taps.sum(0)
    return table


def pack_head(weight: Floats, bias: Floats) -> tuple[Floats, Floats]:
    """[3K, C] and [3K], colour by colour -> [3K / 16, C, 16] and [3K], image by image."""
    outputs, channels = weight.shape
    order = np.arange(outputs).reshape(3, -1).T.ravel()
    wide = np.zeros((padded(outputs), padded(channels)), np.float32)
    wide[:outputs, :channels] = weight[order]
    panels = wide.reshape(-1, PANEL, padded(channels)).transpose(0, 2, 1)
    return np.ascontiguousarray(panels), np.ascontiguousarray(bias[order], np.float32)
