"""3x3 convolution of an activated map, with the layout as a second segment of the sum.

An implicit matrix product: rows are a box of pixels, columns output channels, and the depth runs
over nine taps of features, then over the layout's taps. Boxes arrive through TMA descriptors
(which fill zeros outside of the map) or through masked pointers.

FOLD is the form for half-pixel upsampling: a bilinear x2 and a 3x3 convolution are four 3x3
convolutions of the small map, one for each parity of row and column, with premixed weights. The
map then carries a ring of copied edge pixels, columns are four phases of channels, and results
outside of the outermost ring of pixels are exact; that ring is `on_load`'s.

Compiled for sm_80 to sm_120, never run on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl

from crn_fast.kernels.gpu.tile import add_layout, box_corner, depth_step, store_statistics


@triton.jit
def convolve(
    x,  # activated [N, height, width, INPUTS], with a ring when FOLD; pointer or descriptor
    weight,  # [9, COLUMNS, INPUTS]; pointer or descriptor
    channel_scale,  # float32 [COLUMNS], what a product of fp8 values is worth; None otherwise
    layout,  # ids or soft map [N, h, w, CLASSES], of the result's size; None without. A descriptor
    # for soft maps, but a pointer for ids and when FOLD
    layout_weight,  # [9 or 16, COLUMNS, CLASSES]; pointer or descriptor
    out,  # raw [N, height, width, OUTPUTS]; float32 [SPLITS, N, ...] when split. A descriptor with
    # TMA, but a pointer when split or FOLD
    partials,  # float32 [N, tiles, 3]; unused when split
    height,  # size of the map that is convolved, without its ring
    width,
    tiles,  # of one sample, in `partials`
    INPUTS: tl.constexpr,  # padded channels; 0: the layout alone
    OUTPUTS: tl.constexpr,  # padded
    CHANNELS: tl.constexpr,  # outputs without the padding
    CLASSES: tl.constexpr,  # padded; 0: no layout
    IDS: tl.constexpr,
    FOLD: tl.constexpr,
    TMA: tl.constexpr,
    SPLITS: tl.constexpr,  # parts of the depth, each a program
    ROWS: tl.constexpr,  # box of pixels
    WIDE: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    BL: tl.constexpr,
    INPUT_PRECISION: tl.constexpr,
):
    COLUMNS: tl.constexpr = OUTPUTS * 4 if FOLD else OUTPUTS
    RING: tl.constexpr = 1 if FOLD else 0
    STEPS: tl.constexpr = (INPUTS + BK - 1) // BK
    column_tile = tl.program_id(0)
    box = tl.program_id(1)
    sample = tl.program_id(2) // SPLITS
    split = tl.program_id(2) % SPLITS
    top, left = box_corner(box, width, ROWS, WIDE)
    m = tl.arange(0, ROWS * WIDE)
    y = top + m // WIDE
    column = left + m % WIDE
    inside = (y < height) & (column < width)
    columns = column_tile * BN + tl.arange(0, BN)
    acc = tl.zeros((ROWS * WIDE, BN), tl.float32)

    if INPUTS > 0:
        tall, long = height + 2 * RING, width + 2 * RING
        if not TMA:
            x += sample.to(tl.int64) * tall * long * INPUTS
        for step in range((9 * STEPS + SPLITS - 1) // SPLITS):
            i = split * ((9 * STEPS + SPLITS - 1) // SPLITS) + step
            tap, first = depth_step(i, STEPS, BK)  # tap 9 past the end: descriptors give zeros
            if TMA:
                corner = [sample, top + tap // 3 - 1 + RING, left + tap % 3 - 1 + RING, first]
                a = x.load(corner).reshape(ROWS * WIDE, BK)
                b = weight.load([tap, column_tile * BN, first]).reshape(BN, BK)
            else:
                k = first + tl.arange(0, BK)
                known = k < tl.where(tap < 9, INPUTS, 0)
                row = y + tap // 3 - 1 + RING
                col = column + tap % 3 - 1 + RING
                seen = (row >= 0) & (row < tall) & (col >= 0) & (col < long)
                a = tl.load(
                    x + (row * long + col)[:, None] * INPUTS + k[None, :],
                    mask=seen[:, None] & known[None, :],
                    other=0.0,
                )
                b = tl.load(
                    weight + (tap * COLUMNS + columns)[:, None] * INPUTS + k[None, :],
                    mask=(columns < COLUMNS)[:, None] & known[None, :],
                    other=0.0,
                )
            if channel_scale is None:
                acc = tl.dot(a, b.T, acc, input_precision=INPUT_PRECISION)
            else:
                # fp8 products are summed with 14 bits inside the tensor core: keep such sums short.
                acc += tl.dot(a, b.T)
        if channel_scale is not None:
            worth = tl.load(channel_scale + columns, mask=columns < COLUMNS, other=0.0)
            acc *= worth[None, :]

    STRIDE: tl.constexpr = 2 if FOLD else 1
    if CLASSES > 0:  # noqa: SIM102  (decided by the compiler; a layout may be None)
        if split == 0:
            acc = add_layout(
                acc,
                layout,
                layout_weight,
                sample,
                top,
                left,
                y,
                column,
                inside,
                column_tile * BN,
                height * STRIDE,
                width * STRIDE,
                COLUMNS=COLUMNS,
                CLASSES=CLASSES,
                IDS=IDS,
                MAP_TMA=TMA and not IDS and not FOLD,
                WEIGHT_TMA=TMA,
                SIDE=4 if FOLD else 3,
                STRIDE=STRIDE,
                ROWS=ROWS,
                WIDE=WIDE,
                BN=BN,
                BL=BL,
                INPUT_PRECISION=INPUT_PRECISION,
            )

    existing = inside[:, None] & (columns < COLUMNS)[None, :]
    channel = columns % OUTPUTS if FOLD else columns
    if FOLD:
        fine_y = 2 * y[:, None] + (columns // OUTPUTS // 2)[None, :]
        fine_x = 2 * column[:, None] + (columns // OUTPUTS % 2)[None, :]
        existing &= (fine_y > 0) & (fine_y < 2 * height - 1)
        existing &= (fine_x > 0) & (fine_x < 2 * width - 1)
        at = (fine_y * (2 * width) + fine_x) * OUTPUTS + channel[None, :]
    else:
        at = (y * width + column)[:, None] * OUTPUTS + columns[None, :]
    if SPLITS == 1:
        partial = sample * tiles + box * tl.num_programs(0) + column_tile
        store_statistics(
            acc,
            inside[:, None],
            existing & (channel < CHANNELS)[None, :],
            partials + 3 * partial,
            CHANNELS % BN == 0 and not FOLD,
        )
    if TMA and SPLITS == 1 and not FOLD:
        values = acc.to(out.dtype).reshape(1, ROWS, WIDE, BN)
        out.store([sample, top, left, column_tile * BN], values)
    else:
        samples = tl.num_programs(2) // SPLITS
        pixels = height * width * (STRIDE * STRIDE)
        out += (split * samples + sample).to(tl.int64) * pixels * OUTPUTS
        tl.store(out + at, acc.to(out.dtype.element_ty), mask=existing)
