"""The op `head`, with `to_uint8` in it: norm, leaky ReLU, 1x1 convolution, 0..255, rounding.

All images of a layout at once. In float32 whatever the features' type: the work is small, and half
a grey level is not.

Compiled for sm_80 to sm_120, never run on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crn_fast.kernels.gpu.operands import Features, Head
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.tile import activate


@triton.jit
def head_kernel(
    raw,  # [N, pixels, CHANNELS]
    scale,  # float32 [N, CHANNELS], the pending norm
    shift,
    weight,  # float32 [OUTPUTS, CHANNELS], image by image
    bias,  # float32 [OUTPUTS]
    rgb,  # uint8 or float32 [N, K, pixels, 3]
    pixels,
    CHANNELS: tl.constexpr,  # padded
    OUTPUTS: tl.constexpr,  # 3 K
    ROUND: tl.constexpr,  # to uint8
    BP: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
):
    sample = tl.program_id(2)
    pixel = tl.program_id(0) * BP + tl.arange(0, BP)
    output = tl.program_id(1) * BN + tl.arange(0, BN)
    inside, wanted = pixel < pixels, output < OUTPUTS
    raw += sample.to(tl.int64) * pixels * CHANNELS
    acc = tl.zeros((BP, BN), tl.float32)
    for first in range(0, CHANNELS, BK):
        k = first + tl.arange(0, BK)
        known = (k < CHANNELS)[None, :]
        scales = tl.load(scale + sample * CHANNELS + k[None, :], mask=known, other=0.0)
        shifts = tl.load(shift + sample * CHANNELS + k[None, :], mask=known, other=0.0)
        at = pixel[:, None] * CHANNELS + k[None, :]
        value = tl.load(raw + at, mask=inside[:, None] & known, other=0.0)
        w = tl.load(
            weight + output[:, None] * CHANNELS + k[None, :],
            mask=wanted[:, None] & known,
            other=0.0,
        )
        acc = tl.dot(activate(value, scales, shifts), w.T, acc, input_precision="ieee")
    acc += tl.load(bias + output, mask=wanted, other=0.0)[None, :]
    acc = (acc + 1.0) * 127.5
    if ROUND:
        acc = tl.floor(tl.minimum(tl.maximum(acc, 0.0), 255.0) + 0.5)
    image, colour = output // 3, output % 3
    rgb += sample.to(tl.int64) * pixels * OUTPUTS
    at = (image[None, :] * pixels + pixel[:, None]) * 3 + colour[None, :]
    tl.store(rgb + at, acc.to(rgb.dtype.element_ty), mask=inside[:, None] & wanted[None, :])


def head(queue: Queue, features: Features, weights: Head, dtype: torch.dtype) -> Tensor:
    """Norm and leaky ReLU, 1x1 convolution, from -1..1 to 0..255.

    Args:
        queue: what allocates and launches.
        features: [N, H, W, C].
        weights: image by image.
        dtype: uint8 clips to 0..255 and rounds half up; float32 does neither.

    Returns:
        RGB [N, K, H, W, 3].
    """
    n, height, width, channels = features.raw.shape
    outputs = len(weights.bias)
    rgb = queue.take((n, outputs // 3, height, width, 3), dtype)
    wide = min(64, triton.next_power_of_2(max(outputs, 16)))
    pixels = 64
    queue.launch(
        head_kernel,
        (triton.cdiv(height * width, pixels), triton.cdiv(outputs, wide), n),
        raw=features.raw,
        scale=features.scale,
        shift=features.shift,
        weight=weights.weight,
        bias=weights.bias,
        rgb=rgb,
        pixels=height * width,
        CHANNELS=channels,
        OUTPUTS=outputs,
        ROUND=dtype == torch.uint8,
        BP=pixels,
        BN=wide,
        BK=min(32, triton.next_power_of_2(channels)),
    )
    return rgb
