"""Weights as the Triton kernels read them."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="packing needs torch")

import torch
import torch.nn.functional as F

from crn_fast.kernels.gpu import packing


def test_folding_is_exact_inside_the_outermost_ring() -> None:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    x, layout = normal(1, 16, 5, 6), normal(1, 16, 10, 12)
    weight = normal(16, 32, 3, 3)
    up = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    expected = F.conv2d(torch.cat([up, layout], 1), weight, padding=1)
    folded = packing.fold(packing.by_taps(weight[:, :16]), packing.by_taps(weight[:, 16:]))

    def as_convolution(taps: torch.Tensor, side: int) -> torch.Tensor:
        return taps.reshape(side, side, 64, 16).permute(2, 3, 0, 1)

    found = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), as_convolution(folded.weight, 3))
    found += F.conv2d(F.pad(layout, (1, 1, 1, 1)), as_convolution(folded.layout, 4), stride=2)
    phases = found.view(2, 2, 16, 5, 6).permute(2, 3, 0, 4, 1).reshape(1, 16, 10, 12)
    error = (phases - expected).abs().amax((0, 1))
    assert error[1:-1, 1:-1].max() < 1e-4
    assert min(error[0].max(), error[-1].max(), error[:, 0].max(), error[:, -1].max()) > 0.1


def test_taps_are_padded_by_zeros() -> None:
    taps = packing.by_taps(torch.arange(2 * 3 * 9.0).view(2, 3, 3, 3) + 1)
    assert taps.shape == (9, 16, 16)
    assert taps[5, 1, 2] == 1 + 1 * 27 + 2 * 9 + 5
    assert taps.sum() == sum(range(1, 55))


def test_fp8_uses_its_whole_range() -> None:
    taps = torch.randn(9, 16, 32, generator=torch.Generator().manual_seed(0))
    taps[:, 3] *= 1e-4
    taps[:, 7] = 0
    narrow, worth = packing.quantise(taps)
    assert narrow.float().abs().amax((0, 2))[:3].eq(448).all()
    assert worth[7] == 1
    error = (narrow.float() * worth[:, None] - taps).abs()
    assert (error <= taps.abs() / 16 + worth[:, None] * 2**-10).all()
