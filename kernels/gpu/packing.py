"""Weights as the kernels read them, made once on the CPU.

Tap by tap, then outputs, then inputs (which wgmma reads as they lie, in fp8 too), with features and
layout apart.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast.kernels.gpu.operands import Folded, padded

E4M3_MAX = 448.0


def by_taps(weight: Tensor) -> Tensor:
    """[C_out, C_in, h, w] -> [h * w, C_out, C_in], both padded by zeros to a multiple of 16."""
    outputs, inputs, height, width = weight.shape
    taps = weight.permute(2, 3, 0, 1).reshape(height * width, outputs, inputs)
    return F.pad(taps, (0, padded(inputs) - inputs, 0, padded(outputs) - outputs)).contiguous()


def pad_channels(values: Tensor) -> Tensor:
    """[C] -> float32, padded by zeros."""
    return F.pad(values.float(), (0, padded(len(values)) - len(values)))


def quantise(taps: Tensor) -> tuple[Tensor, Tensor]:
    """[9, C_out, C_in] -> float8_e4m3fn, and float32 [C_out]: what 1.0 stands for in each row."""
    largest = taps.abs().amax((0, 2))
    worth = torch.where(largest > 0, largest / E4M3_MAX, 1.0)
    return (taps / worth[:, None]).to(torch.float8_e4m3fn), worth


def fold(weight: Tensor, layout: Tensor) -> Folded:
    """Half-pixel bilinear x2 then 3x3 convolution, as convolutions of the small map.

    Result (2 i + p, 2 j + q) is the 3x3 convolution of the small map at (i, j) with weights mixed
    for the phase (p, q). The layout is not upsampled: its taps for all four phases lie within the
    4x4 pixels from (2 i - 1, 2 j - 1) on. Right for every result but the outermost ring of pixels,
    where the zeros around the upsampled map would count.

    Args:
        weight: [9, C_out, C_in].
        layout: [9, C_out, classes].

    Returns:
        [9, 4 C_out, C_in] and [16, 4 C_out, classes] in the dtypes given, phase 2 p + q first.
    """
    mix = torch.tensor([_mix(0), _mix(1)], device=weight.device)
    outputs, inputs = weight.shape[1:]
    mixed = torch.einsum(
        "pat,qbs,tsoi->abpqoi", mix, mix, weight.float().reshape(3, 3, outputs, inputs)
    )
    spread = layout.new_zeros(4, 4, 2, 2, *layout.shape[1:])
    taps = layout.reshape(3, 3, *layout.shape[1:])
    for p in (0, 1):
        for q in (0, 1):
            spread[p : p + 3, q : q + 3, p, q] = taps
    return Folded(
        mixed.reshape(9, 4 * outputs, inputs).to(weight.dtype),
        spread.reshape(16, 4 * outputs, -1),
    )


def _mix(phase: int) -> list[list[float]]:
    """[3 offsets, 3 taps]: how much of small pixel i - 1 + offset is in each tap at 2 i + phase."""
    mix = [[0.0] * 3 for _ in range(3)]
    for tap in range(3):
        fine = phase + tap - 1
        low, odd = divmod(fine, 2)
        near, far = (low, low + 1) if odd else (low, low - 1)
        mix[near + 1][tap] += 0.75
        mix[far + 1][tap] += 0.25
    return mix
