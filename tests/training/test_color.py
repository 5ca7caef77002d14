"""Colour augmentation: each factor is its formula, and all together are one after the other."""

from __future__ import annotations

import colorsys

import numpy as np
import pytest

from crn_fast.training.color import LUMA, Jitter, apply, draw

NONE = Jitter(0, 0, 0, 0)


def photo(low: int = 60, high: int = 190) -> np.ndarray:
    """Noise far enough from black and white for small changes not to clip."""
    return np.random.default_rng(0).integers(low, high, (13, 17, 3), dtype=np.uint8)


def rounded(values: np.ndarray) -> np.ndarray:
    return np.clip(np.floor(values + 0.5), 0, 255)


def by_hand(rgb: np.ndarray, jitter: Jitter) -> np.ndarray:
    """Hue, saturation, brightness, contrast, one after the other in float64."""
    y, i, q = np.moveaxis(rgb @ np.array(color_axes()).T, -1, 0)
    angle = 2 * np.pi * jitter.hue
    i, q = i * np.cos(angle) - q * np.sin(angle), i * np.sin(angle) + q * np.cos(angle)
    x = np.stack([y, i, q], -1) @ np.linalg.inv(color_axes()).T
    grey = (x @ LUMA)[..., None]
    x = grey + jitter.saturation * (x - grey)
    x = x * jitter.brightness
    mean = (x @ LUMA).mean()
    return mean + jitter.contrast * (x - mean)


def color_axes() -> list[list[float]]:
    """Luma and the two differences of JPEG, from its definition by 1.772 and 1.402."""
    r, g, b = LUMA
    blue, red = [-r, -g, 1 - b], [1 - r, -g, -b]
    return [[r, g, b], [v / 1.772 for v in blue], [v / 1.402 for v in red]]


@pytest.mark.parametrize(
    "jitter",
    [
        Jitter(),
        Jitter(brightness=1.3),
        Jitter(contrast=0.6),
        Jitter(saturation=0.0),
        Jitter(hue=0.25),
        Jitter(hue=-0.1),
        Jitter(0.9, 1.2, 0.7, 0.05),
    ],
)
def test_is_its_formula(jitter: Jitter) -> None:
    rgb = photo()
    found = apply(rgb, jitter)
    assert found.dtype == np.uint8
    expected = by_hand(rgb.astype(float), jitter)
    # Published coefficients have six decimals; a value may fall to the other side of a half.
    assert np.abs(found - np.clip(expected, 0, 255)).max() < 0.51
    np.testing.assert_array_equal(apply(rgb, Jitter()), rgb)


def test_saturation_0_is_grey_and_hue_keeps_the_luma() -> None:
    rgb = photo()
    grey = apply(rgb, Jitter(saturation=0))
    assert np.ptp(grey, axis=-1).max() == 0
    turned = apply(rgb, Jitter(hue=0.3))
    assert np.abs(turned @ LUMA - rgb @ LUMA).max() < 1
    hues = [colorsys.rgb_to_hsv(*(c[0, 0] / 255))[0] for c in (rgb, turned)]
    assert 0.1 < (hues[0] - hues[1]) % 1 < 0.9


def test_too_bright_is_clipped_not_wrapped() -> None:
    found = apply(photo(0, 256), Jitter(brightness=1.9, contrast=1.9))
    expected = by_hand(photo(0, 256).astype(float), Jitter(1.9, 1.9))
    assert (found[expected > 260] == 255).all() and (found[expected < -5] == 0).all()


def test_draws_stay_in_their_ranges_and_leave_each_other_alone() -> None:
    both = [draw(Jitter(0.2, 0, 0, 0.1), np.random.default_rng(s)) for s in range(200)]
    for drawn in both:
        assert 0.8 <= drawn.brightness <= 1.2 and -0.1 <= drawn.hue <= 0.1
        assert drawn.contrast == drawn.saturation == 1
    assert np.ptp([drawn.brightness for drawn in both]) > 0.35
    alone = [draw(NONE._replace(hue=0.1), np.random.default_rng(s)) for s in range(200)]
    assert [drawn.hue for drawn in alone] == [drawn.hue for drawn in both]
