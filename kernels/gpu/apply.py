"""The apply pass: norm, leaky ReLU and bilinear x2 written out for `convolve`, in its type.

For fp8, values are multiplied by a static `quantum` first and clipped to the type's range. With
'edge' the map gets a ring of copied edge pixels, as the folded form wants it.

Compiled for sm_80 to sm_120, never run on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from crn_fast.kernels.gpu.operands import Features
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.tile import load_upsampled

E4M3_MAX = tl.constexpr(448.0)


@triton.jit
def apply_kernel(
    raw,  # [N, H, W, CHANNELS]
    scale,  # float32 [N, CHANNELS], the pending norm
    shift,
    out,  # [N, height, width, CHANNELS]
    quantum,  # float, multiplied before the cast
    height,  # of the result
    width,
    raw_height,
    raw_width,
    CHANNELS: tl.constexpr,  # padded
    UPSAMPLING: tl.constexpr,  # 'none', 'edge', 'align_corners', 'half_pixel'
    FP8: tl.constexpr,
    BP: tl.constexpr,  # pixels, of one row after another
    BC: tl.constexpr,  # channels
):
    sample = tl.program_id(2)
    pixel = tl.program_id(0) * BP + tl.arange(0, BP)
    channels = tl.program_id(1) * BC + tl.arange(0, BC)
    known = channels < CHANNELS
    y, x = pixel // width, pixel % width
    if UPSAMPLING == "edge":
        y, x = y - 1, x - 1
    mask = (pixel < height * width)[:, None] & known[None, :]
    scales = tl.load(scale + sample * CHANNELS + channels, mask=known, other=0.0)[None, :]
    shifts = tl.load(shift + sample * CHANNELS + channels, mask=known, other=0.0)[None, :]
    raw += sample.to(tl.int64) * raw_height * raw_width * CHANNELS
    value = load_upsampled(
        raw, scales, shifts, y, x, channels, mask, raw_height, raw_width, CHANNELS, UPSAMPLING
    )
    if FP8:
        value = tl.minimum(tl.maximum(value * quantum, -E4M3_MAX), E4M3_MAX)
    out += sample.to(tl.int64) * height * width * CHANNELS
    at = pixel[:, None] * CHANNELS + channels[None, :]
    tl.store(out + at, value.to(out.dtype.element_ty), mask=mask)


def apply(
    queue: Queue, features: Features, dtype: torch.dtype, upsampling: str, quantum: float = 1.0
) -> torch.Tensor:
    """Activate features, and upsample them or give them a ring of edge pixels.

    Args:
        queue: what allocates and launches.
        features: [N, H, W, C].
        dtype: of the result; float8_e4m3fn is multiplied by `quantum` and clipped to -448..448.
        upsampling: 'none', 'edge' (one more pixel on each side), 'align_corners' or 'half_pixel'.
        quantum: for fp8, what 1.0 becomes.

    Returns:
        [N, H, W, C], [N, H + 2, W + 2, C] or [N, 2 H, 2 W, C].
    """
    n, raw_height, raw_width, channels = features.raw.shape
    height, width = {
        "none": (raw_height, raw_width),
        "edge": (raw_height + 2, raw_width + 2),
    }.get(upsampling, (2 * raw_height, 2 * raw_width))
    out = queue.take((n, height, width, channels), dtype)
    wide = min(128, triton.next_power_of_2(channels))
    pixels = 4096 // wide
    queue.launch(
        apply_kernel,
        # Pixels come first: a grid's other axes end at 65535.
        (triton.cdiv(height * width, pixels), triton.cdiv(channels, wide), n),
        raw=features.raw,
        scale=features.scale,
        shift=features.shift,
        out=out,
        quantum=quantum,
        height=height,
        width=width,
        raw_height=raw_height,
        raw_width=raw_width,
        CHANNELS=channels,
        UPSAMPLING=upsampling,
        FP8=dtype == torch.float8_e4m3fn,
        BP=pixels,
        BC=wide,
    )
    return out
