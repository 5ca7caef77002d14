"""The op `refine`: norm, leaky ReLU, bilinear x2, the layout beside it, 3x3 convolution.

Three forms: an apply pass that upsamples, and `convolve`; for half-pixel upsampling the folded
convolution of the small map, with `convolve_on_load` for the outermost ring of pixels; or
`convolve_on_load` for all of it, with nothing upsampled in memory. None ever writes the
concatenation: the layout is a segment of its own in the sum.
"""

from __future__ import annotations

import dataclasses

import torch
import triton
from torch import Tensor

from crn_fast.kernels.gpu.apply import apply
from crn_fast.kernels.gpu.conv import (
    activated,
    empty_raw,
    launch_convolve,
    launch_on_load,
    on_load,
    tiles_of,
)
from crn_fast.kernels.gpu.operands import Convolution, Features
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.statistics import normed
from crn_fast.kernels.gpu.tuning import Tile


def refine(
    queue: Queue,
    features: Features | None,
    layout: Tensor,
    weights: Convolution,
    upsampling: str,
    tile: Tile,
    tf32: bool = False,
) -> Features:
    """Norm and leaky ReLU, bilinear x2, concatenate the layout, 3x3 convolution.

    Args:
        queue: what allocates and launches.
        features: of the stage before, at half the layout's size; None at the first stage.
        layout: soft map [N, H, W, padded classes], or uint8 ids [N, H, W].
        weights: with a layout; with `folded` for that form.
        upsampling: 'align_corners' or 'half_pixel'.
        tile: form 'apply', 'on_load', or 'fold' for 'half_pixel'.
        tf32: float32 weights may be multiplied as tf32.

    Raises:
        ValueError: the form cannot be used here.
    """
    n, height, width = layout.shape[:3]
    if features is None:
        return activated(queue, None, layout, weights, tile, (n, height, width), tf32)
    if tile.form == "on_load":
        raw = empty_raw(queue, n, height, width, weights)
        return on_load(queue, features, layout, weights, tile, raw, upsampling, tf32)
    if tile.form == "fold":
        if upsampling != "half_pixel" or weights.folded is None:
            raise ValueError("the form fold needs half-pixel upsampling and folded weights")
        return _folded(queue, features, layout, weights, tile, tf32)
    x = apply(queue, features, weights.weight.dtype, upsampling, weights.quantum)
    found = activated(queue, x, layout, weights, tile, (n, height, width), tf32)
    queue.give(x)
    return found


def _folded(
    queue: Queue, features: Features, layout: Tensor, weights: Convolution, tile: Tile, tf32: bool
) -> Features:
    n, height, width = layout.shape[:3]
    raw = empty_raw(queue, n, height, width, weights)
    outputs = raw.shape[-1]
    small = (n, height // 2, width // 2)
    inner = tiles_of(tile, *small[1:], 4 * outputs)
    border = dataclasses.replace(
        tile,
        form="on_load",
        rows=1,
        wide=64,
        outputs=min(tile.outputs, 64),
        depth=64 // weights.weight.element_size(),  # float32 spills at 32
        warps=4,
    )
    boxes = triton.cdiv(2 * (height + width) - 4, border.wide)
    partials = queue.take(
        (n, inner + boxes * triton.cdiv(outputs, border.outputs), 3), torch.float32
    )
    x = apply(queue, features, weights.weight.dtype, "edge")
    launch_convolve(queue, x, layout, weights, tile, raw, partials, small, True, tf32)
    queue.give(x)
    launch_on_load(
        queue,
        features,
        layout,
        weights,
        border,
        raw,
        partials,
        inner,
        boxes,
        True,
        "half_pixel",
        tf32,
    )
    return normed(queue, raw, partials, weights)
