"""What the kernels share: places, bilinear sources, the pending norm, the layout, the epilogue.

All maps are NHWC. Integers are never divided while negative: Triton rounds towards zero on a GPU
and down in its interpreter.
"""

from __future__ import annotations

import triton
import triton.language as tl

SLOPE = tl.constexpr(0.2)
NO_CLASS = tl.constexpr(255)


@triton.jit
def box_corner(
    box,  # of a sample, row after row
    width,  # of the map
    ROWS: tl.constexpr,  # box of pixels
    WIDE: tl.constexpr,
):
    """Row and column of a box's first pixel."""
    across = (width + WIDE - 1) // WIDE
    return box // across * ROWS, box % across * WIDE


@triton.jit
def depth_step(i, STEPS: tl.constexpr, DEPTH: tl.constexpr):
    """Tap and first channel of product `i`, where a tap takes STEPS products of DEPTH channels."""
    return i // STEPS, i % STEPS * DEPTH


@triton.jit
def activate(
    raw,  # [M, C] convolution output, any float type
    scale,  # [1, C] or [M, C] float32, the pending norm
    shift,
):
    """leaky_relu(raw * scale + shift), float32."""
    normed = raw.to(tl.float32) * scale + shift
    return tl.where(normed > 0, normed, normed * SLOPE)


@triton.jit
def source(
    i,  # result's row or column, 0 to 2 * size - 1; others give some source in range
    size,  # rows or columns of the map that is upsampled
    UPSAMPLING: tl.constexpr,
):
    """Where bilinear x2 takes result `i` from: low source, high source, weight of the high one.

    In integers, as a float32 coordinate is off by 1e-4 of a pixel at column 2047.
    """
    i = tl.maximum(i, 0)
    if UPSAMPLING == "align_corners":
        position = i * (size - 1)
        low = position // (2 * size - 1)
        weight = (position - low * (2 * size - 1)).to(tl.float32) / (2 * size - 1)
    else:
        low = (i + 1) // 2 - 1
        weight = tl.where(i % 2 == 0, 0.75, 0.25)
    high = tl.minimum(low + 1, size - 1)
    return tl.minimum(tl.maximum(low, 0), size - 1), high, weight


@triton.jit
def load_upsampled(
    raw,  # pointer to [height, width, CHANNELS], one sample
    scale,  # [1, C] float32, the pending norm of these channels
    shift,
    y,  # [M] row and column of the result
    x,
    channels,  # [C] channels to load
    mask,  # [M, C] what to load; the rest is 0
    height,  # size of `raw`
    width,
    CHANNELS: tl.constexpr,
    UPSAMPLING: tl.constexpr,
):
    """Activated features at (y, x) of the map upsampled x2, or of the map itself: [M, C] float32.

    'none' reads row and column as they are; 'edge' clamps them into the map.
    """
    if UPSAMPLING == "none" or UPSAMPLING == "edge":
        if UPSAMPLING == "edge":
            y = tl.minimum(tl.maximum(y, 0), height - 1)
            x = tl.minimum(tl.maximum(x, 0), width - 1)
        at = (y * width + x)[:, None] * CHANNELS + channels[None, :]
        value = activate(tl.load(raw + at, mask=mask, other=0.0), scale, shift)
    else:
        top, bottom, down = source(y, height, UPSAMPLING)
        left, right, across = source(x, width, UPSAMPLING)
        top, bottom = top * width, bottom * width
        down, across = down[:, None], across[:, None]
        a = tl.load(raw + (top + left)[:, None] * CHANNELS + channels[None, :], mask, 0.0)
        b = tl.load(raw + (top + right)[:, None] * CHANNELS + channels[None, :], mask, 0.0)
        upper = activate(a, scale, shift) * (1 - across) + activate(b, scale, shift) * across
        a = tl.load(raw + (bottom + left)[:, None] * CHANNELS + channels[None, :], mask, 0.0)
        b = tl.load(raw + (bottom + right)[:, None] * CHANNELS + channels[None, :], mask, 0.0)
        lower = activate(a, scale, shift) * (1 - across) + activate(b, scale, shift) * across
        value = upper * (1 - down) + lower * down
    # Zero padding comes after the norm: outside of the map stands 0, not the shift.
    return tl.where(mask, value, 0.0)


@triton.jit
def add_layout(
    acc,  # [M, BN] float32
    layout,  # uint8 ids [N, height, width] or soft map [N, height, width, CLASSES]; pointer or box
    weight,  # [SIDE * SIDE, COLUMNS, CLASSES]; pointer or descriptor
    sample,
    top,  # corner of the box of results, for descriptors
    left,
    y,  # [M] row and column of the result, before STRIDE
    x,
    inside,  # [M] whether the result exists
    first_column,  # of this program
    height,  # size of the layout
    width,
    COLUMNS: tl.constexpr,
    CLASSES: tl.constexpr,  # padded; ids never reach the padding
    IDS: tl.constexpr,
    MAP_TMA: tl.constexpr,  # the map comes in boxes
    WEIGHT_TMA: tl.constexpr,
    SIDE: tl.constexpr,  # 3, or 4 in the folded form
    STRIDE: tl.constexpr,  # 1, or 2 in the folded form
    ROWS: tl.constexpr,  # box of pixels
    WIDE: tl.constexpr,
    BN: tl.constexpr,
    BL: tl.constexpr,  # classes of one product
    INPUT_PRECISION: tl.constexpr,
):
    """Add the convolution of the layout. Ids become one-hot rows in registers: no raw indexing."""
    columns = first_column + tl.arange(0, BN)
    if not MAP_TMA:
        layout += sample.to(tl.int64) * height * width * (1 if IDS else CLASSES)
    for tap in range(SIDE * SIDE):
        row = y * STRIDE + tap // SIDE - 1
        column = x * STRIDE + tap % SIDE - 1
        seen = inside & (row >= 0) & (row < height) & (column >= 0) & (column < width)
        at = row * width + column
        for first in range(0, CLASSES, BL):
            classes = first + tl.arange(0, BL)
            known = classes < CLASSES
            if WEIGHT_TMA:
                w = weight.load([tap, first_column, first]).reshape(BN, BL)
            else:
                w = tl.load(
                    weight + (tap * COLUMNS + columns)[:, None] * CLASSES + classes[None, :],
                    mask=(columns < COLUMNS)[:, None] & known[None, :],
                    other=0.0,
                )
            if MAP_TMA:
                corner = [sample, top + tap // SIDE - 1, left + tap % SIDE - 1, first]
                shares = layout.load(corner).reshape(ROWS * WIDE, BL)
            elif IDS:
                ids = tl.load(layout + at, mask=seen, other=NO_CLASS).to(tl.int32)
                shares = (ids[:, None] == classes[None, :]).to(w.dtype)
            else:
                shares = tl.load(
                    layout + at[:, None] * CLASSES + classes[None, :],
                    mask=seen[:, None] & known[None, :],
                    other=0.0,
                )
            acc = tl.dot(shares, w.T, acc, input_precision=INPUT_PRECISION)
    return acc


@triton.jit
def store_statistics(
    acc,  # [M, BN] float32
    rows,  # [M, 1] which rows count
    columns,  # [1, BN] which columns do: no padding channels; or [M, BN]
    partials,  # pointer to this tile's count, mean and sum of squared deviations
    EVERY_COLUMN: tl.constexpr,  # `columns` is true: no mask of the whole tile has to be held
):
    # Rows first, then all at once: a second sum over an axis is more than Triton's compiler can
    # bear on sm_100, where the tile lies in tensor memory.
    if EVERY_COLUMN:
        count = tl.sum(rows.to(tl.float32)) * acc.shape[1]
        mean = tl.sum(tl.where(rows, tl.sum(acc, 1, keep_dims=True), 0.0)) / tl.maximum(count, 1.0)
        squares = tl.sum((acc - mean) * (acc - mean), 1, keep_dims=True)
        squares = tl.sum(tl.where(rows, squares, 0.0))
    else:
        real = rows & columns
        count = tl.sum(tl.sum(real.to(tl.float32), 1, keep_dims=True))
        mean = tl.sum(tl.sum(tl.where(real, acc, 0.0), 1, keep_dims=True)) / tl.maximum(count, 1.0)
        deviation = tl.where(real, acc - mean, 0.0)
        squares = tl.sum(tl.sum(deviation * deviation, 1, keep_dims=True))
    tl.store(partials, count)
    tl.store(partials + 1, mean)
    tl.store(partials + 2, squares)
