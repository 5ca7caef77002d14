"""Weights as the C++ ops read them: transformed for their tiles, sixteen outputs side by side.

Packed once, when an engine is built. The same for every instruction set. The transforms are C++;
what is small is packed here.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.threads import usable_cpus

Floats = NDArray[np.float32]

PANEL = 16
"""Channels in memory come in multiples of this; the rest is zeros."""

TILES = (1, 4, 6)
"""Sides of a tile of outputs: the direct convolution, F(4x4, 3x3) and F(6x6, 3x3) of Winograd."""


class Packed(NamedTuple):
    weight: Floats
    """[C_out / 16, positions, C_in, 16]; positions 9 (direct), 36 (F4x4) or 64 (F6x6)"""
    table: Floats | None
    """Where the layout comes as ids: [10, classes, C_out], the nine taps' weights and their sum"""


def padded(channels: int) -> int:
    """Channels in memory."""
    return -(-channels // PANEL) * PANEL


def pack_convolution(
    weight: Floats, features: int, tile: int, ids: bool, threads: int = 0
) -> Packed:
    """Pack the weights of `refine` or `conv`.

    Args:
        weight: float32 [C_out, features + classes, 3, 3], the layout's channels last.
        features: channels that are not the layout's.
        tile: side of a tile of outputs, one of `TILES`.
        ids: whether the layout will come as uint8 ids; they take a table instead of products.
        threads: threads to use; 0 means all CPUs that this process may use.

    Raises:
        ValueError: an argument has the wrong dtype, shape, strides or range.
        MemoryError: there is no room for the packed weights.
        ImportError: the compiled module is not installed or does not load.
    """
    multiplied = features if ids else weight.shape[1]
    packed = cpu.load().pack(weight, features, multiplied, tile, threads or usable_cpus())
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
