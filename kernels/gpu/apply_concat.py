"""The apply pass with the layout beside its result: what TensorRT runs as a plugin.

As `apply`, upsampled x2, then the layout's channels, all in one map. A quick plugin of TensorRT
passes input pointers, 32-bit integers and output pointers, in that order and nothing else: so there
are no TMA descriptors here, and every other number is a constant. Maps lie as TensorRT's HWC8: the
channels of a pixel together, filled up to a multiple of 8.

Compiled for sm_80 to sm_120, never run on a GPU, nor by TensorRT.
"""

from __future__ import annotations

import triton
import triton.language as tl

from crn_fast.kernels.gpu.tile import load_upsampled


@triton.jit
def apply_concat_kernel(
    raw,  # float16 [N, height / 2, width / 2, FEATURES up to 8]
    scale,  # float32 [N, FEATURES], the pending norm
    shift,
    layout,  # float16 [N, height, width, CLASSES up to 8]
    height,  # of the result
    width,
    out,  # float16 [N, height, width, FEATURES + CLASSES up to 8]
    FEATURES: tl.constexpr,
    CLASSES: tl.constexpr,
    UPSAMPLING: tl.constexpr,  # 'align_corners' or 'half_pixel'
    BP: tl.constexpr,  # pixels, of one row after another
    BC: tl.constexpr,  # channels of the result
):
    OUTPUTS: tl.constexpr = (FEATURES + CLASSES + 7) // 8 * 8
    sample = tl.program_id(2)
    pixel = tl.program_id(0) * BP + tl.arange(0, BP)  # a grid's other axes end at 65535
    channels = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = (pixel < height * width)[:, None]
    feature = (channels < FEATURES)[None, :]
    scales = tl.load(scale + sample * FEATURES + channels, channels < FEATURES, 0.0)[None, :]
    shifts = tl.load(shift + sample * FEATURES + channels, channels < FEATURES, 0.0)[None, :]
    LOADED: tl.constexpr = (FEATURES + 7) // 8 * 8
    raw += sample.to(tl.int64) * (height // 2) * (width // 2) * LOADED
    value = load_upsampled(
        raw,
        scales,
        shifts,
        pixel // width,
        pixel % width,
        channels,
        inside & feature,
        height // 2,
        width // 2,
        LOADED,
        UPSAMPLING,
    )
    LAID: tl.constexpr = (CLASSES + 7) // 8 * 8
    layout += sample.to(tl.int64) * height * width * LAID
    known = (channels >= FEATURES) & (channels < FEATURES + CLASSES)
    at = pixel[:, None] * LAID + (channels - FEATURES)[None, :]
    share = tl.load(layout + at, inside & known[None, :], 0.0)
    out += sample.to(tl.int64) * height * width * OUTPUTS
    at = pixel[:, None] * OUTPUTS + channels[None, :]
    both = value + share.to(tl.float32)
    tl.store(out + at, both.to(tl.float16), inside & (channels < OUTPUTS)[None, :])
