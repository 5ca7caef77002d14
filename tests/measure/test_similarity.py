"""PSNR and SSIM against their formulas, written out in float64 loops."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("torch", reason="picture measures need torch")
pytest.importorskip("torchmetrics", reason="PSNR and SSIM come from torchmetrics")

from crn_fast.errors import Mismatch
from crn_fast.measure.similarity import Similarity
from crn_fast.measure.views import Views

TOLERANCE = 1e-6
"""Relative: torchmetrics keeps constants in float32."""
RNG = np.random.default_rng(0)


def noisy(photo: np.ndarray, amount: int) -> np.ndarray:
    shifted = photo.astype(int) + RNG.integers(-amount, amount + 1, photo.shape)
    return shifted.clip(0, 255).astype(np.uint8)


def make_views(count: int = 2, size: tuple[int, int] = (13, 17)) -> Views:
    photo = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    pictures = np.stack([noisy(photo, 20 * (k + 1)) for k in range(count)])
    return Views(photo, pictures, noisy(photo, 90), np.zeros(size, np.uint8))


def psnr(picture: np.ndarray, photo: np.ndarray) -> float:
    errors = [(float(a) - float(b)) ** 2 for a, b in zip(picture.flat, photo.flat, strict=True)]
    return 10 * math.log10(255**2 / (sum(errors) / len(errors)))


def ssim(picture: np.ndarray, photo: np.ndarray) -> float:
    """Wang et al. 2004, equation 13: windows of 11x11, reflected at the border."""
    steps = np.arange(-5, 6)
    weights = np.exp(-(steps[:, None] ** 2 + steps**2) / (2 * 1.5**2))
    weights /= weights.sum()
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    height, width, channels = photo.shape
    values = []
    for channel in range(channels):
        x, y = (
            np.pad(rgb[..., channel].astype(np.float64), 5, mode="reflect")
            for rgb in (picture, photo)
        )
        for row in range(height):
            for column in range(width):
                a, b = (v[row : row + 11, column : column + 11] for v in (x, y))
                ma, mb = (weights * a).sum(), (weights * b).sum()
                va, vb = (weights * (a - ma) ** 2).sum(), (weights * (b - mb) ** 2).sum()
                both = (weights * (a - ma) * (b - mb)).sum()
                values.append(
                    (2 * ma * mb + c1) * (2 * both + c2) / ((ma**2 + mb**2 + c1) * (va + vb + c2))
                )
    return float(np.mean(values))


def test_psnr_is_the_formula() -> None:
    measure, pairs = Similarity("psnr"), [make_views(), make_views()]
    each = [measure.add(views)["psnr"] for views in pairs]
    expected = [np.mean([psnr(p, v.photo) for p in v.pictures]) for v in pairs]
    np.testing.assert_allclose([found["model"] for found in each], expected, rtol=TOLERANCE)
    (row,) = measure.rows()
    assert row.model == pytest.approx(np.mean(expected), rel=TOLERANCE)
    expected = [psnr(v.baseline, v.photo) for v in pairs]
    assert row.baseline == pytest.approx(np.mean(expected), rel=TOLERANCE)
    assert row.photos is None


def test_ssim_is_the_formula() -> None:
    measure, views = Similarity("ssim"), make_views()
    measure.add(views)
    (row,) = measure.rows()
    expected = np.mean([ssim(picture, views.photo) for picture in views.pictures])
    assert row.model == pytest.approx(expected, rel=TOLERANCE)
    assert row.baseline == pytest.approx(ssim(views.baseline, views.photo), rel=TOLERANCE)


def test_equal_pictures_are_perfect() -> None:
    views = make_views(1)
    views = views._replace(pictures=views.photo[None])
    psnr_found, ssim_found = Similarity("psnr").add(views), Similarity("ssim").add(views)
    assert psnr_found["psnr"]["model"] == math.inf
    assert ssim_found["ssim"]["model"] == pytest.approx(1)


def test_a_picture_smaller_than_the_window_is_named() -> None:
    with pytest.raises(Mismatch, match="10x17; its window needs 11x11"):
        Similarity("ssim").add(make_views(size=(10, 17)))
