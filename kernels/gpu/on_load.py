"""3x3 convolution that applies norm, leaky ReLU and upsampling as it loads.

Nothing activated, upsampled or concatenated is ever in memory, at the price of activating every
value once for each tap that reads it. For small maps, for checking, and for the outermost ring of
pixels of the folded form (RING).

Compiled for sm_80 to sm_120, never run on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from crn_fast.kernels.gpu.tile import add_layout, box_corner, load_upsampled, store_statistics


@triton.jit
def convolve_on_load(
    x,  # pointer to raw [N, H, W, INPUTS], at half the result's size when upsampled
    scale,  # float32 [N, INPUTS], the pending norm
    shift,
    weight,  # pointer to [9, OUTPUTS, INPUTS]
    layout,  # ids or soft map [N, height, width, CLASSES]; None without
    layout_weight,  # [9, OUTPUTS, CLASSES]
    out,  # raw [N, height, width, OUTPUTS]
    partials,  # float32 [N, tiles, 3]
    height,  # of the result
    width,
    tiles,  # of one sample, in `partials`
    first_tile,  # where this kernel's begin
    INPUTS: tl.constexpr,  # padded channels
    OUTPUTS: tl.constexpr,
    CHANNELS: tl.constexpr,  # outputs without the padding
    CLASSES: tl.constexpr,  # padded; 0: no layout
    IDS: tl.constexpr,
    UPSAMPLING: tl.constexpr,  # 'none', 'align_corners', 'half_pixel'
    RING: tl.constexpr,  # only the outermost pixels
    ROWS: tl.constexpr,  # box of pixels
    WIDE: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BL: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    column_tile = tl.program_id(0)
    box = tl.program_id(1)
    sample = tl.program_id(2)
    m = tl.arange(0, ROWS * WIDE)
    if RING:
        # The top row, the bottom row, then left and right by turns.
        i = box * (ROWS * WIDE) + m
        side = tl.maximum(i - 2 * width, 0)
        y = tl.where(i < width, 0, tl.where(i < 2 * width, height - 1, 1 + side // 2))
        column = tl.where(i < 2 * width, i % width, side % 2 * (width - 1))
        inside = i < 2 * width + 2 * (height - 2)
    else:
        top, left = box_corner(box, width, ROWS, WIDE)
        y = top + m // WIDE
        column = left + m % WIDE
        inside = (y < height) & (column < width)
    columns = column_tile * BN + tl.arange(0, BN)
    acc = tl.zeros((ROWS * WIDE, BN), tl.float32)

    FACTOR: tl.constexpr = 1 if UPSAMPLING == "none" else 2
    x_height, x_width = height // FACTOR, width // FACTOR
    x += sample.to(tl.int64) * x_height * x_width * INPUTS
    scale += sample * INPUTS
    shift += sample * INPUTS
    for first in range(0, INPUTS, BK):
        k = first + tl.arange(0, BK)
        scales = tl.load(scale + k, mask=k < INPUTS, other=0.0)[None, :]
        shifts = tl.load(shift + k, mask=k < INPUTS, other=0.0)[None, :]
        for tap in range(9):
            row = y + tap // 3 - 1
            col = column + tap % 3 - 1
            seen = inside & (row >= 0) & (row < height) & (col >= 0) & (col < width)
            mask = seen[:, None] & (k < INPUTS)[None, :]
            a = load_upsampled(
                x, scales, shifts, row, col, k, mask, x_height, x_width, INPUTS, UPSAMPLING
            )
            b = tl.load(
                weight + (tap * OUTPUTS + columns)[:, None] * INPUTS + k[None, :],
                mask=(columns < OUTPUTS)[:, None] & (k < INPUTS)[None, :],
                other=0.0,
            )
            acc = tl.dot(a.to(b.dtype), b.T, acc, input_precision=INPUT_PRECISION)

    if CLASSES > 0:
        acc = add_layout(
            acc,
            layout,
            layout_weight,
            sample,
            0,
            0,
            y,
            column,
            inside,
            column_tile * BN,
            height,
            width,
            COLUMNS=OUTPUTS,
            CLASSES=CLASSES,
            IDS=IDS,
            MAP_TMA=False,
            WEIGHT_TMA=False,
            SIDE=3,
            STRIDE=1,
            ROWS=ROWS,
            WIDE=WIDE,
            BN=BN,
            BL=BL,
            INPUT_PRECISION=INPUT_PRECISION,
        )

    existing = inside[:, None] & (columns < OUTPUTS)[None, :]
    at = (y * width + column)[:, None] * OUTPUTS + columns[None, :]
    partial = sample * tiles + first_tile + box * tl.num_programs(0) + column_tile
    store_statistics(
        acc,
        inside[:, None],
        (columns < CHANNELS)[None, :],
        partials + 3 * partial,
        CHANNELS % BN == 0,
    )
    out += sample.to(tl.int64) * height * width * OUTPUTS
    tl.store(out + at, acc.to(out.dtype.element_ty), mask=existing)
