"""What the ops take and give: features with their pending norm, and packed convolutions.

Maps are NHWC. Channels are padded by zeros to a multiple of 16, so that every row of channels is a
whole number of the 16 bytes that TMA counts in.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

ALIGNMENT = 16


def padded(channels: int) -> int:
    """Channels as stored: the next multiple of 16."""
    return -(-channels // ALIGNMENT) * ALIGNMENT


class Features(NamedTuple):
    """The features are leaky_relu(raw * scale + shift)."""

    raw: Tensor
    """[N, H, W, C], convolution output"""
    scale: Tensor
    """float32 [N, C], the pending norm; 0 in the padding"""
    shift: Tensor
    """as `scale`"""


class Folded(NamedTuple):
    """`refine` for half-pixel upsampling as convolutions of the small map: see `packing.fold`."""

    weight: Tensor
    """[9, 4 C_out, C_in], phase by phase"""
    layout: Tensor
    """[16, 4 C_out, classes], over 4x4 pixels of the layout"""


class Convolution(NamedTuple):
    """A 3x3 convolution and the layer norm that follows it."""

    weight: Tensor
    """[9, C_out, C_in], padded; C_in is the features alone"""
    layout: Tensor | None
    """[9, C_out, classes], padded, of the layout's channels; None for `conv`"""
    gamma: Tensor
    """float32 [C_out], padded"""
    beta: Tensor
    """as `gamma`"""
    channels: int
    """C_out without its padding"""
    channel_scale: Tensor | None = None
    """float32 [C_out] for weights in fp8: what an output's sum of products is worth"""
    quantum: float = 1.0
    """for weights in fp8: what features are multiplied by before they are cast"""
    folded: Folded | None = None


class Head(NamedTuple):
    weight: Tensor
    """float32 [3K, C], padded channels, image by image"""
    bias: Tensor
    """float32 [3K]"""


def float_type(weights: Convolution) -> torch.dtype:
    """Of the raw maps and soft layouts beside these weights: fp16 beside fp8."""
    fp8 = weights.weight.dtype == torch.float8_e4m3fn
    return torch.float16 if fp8 else weights.weight.dtype
