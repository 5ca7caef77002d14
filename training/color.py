"""Colour augmentation: brightness, contrast, saturation and hue of a photo, in one affine map.

The four are linear in RGB, so that a photo is rounded and clipped once, at the end. Layouts have no
colours and are not touched.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

TO_YCBCR = np.array(
    [[0.299, 0.587, 0.114], [-0.168736, -0.331264, 0.5], [0.5, -0.418688, -0.081312]]
)
"""RGB -> luma and two colour differences. Source: JFIF 1.02, after ITU-R BT.601."""
LUMA = TO_YCBCR[0]


class Jitter(NamedTuple):
    """What happens to one photo; the defaults change nothing."""

    brightness: float = 1.0
    """Factor of every value."""
    contrast: float = 1.0
    """Factor of the distance from the photo's mean luma."""
    saturation: float = 1.0
    """Factor of the distance from each pixel's own luma; 0 is grey."""
    hue: float = 0.0
    """Turn of the colour circle, in turns, at the same luma."""


def draw(ranges: Jitter, rng: np.random.Generator) -> Jitter:
    """Factors uniform in 1 - range .. 1 + range, and a hue in -range .. range.

    Four numbers are drawn whatever the ranges, so that each range leaves the others' draws alone.
    """
    brightness, contrast, saturation, hue = rng.uniform(-1, 1, 4) * ranges
    return Jitter(1 + brightness, 1 + contrast, 1 + saturation, hue)


def apply(photo: np.ndarray, jitter: Jitter) -> np.ndarray:
    """The photo, uint8 RGB [h, w, 3], with its colours changed.

    The mean is a sum of integers and pixels are combined in a fixed order, so that the bytes do not
    depend on how many threads there are.
    """
    angle = 2 * math.pi * jitter.hue
    cos, sin = jitter.saturation * math.cos(angle), jitter.saturation * math.sin(angle)
    turn = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
    gain = jitter.brightness * jitter.contrast
    matrix = gain * np.linalg.inv(TO_YCBCR) @ turn @ TO_YCBCR
    mean = float(photo.sum((0, 1), dtype=np.int64) @ LUMA) / (photo.shape[0] * photo.shape[1])
    offset = jitter.brightness * (1 - jitter.contrast) * mean
    red, green, blue = (photo[..., c].astype(np.float32) for c in range(3))
    changed = np.empty_like(photo)
    for channel, (r, g, b) in enumerate(matrix.astype(np.float32)):
        value = red * r + green * g + blue * b + np.float32(offset)
        changed[..., channel] = np.clip(value + np.float32(0.5), 0, 255)
    return changed
