"""The op `conv`: norm and leaky ReLU, 3x3 convolution, statistics of the result.

Two forms: an apply pass and `convolve`, or `convolve_on_load`, which activates as it reads.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from torch import Tensor

from crn_fast.kernels.gpu.apply import apply
from crn_fast.kernels.gpu.convolve import convolve
from crn_fast.kernels.gpu.on_load import convolve_on_load
from crn_fast.kernels.gpu.operands import Convolution, Features, float_type
from crn_fast.kernels.gpu.queue import Box, Queue
from crn_fast.kernels.gpu.statistics import add_splits, normed
from crn_fast.kernels.gpu.tuning import Tile

LAYOUT_DEPTH = 32
"""Classes of one product."""


def conv(
    queue: Queue, features: Features, weights: Convolution, tile: Tile, tf32: bool = False
) -> Features:
    """Norm and leaky ReLU, 3x3 convolution.

    Args:
        queue: what allocates and launches.
        features: [N, H, W, C_in].
        weights: without a layout.
        tile: form 'apply' or 'on_load'.
        tf32: float32 weights may be multiplied as tf32.

    Raises:
        ValueError: the form cannot be used here.
    """
    n, height, width, _ = features.raw.shape
    if tile.form == "on_load":
        raw = empty_raw(queue, n, height, width, weights)
        return on_load(queue, features, None, weights, tile, raw, "none", tf32)
    if tile.form != "apply":
        raise ValueError(f"conv: the form is {tile.form!r}; expected apply or on_load")
    x = apply(queue, features, weights.weight.dtype, "none", weights.quantum)
    found = activated(queue, x, None, weights, tile, (n, height, width), tf32)
    queue.give(x)
    return found


def empty_raw(queue: Queue, n: int, height: int, width: int, weights: Convolution) -> Tensor:
    """Room for the result.

    Raises:
        ValueError: one sample has 2**31 values or more, which kernels cannot count.
    """
    outputs = weights.weight.shape[1]
    if height * width * outputs >= 1 << 31:
        raise ValueError(f"a map of {height}x{width}x{outputs} values; expected fewer than 2**31")
    return queue.take((n, height, width, outputs), float_type(weights))


def activated(
    queue: Queue,
    x: Tensor | None,
    layout: Tensor | None,
    weights: Convolution,
    tile: Tile,
    size: tuple[int, int, int],
    tf32: bool,
) -> Features:
    """`convolve` for the form apply: an activated map of `size` [N, H, W], a layout, or both."""
    n, height, width = size
    raw = empty_raw(queue, n, height, width, weights)
    if tile.splits == 1:
        partials = queue.take((n, tiles_of(tile, height, width, raw.shape[-1]), 3), torch.float32)
        if tile.specialised:
            # Imported here, as Gluon's names change with Triton's versions.
            from crn_fast.kernels.gpu.convolve_specialised import launch_specialised

            launch_specialised(queue, x, layout, weights, tile, raw, partials, size, LAYOUT_DEPTH)
        else:
            launch_convolve(queue, x, layout, weights, tile, raw, partials, size, False, tf32)
    else:
        parts = queue.take((tile.splits, *raw.shape), torch.float32)
        launch_convolve(queue, x, layout, weights, tile, parts, None, size, False, tf32)
        partials = add_splits(queue, parts, raw, weights.channels)
        queue.give(parts)
    return normed(queue, raw, partials, weights)


def tiles_of(tile: Tile, height: int, width: int, columns: int) -> int:
    """Programs for one sample: boxes of pixels times tiles of columns."""
    boxes = triton.cdiv(height, tile.rows) * triton.cdiv(width, tile.wide)
    return int(boxes * triton.cdiv(columns, tile.outputs))


def launch_convolve(
    queue: Queue,
    x: Tensor | None,
    layout: Tensor | None,
    weights: Convolution,
    tile: Tile,
    out: Tensor,
    partials: Tensor | None,
    size: tuple[int, int, int],
    fold: bool,
    tf32: bool,
) -> None:
    """Launch `convolve`. `size`: [N, H, W] of the map that is convolved, without its ring."""
    n, height, width = size
    weight, layout_weight = weights.weight, weights.layout
    if fold:
        assert weights.folded is not None
        weight, layout_weight = weights.folded
    columns = weight.shape[1]
    boxed = layout_arguments(layout, layout_weight)
    operands: dict[str, Any] = {"x": x, "weight": weight, "out": out, **boxed}
    if tile.tma and x is not None:
        operands["x"] = Box(x, (1, tile.rows, tile.wide, tile.depth))
        operands["weight"] = Box(weight, (1, tile.outputs, tile.depth))
    if tile.tma and layout is not None and layout_weight is not None:
        operands["layout_weight"] = Box(layout_weight, (1, tile.outputs, boxed["BL"]))
        if not boxed["IDS"] and not fold:
            operands["layout"] = Box(layout, (1, tile.rows, tile.wide, boxed["BL"]))
    if tile.tma and tile.splits == 1 and not fold:
        operands["out"] = Box(out, (1, tile.rows, tile.wide, tile.outputs))
    column_tiles = triton.cdiv(columns, tile.outputs)
    boxes = tiles_of(tile, height, width, columns) // column_tiles
    queue.launch(
        convolve,
        (column_tiles, boxes, n * tile.splits),
        **operands,
        channel_scale=weights.channel_scale,
        partials=partials,
        height=height,
        width=width,
        tiles=0 if partials is None else partials.shape[1],
        INPUTS=0 if x is None else weight.shape[2],
        OUTPUTS=weights.weight.shape[1],
        CHANNELS=weights.channels,
        FOLD=fold,
        TMA=tile.tma,
        SPLITS=tile.splits,
        **tile_arguments(tile),
        INPUT_PRECISION=input_precision(tf32),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def on_load(
    queue: Queue,
    features: Features,
    layout: Tensor | None,
    weights: Convolution,
    tile: Tile,
    raw: Tensor,
    upsampling: str,
    tf32: bool,
) -> Features:
    """`convolve_on_load` over a whole map, into `raw`."""
    n, height, width, outputs = raw.shape
    tiles = tiles_of(tile, height, width, outputs)
    partials = queue.take((n, tiles, 3), torch.float32)
    boxes = tiles // triton.cdiv(outputs, tile.outputs)
    launch_on_load(
        queue, features, layout, weights, tile, raw, partials, 0, boxes, False, upsampling, tf32
    )
    return normed(queue, raw, partials, weights)


def launch_on_load(
    queue: Queue,
    features: Features,
    layout: Tensor | None,
    weights: Convolution,
    tile: Tile,
    raw: Tensor,
    partials: Tensor,
    first_tile: int,
    boxes: int,
    ring: bool,
    upsampling: str,
    tf32: bool,
) -> None:
    """Launch `convolve_on_load`, whose tiles begin at `first_tile` of `partials`.

    Raises:
        ValueError: the weights are fp8, which only an apply pass prepares for.
    """
    if weights.channel_scale is not None:
        raise ValueError("weights in fp8 need the form apply")
    n, height, width, outputs = raw.shape
    queue.launch(
        convolve_on_load,
        (triton.cdiv(outputs, tile.outputs), boxes, n),
        x=features.raw,
        scale=features.scale,
        shift=features.shift,
        weight=weights.weight,
        out=raw,
        partials=partials,
        **layout_arguments(layout, weights.layout),
        height=height,
        width=width,
        tiles=partials.shape[1],
        first_tile=first_tile,
        INPUTS=features.raw.shape[3],
        OUTPUTS=outputs,
        CHANNELS=weights.channels,
        UPSAMPLING=upsampling,
        RING=ring,
        **tile_arguments(tile),
        INPUT_PRECISION=input_precision(tf32),
        num_warps=tile.warps,
        num_stages=tile.stages,
    )


def layout_arguments(layout: Tensor | None, weight: Tensor | None) -> dict[str, Any]:
    present = layout is not None and weight is not None
    classes = weight.shape[2] if weight is not None and present else 0
    return {
        "layout": layout,
        "layout_weight": weight if present else None,
        "CLASSES": classes,
        "IDS": present and layout is not None and layout.dtype == torch.uint8,
        "BL": min(LAYOUT_DEPTH, triton.next_power_of_2(max(classes, 16))),
    }


def tile_arguments(tile: Tile) -> dict[str, int]:
    return {"ROWS": tile.rows, "WIDE": tile.wide, "BN": tile.outputs, "BK": tile.depth}


def input_precision(tf32: bool) -> str:
    return "tf32" if tf32 else "ieee"
