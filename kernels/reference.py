"""Every op of the cascade in plain torch: the oracle, and what eager rendering and training run.

Differentiable, and exact enough in float64 to judge the other kernels by. It is not fast and does
not try to be: no packing, no fusion, one readable line for each step.

Features are `Features`: raw convolution output with the layer norm that is still to be applied,
as a scale and a shift for each sample and channel. Statistics are always taken in float32 or
better, whatever the dtype of the convolution.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

EPS = 1e-12
"""Added to the variance, as in the authors' layer norm."""
SLOPE = 0.2
"""Of the leaky ReLU below zero."""
UNFOLD_BYTES = 1 << 30
"""How much memory the float64 convolution may unfold at a time."""


class Features(NamedTuple):
    raw: Tensor
    """[N, C, H, W], convolution output"""
    scale: Tensor
    """[N, C], float32 or float64"""
    shift: Tensor
    """[N, C], as `scale`; the features are leaky_relu(raw * scale + shift)"""


def label_pyramid(labels: Tensor, classes: int, stages: int) -> list[Tensor]:
    """The layout at each stage, coarse to fine.

    Args:
        labels: uint8 [N, H, W], every id < `classes`; H and W divisible by 2**(stages - 1).
        classes: channels of the layout.
        stages: number of stages.

    Returns:
        `stages` tensors: below full size float32 soft maps [N, classes, h, w], each the 2x2 mean of
        the next finer one (exact: they are dyadic rationals); last, `labels` themselves.
    """
    if stages == 1:
        return [labels]
    soft = one_hot(labels, classes, torch.float32)
    pyramid = [labels]
    for _ in range(stages - 1):
        soft = F.avg_pool2d(soft, 2)
        pyramid.append(soft)
    return pyramid[::-1]


def one_hot(labels: Tensor, classes: int, dtype: torch.dtype) -> Tensor:
    """uint8 ids [N, H, W] -> [N, classes, H, W] of 0 and 1. Ids >= `classes` give all zeros."""
    ids = torch.arange(classes, device=labels.device, dtype=torch.int16).view(1, -1, 1, 1)
    return (labels.unsqueeze(1).to(torch.int16) == ids).to(dtype)


def refine(features: Features | None, layout: Tensor, weights: Any, upsampling: str) -> Features:
    """Norm and leaky ReLU, bilinear x2, concatenate the layout, 3x3 convolution.

    Args:
        features: of the stage before, at half the layout's size; None at the first stage.
        layout: soft map [N, classes, H, W], or at full size uint8 ids [N, H, W].
        weights: `weight` [C_out, C + classes, 3, 3] with the layout's channels last, `gamma`
            and `beta` [C_out].
        upsampling: 'align_corners' (source = dst * (in - 1) / (out - 1)) or 'half_pixel'.
    """
    dtype = weights.weight.dtype
    channels = 0 if features is None else features.raw.shape[1]
    if layout.dtype == torch.uint8:
        layout = one_hot(layout, weights.weight.shape[1] - channels, dtype)
    x = layout.to(dtype)
    if features is not None:
        upsampled = F.interpolate(
            activate(features).to(dtype),
            size=layout.shape[-2:],
            mode="bilinear",
            align_corners=upsampling == "align_corners",
        )
        x = torch.cat([upsampled, x], dim=1)
    return _convolve(x, weights)


def conv(features: Features, weights: Any) -> Features:
    """Norm and leaky ReLU, 3x3 convolution. `weights` as in `refine`."""
    return _convolve(activate(features).to(weights.weight.dtype), weights)


def head(features: Features, weights: Any) -> Tensor:
    """Norm and leaky ReLU, 1x1 convolution, from -1..1 to 0..255.

    Args:
        features: of the last stage, [N, C, H, W].
        weights: `weight` [3K, C] and `bias` [3K]; image k is channels k, K + k, 2K + k.

    Returns:
        RGB [N, K, H, W, 3] around 0..255, unclipped, float32 or float64.
    """
    x = activate(features).to(weights.weight.dtype)
    # Not in half precision by autocast: near black and white it would step by half a grey level.
    with torch.autocast(x.device.type, enabled=False):
        y = F.conv2d(x, weights.weight[:, :, None, None], weights.bias)
    n, channels, height, width = y.shape
    rgb = y.view(n, 3, channels // 3, height, width).permute(0, 2, 3, 4, 1)
    return (rgb.to(features.scale.dtype) + 1) * 127.5


def to_uint8(rgb: Tensor) -> Tensor:
    """Clip to 0..255 and round half up: floor(x + 0.5), uint8."""
    return (rgb.clamp(0, 255) + 0.5).floor().to(torch.uint8)


def activate(features: Features) -> Tensor:
    """Apply the pending norm and the leaky ReLU: [N, C, H, W] in the statistics' dtype."""
    scale, shift = features.scale[:, :, None, None], features.shift[:, :, None, None]
    return F.leaky_relu(features.raw * scale + shift, SLOPE)


def _convolve(x: Tensor, weights: Any) -> Features:
    raw = conv3x3(x, weights.weight)
    # The mean and biased variance over height, width and channels together, for each sample.
    statistics = raw if raw.dtype == torch.float64 else raw.float()
    variance, mean = torch.var_mean(statistics, dim=(1, 2, 3), correction=0, keepdim=True)
    scale = weights.gamma.to(mean.dtype) * torch.rsqrt(variance + EPS)[:, :, 0, 0]
    return Features(raw, scale, weights.beta.to(mean.dtype) - mean[:, :, 0, 0] * scale)


def conv3x3(x: Tensor, weight: Tensor) -> Tensor:
    """3x3 convolution with zero padding 1: [N, C_in, H, W] -> [N, C_out, H, W].

    On a CPU torch unfolds the whole input for float64 (22 GB at 1024x2048), so that case goes
    in strips of rows with a halo of one row.
    """
    _, channels, height, width = x.shape
    rows = UNFOLD_BYTES // (9 * channels * width * x.element_size())
    if x.dtype != torch.float64 or x.device.type != "cpu" or rows >= height:
        return F.conv2d(x, weight, padding=1)
    padded = F.pad(x, (1, 1, 1, 1))
    strips = [
        F.conv2d(padded[:, :, top : top + max(rows, 1) + 2], weight)
        for top in range(0, height, max(rows, 1))
    ]
    return torch.cat(strips, dim=2)
