"""The same as `convolve`, for sm_90: one warp loads, the others multiply. In Gluon.

Boxes of pixels and of weights lie in a ring of buffers in shared memory. The loading warp waits
until a buffer is empty and lets TMA fill it; the multiplying warps wait until it is full, start a
product that reads it there, and call the buffer of the product before that one empty. So loads run
through the epilogue of one tile into the next: each program takes tiles by turns.

Takes half precision, the form apply, and layouts as soft maps. TMA's zeros outside of the map are
the padding. A box of several rows lies in shared memory as one of a single row does, and feeds
wgmma from there, which `convolve` can do for single rows only.

Compiled for sm_90, never run on a GPU; Triton's interpreter knows no Gluon. Tests run its source
with stand-ins for Gluon's primitives.
"""

from __future__ import annotations

import torch
import triton
from torch import Tensor
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_wait,
)

from crn_fast.kernels.gpu.operands import Convolution
from crn_fast.kernels.gpu.queue import Box, Queue
from crn_fast.kernels.gpu.tile import box_corner, depth_step, store_statistics
from crn_fast.kernels.gpu.tuning import PROCESSORS, Tile

# Names of Triton 3.9, else those of 3.6 and 3.7.
load = getattr(tma, "async_load", None) or tma.async_copy_global_to_shared
store = getattr(tma, "async_store", None) or tma.async_copy_shared_to_global
reinterpret = (
    getattr(gl.shared_memory_descriptor, "reinterpret", None)
    or gl.shared_memory_descriptor._reinterpret
)
LOADER_REGISTERS = gl.constexpr(24)
"""Of a thread of the loading warp; the others get what it leaves."""


@triton.jit
def slot(step, STAGES):
    """Which buffer a step uses, and whether the ring was gone round an odd number of times."""
    return step % STAGES, step // STAGES % 2


@triton.jit
def place(tile, boxes, COLUMN_TILES):
    """Sample, box and tile of columns: what lies in the same box comes one after another."""
    return tile // COLUMN_TILES // boxes, tile // COLUMN_TILES % boxes, tile % COLUMN_TILES


@gluon.jit
def fetch(map_, weight, pixels, columns, corner, tap, full, empty, STAGES: gl.constexpr, step):
    """Fill the step's buffer with a box of pixels moved by the tap, and its weights."""
    sample, top, left, column, first = corner
    buffer, odd = slot(step, STAGES)
    mbarrier.wait(empty.index(buffer), odd ^ 1)
    mbarrier.expect(full.index(buffer), map_.block_type.nbytes + weight.block_type.nbytes)
    moved = [sample, top + tap // 3 - 1, left + tap % 3 - 1, first]
    load(map_, moved, full.index(buffer), pixels)
    load(weight, [tap, column, first], full.index(buffer), columns)


@gluon.jit
def load_tiles(
    x,
    weight,
    layout,
    layout_weight,
    pixels,
    columns,
    full,
    empty,
    width,
    boxes,
    tiles,
    STEPS: gl.constexpr,
    LAYOUT_STEPS: gl.constexpr,
    COLUMN_TILES: gl.constexpr,
    ROWS: gl.constexpr,
    WIDE: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    BL: gl.constexpr,
    STAGES: gl.constexpr,
):
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        sample, box, column_tile = place(tile, boxes, COLUMN_TILES)
        top, left = box_corner(box, width, ROWS, WIDE)
        for i in range(9 * STEPS):
            tap, first = depth_step(i, STEPS, BK)
            buffer, _ = slot(step, STAGES)
            a, b = pixels.index(buffer), columns.index(buffer)
            corner = (sample, top, left, column_tile * BN, first)
            fetch(x, weight, a, b, corner, tap, full, empty, STAGES, step)
            step += 1
        if LAYOUT_STEPS > 0:
            for i in range(9 * LAYOUT_STEPS):
                tap, first = depth_step(i, LAYOUT_STEPS, BL)
                buffer, _ = slot(step, STAGES)
                a = as_box(pixels.index(buffer), layout)
                b = as_box(columns.index(buffer), layout_weight)
                corner = (sample, top, left, column_tile * BN, first)
                fetch(layout, layout_weight, a, b, corner, tap, full, empty, STAGES, step)
                step += 1


@gluon.jit
def as_box(buffer, box):
    """The beginning of a buffer, as a smaller box lies in it."""
    return reinterpret(buffer, box.dtype, box.block_shape, box.layout)


@gluon.jit
def multiply(acc, a, b, full, empty, STAGES: gl.constexpr, step, started):
    """Start the step's product; wait for the one before, and call its buffer empty."""
    buffer, odd = slot(step, STAGES)
    mbarrier.wait(full.index(buffer), odd)
    acc = warpgroup_mma(a, b.permute((1, 0)), acc, is_async=True)
    acc = warpgroup_mma_wait(num_outstanding=1, deps=(acc,))
    before, _ = slot(step + STAGES - 1, STAGES)
    mbarrier.arrive(empty.index(before), count=1, pred=started)
    return acc


@gluon.jit
def multiply_tiles(
    layout,
    layout_weight,
    out,
    partials,
    pixels,
    columns,
    result,
    full,
    empty,
    height,
    width,
    boxes,
    tiles,
    CHANNELS: gl.constexpr,
    STEPS: gl.constexpr,
    LAYOUT_STEPS: gl.constexpr,
    COLUMN_TILES: gl.constexpr,
    ROWS: gl.constexpr,
    WIDE: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    BL: gl.constexpr,
    STAGES: gl.constexpr,
):
    PIXELS: gl.constexpr = ROWS * WIDE
    MMA: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [gl.num_warps(), 1], [16, BN, 16])
    step = 0
    for tile in range(gl.program_id(0), tiles, gl.num_programs(0)):
        sample, box, column_tile = place(tile, boxes, COLUMN_TILES)
        top, left = box_corner(box, width, ROWS, WIDE)
        acc = gl.zeros((PIXELS, BN), gl.float32, MMA)
        for i in range(9 * STEPS):
            buffer, _ = slot(step, STAGES)
            a = pixels.index(buffer).reshape((PIXELS, BK))
            b = columns.index(buffer).reshape((BN, BK))
            acc = multiply(acc, a, b, full, empty, STAGES, step, i > 0)
            step += 1
        if LAYOUT_STEPS > 0:
            for _ in range(9 * LAYOUT_STEPS):
                buffer, _ = slot(step, STAGES)
                a = as_box(pixels.index(buffer), layout).reshape((PIXELS, BL))
                b = as_box(columns.index(buffer), layout_weight).reshape((BN, BL))
                acc = multiply(acc, a, b, full, empty, STAGES, step, True)
                step += 1
        acc = warpgroup_mma_wait(num_outstanding=0, deps=(acc,))
        last, _ = slot(step + STAGES - 1, STAGES)
        mbarrier.arrive(empty.index(last), count=1)

        m = gl.arange(0, PIXELS, gl.SliceLayout(1, MMA))
        column = column_tile * BN + gl.arange(0, BN, gl.SliceLayout(0, MMA))
        inside = (top + m // WIDE < height) & (left + m % WIDE < width)
        store_statistics(
            acc,
            inside[:, None],
            (column < CHANNELS)[None, :],
            partials + 3 * tile,
            CHANNELS % BN == 0,
        )
        tma.store_wait(pendings=0)
        result.reshape((PIXELS, BN)).store(acc.to(result.dtype))
        fence_async_shared()
        store(out, [sample, top, left, column_tile * BN], result)
    tma.store_wait(pendings=0)


@gluon.jit
def convolve_specialised(
    x,  # descriptor of activated [N, height, width, INPUTS]
    weight,  # descriptor of [9, OUTPUTS, INPUTS]
    layout,  # descriptor of a soft map [N, height, width, CLASSES]; None without
    layout_weight,  # descriptor of [9, OUTPUTS, CLASSES]
    out,  # descriptor of raw [N, height, width, OUTPUTS]
    partials,  # float32 [N, tiles of a sample, 3]
    height,
    width,
    boxes,  # of pixels, in one sample
    tiles,  # of all samples
    INPUTS: gl.constexpr,  # padded channels
    OUTPUTS: gl.constexpr,  # padded
    CHANNELS: gl.constexpr,  # outputs without the padding
    CLASSES: gl.constexpr,  # padded; 0: no layout
    ROWS: gl.constexpr,  # box of pixels
    WIDE: gl.constexpr,
    BN: gl.constexpr,
    BK: gl.constexpr,
    BL: gl.constexpr,
    STAGES: gl.constexpr,  # buffers of the ring
):
    STEPS: gl.constexpr = (INPUTS + BK - 1) // BK
    LAYOUT_STEPS: gl.constexpr = (CLASSES + BL - 1) // BL
    COLUMN_TILES: gl.constexpr = (OUTPUTS + BN - 1) // BN
    pixels = gl.allocate_shared_memory(x.dtype, [STAGES] + x.block_shape, x.layout)  # noqa: RUF005
    columns = gl.allocate_shared_memory(
        weight.dtype,
        [STAGES] + weight.block_shape,  # noqa: RUF005  (Triton knows no star)
        weight.layout,
    )
    result = gl.allocate_shared_memory(out.dtype, out.block_shape, out.layout)
    full = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    empty = gl.allocate_shared_memory(gl.int64, [STAGES, 1], mbarrier.MBarrierLayout())
    for i in gl.static_range(STAGES):
        mbarrier.init(full.index(i), count=1)
        mbarrier.init(empty.index(i), count=1)
    fence_async_shared()
    # Written out in the call: constants in a tuple that has a name would become run-time values.
    gl.warp_specialize(
        [
            (
                multiply_tiles,
                (
                    layout,
                    layout_weight,
                    out,
                    partials,
                    pixels,
                    columns,
                    result,
                    full,
                    empty,
                    height,
                    width,
                    boxes,
                    tiles,
                    CHANNELS,
                    STEPS,
                    LAYOUT_STEPS,
                    COLUMN_TILES,
                    ROWS,
                    WIDE,
                    BN,
                    BK,
                    BL,
                    STAGES,
                ),
            ),
            (
                load_tiles,
                (
                    x,
                    weight,
                    layout,
                    layout_weight,
                    pixels,
                    columns,
                    full,
                    empty,
                    width,
                    boxes,
                    tiles,
                    STEPS,
                    LAYOUT_STEPS,
                    COLUMN_TILES,
                    ROWS,
                    WIDE,
                    BN,
                    BK,
                    BL,
                    STAGES,
                ),
            ),
        ],
        [1],
        [LOADER_REGISTERS],
    )


def launch_specialised(
    queue: Queue,
    x: Tensor | None,
    layout: Tensor | None,
    weights: Convolution,
    tile: Tile,
    out: Tensor,
    partials: Tensor,
    size: tuple[int, int, int],
    depth: int,
) -> None:
    """Launch `convolve_specialised`.

    Args:
        queue: what allocates and launches.
        x: activated [N, H, W, C_in].
        layout: soft map [N, H, W, classes], or None.
        weights: in the type of `x`.
        tile: specialised.
        out: raw [N, H, W, C_out], written.
        partials: float32 [N, tiles, 3], written.
        size: [N, H, W].
        depth: classes of one product.

    Raises:
        ValueError: a type or a tile that only `convolve` takes.
    """
    n, height, width = size
    if x is None:
        raise ValueError("a specialised tile takes features; expected another for the layout alone")
    if x.dtype not in (torch.float16, torch.bfloat16):
        raise ValueError(f"a specialised tile takes float16 or bfloat16, not {x.dtype}")
    if layout is not None and layout.dtype != x.dtype:
        raise ValueError(f"a specialised tile takes layouts as {x.dtype}, not {layout.dtype}")
    if layout is not None and depth > tile.depth:
        raise ValueError(f"{tile}: specialised, and beside a layout, the depth is {depth} or more")
    across, down = triton.cdiv(width, tile.wide), triton.cdiv(height, tile.rows)
    outputs = weights.weight.shape[1]
    tiles = n * across * down * triton.cdiv(outputs, tile.outputs)
    beside = None if layout is None else weights.layout
    queue.launch(
        convolve_specialised,
        (min(tiles, PROCESSORS[90]), 1, 1),
        x=Box(x, (1, tile.rows, tile.wide, tile.depth)),
        weight=Box(weights.weight, (1, tile.outputs, tile.depth)),
        layout=None if layout is None else Box(layout, (1, tile.rows, tile.wide, depth)),
        layout_weight=None if beside is None else Box(beside, (1, tile.outputs, depth)),
        out=Box(out, (1, tile.rows, tile.wide, tile.outputs)),
        partials=partials,
        height=height,
        width=width,
        boxes=across * down,
        tiles=tiles,
        INPUTS=x.shape[3],
        OUTPUTS=outputs,
        CHANNELS=weights.channels,
        CLASSES=0 if layout is None else layout.shape[3],
        ROWS=tile.rows,
        WIDE=tile.wide,
        BN=tile.outputs,
        BK=tile.depth,
        BL=depth,
        STAGES=tile.stages,
        num_warps=tile.warps,
    )
