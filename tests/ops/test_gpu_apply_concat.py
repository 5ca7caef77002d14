"""The plugin's kernel, as TensorRT would launch it, against the reference ops."""

from __future__ import annotations

import pytest

from ops.gpu_ops import DEVICE, apply_concat_kernel, reference, triton

# isort: split

import torch
import torch.nn.functional as F

from tolerance import assert_close


def hwc8(x: torch.Tensor) -> torch.Tensor:
    """[N, C, H, W] -> float16 [N, H, W, C up to 8], the padding NaN."""
    whole = F.pad(x.permute(0, 2, 3, 1).half(), (0, -x.shape[1] % 8), value=torch.nan)
    return whole.contiguous().to(DEVICE)


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("size", [(1, 16, 8, 2, 4), (2, 19, 12, 3, 5), (1, 5, 3, 1, 1)])
def test_matches_the_reference(size: tuple[int, int, int, int, int], upsampling: str) -> None:
    n, features, classes, height, width = size
    made = torch.Generator().manual_seed(0)
    raw = torch.randn(n, features, height, width, generator=made)
    scale, shift = torch.randn(2, n, features, generator=made)
    layout = torch.rand(n, classes, 2 * height, 2 * width, generator=made)
    x = reference.activate(reference.Features(raw.half().double(), scale.double(), shift.double()))
    up = F.interpolate(
        x, scale_factor=2, mode="bilinear", align_corners=upsampling == "align_corners"
    )
    expected = torch.cat([up, layout.half().double()], 1)
    out = torch.full((n, 2 * height, 2 * width, -(-(features + classes) // 8) * 8), torch.nan)
    out = out.half().to(DEVICE)
    grid = (triton.cdiv(4 * height * width, 8), triton.cdiv(features + classes, 16), n)
    apply_concat_kernel[grid](
        hwc8(raw),
        scale.to(DEVICE),
        shift.to(DEVICE),
        hwc8(layout),
        2 * height,
        2 * width,
        out,
        FEATURES=features,
        CLASSES=classes,
        UPSAMPLING=upsampling,
        BP=8,
        BC=16,
    )
    found = out.cpu()[..., : features + classes].permute(0, 3, 1, 2)
    # Half of a last place, at the largest value.
    assert_close(found.double(), expected, 4e-3)
    # What fills up a pixel's channels is read by the convolution that follows.
    assert not out.cpu()[..., features + classes :].any()
