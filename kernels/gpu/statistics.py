"""From the statistics of tiles to the pending norm of a whole map, in a fixed order.

Each tile leaves its count, mean and sum of squared deviations in float32. They are combined by
Chan's formula for many groups at once: the mean of the means, then every group's own deviations
plus count * (its mean - the mean)^2. No sum runs over more than the tiles, and the order is that of
the tiles, so results are the same bits at every run.

Compiled for sm_80 to sm_120, never run on a GPU.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from crn_fast.kernels.gpu.operands import Convolution, Features
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.tile import store_statistics

EPS = tl.constexpr(1e-12)


@triton.jit
def pending_norm(
    partials,  # float32 [N, tiles, 3]: count, mean, squared deviations
    gamma,  # float32 [CHANNELS]
    beta,
    scale,  # float32 [N, CHANNELS], the result
    shift,
    TILES: tl.constexpr,
    CHANNELS: tl.constexpr,
    BLOCK: tl.constexpr,
    BC: tl.constexpr,  # all channels, the next power of two
):
    sample = tl.program_id(0)
    partials += sample * TILES * 3
    i = tl.arange(0, BLOCK)
    count = tl.zeros((BLOCK,), tl.float32)
    total = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, TILES, BLOCK):
        mask = first + i < TILES
        n = tl.load(partials + (first + i) * 3, mask=mask, other=0.0)
        count += n
        total += n * tl.load(partials + (first + i) * 3 + 1, mask=mask, other=0.0)
    counted = tl.sum(count, 0)
    mean = tl.sum(total, 0) / counted
    squares = tl.zeros((BLOCK,), tl.float32)
    for first in range(0, TILES, BLOCK):
        mask = first + i < TILES
        n = tl.load(partials + (first + i) * 3, mask=mask, other=0.0)
        deviation = tl.load(partials + (first + i) * 3 + 1, mask=mask, other=0.0) - mean
        within = tl.load(partials + (first + i) * 3 + 2, mask=mask, other=0.0)
        squares += within + n * deviation * deviation
    variance = tl.sum(squares, 0) / counted
    channel = tl.arange(0, BC)
    known = channel < CHANNELS
    scales = tl.load(gamma + channel, mask=known, other=0.0) * (1.0 / tl.sqrt_rn(variance + EPS))
    tl.store(scale + sample * CHANNELS + channel, scales, mask=known)
    shifts = tl.load(beta + channel, mask=known, other=0.0) - mean * scales
    tl.store(shift + sample * CHANNELS + channel, shifts, mask=known)


@triton.jit
def reduce_splits(
    parts,  # float32 [SPLITS, N, values]
    out,  # raw [N, values]
    partials,  # float32 [N, tiles, 3]
    values,  # of one sample: height * width * OUTPUTS
    OUTPUTS: tl.constexpr,  # padded channels
    CHANNELS: tl.constexpr,  # without the padding
    SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    sample = tl.program_id(1)
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    mask = i < values
    total = tl.zeros((BLOCK, 1), tl.float32)
    for split in tl.static_range(SPLITS):
        part = (split * tl.num_programs(1) + sample).to(tl.int64) * values
        total += tl.load(parts + part + i, mask=mask, other=0.0)
    partial = sample * tl.num_programs(0) + tl.program_id(0)
    real = i % OUTPUTS < CHANNELS
    store_statistics(total, mask, real, partials + 3 * partial, OUTPUTS == CHANNELS)
    out += sample.to(tl.int64) * values
    tl.store(out + i, total.to(out.dtype.element_ty), mask=mask)


def add_splits(queue: Queue, parts: Tensor, raw: Tensor, channels: int) -> Tensor:
    """Add the parts of a split convolution into `raw`, in order; gives the tiles' statistics.

    Args:
        queue: what allocates and launches.
        parts: float32 [splits, N, H, W, C].
        raw: [N, H, W, C], written.
        channels: how many of C are no padding.
    """
    splits, n, height, width, outputs = parts.shape
    values, block = height * width * outputs, 1024
    tiles = triton.cdiv(values, block)
    partials = queue.take((n, tiles, 3), parts.dtype)
    queue.launch(
        reduce_splits,
        (tiles, n, 1),
        parts=parts,
        out=raw,
        partials=partials,
        values=values,
        OUTPUTS=outputs,
        CHANNELS=channels,
        SPLITS=splits,
        BLOCK=block,
    )
    return partials


def normed(queue: Queue, raw: Tensor, partials: Tensor, weights: Convolution) -> Features:
    """The map with its pending norm; gives `partials` back to the queue."""
    n, tiles, _ = partials.shape
    channels = raw.shape[-1]
    scale, shift = (queue.take((n, channels), partials.dtype) for _ in range(2))
    queue.launch(
        pending_norm,
        (n, 1, 1),
        partials=partials,
        gamma=weights.gamma,
        beta=weights.beta,
        scale=scale,
        shift=shift,
        TILES=tiles,
        CHANNELS=channels,
        BLOCK=1024,
        BC=triton.next_power_of_2(channels),
    )
    queue.give(partials)
    return Features(raw, scale, shift)
