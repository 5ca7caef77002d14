"""One picture out of a network's K: for each class, the pixels of one of them.

The class-diversity loss judges pictures that are put together class by class, so any choice of a
picture for each class is as good as another: K to the power of the classes pictures of a layout.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from crn_fast.errors import UsageError
from crn_fast.files import nearest
from crn_fast.palette import LabelSet

MAX_SEAM = 256


def compose(
    pictures: np.ndarray, labels: np.ndarray, choice: Mapping[int, int], seam: int = 0
) -> np.ndarray:
    """The picture whose pixels of each class come from the chosen picture.

    Args:
        pictures: uint8 RGB [K, H, W, 3].
        labels: uint8 [H, W], channels.
        choice: channel -> number of a picture, 0..K-1; 0 for classes that are not named.
        seam: pixels on each side of a border between two pictures over which one becomes the
            other: the mean over the square of 2 seam + 1 pixels of whose picture is taken.
            0 leaves every pixel as it is in its picture.

    Returns:
        uint8 RGB [H, W, 3].

    Raises:
        UsageError: no such picture, shapes that do not fit, or a seam outside 0..256.
    """
    if pictures.ndim != 4 or labels.shape != pictures.shape[1:3]:
        raise UsageError(
            f"pictures {pictures.shape} and labels {labels.shape}; expected [K, H, W, 3] and [H, W]"
        )
    if not 0 <= seam <= MAX_SEAM:
        raise UsageError(f"--seam is {seam}; expected 0 to {MAX_SEAM} pixels")
    taken = np.zeros(256, np.uint8)
    for channel, number in choice.items():
        if not 0 <= number < len(pictures):
            raise UsageError(f"picture {number} of {len(pictures)}: they count from 0")
        taken[channel] = number
    source = taken[labels]
    used = [k for k in range(len(pictures)) if (source == k).any()]
    picture: np.ndarray = pictures[used[0]].copy()
    for k in used[1:]:
        np.copyto(picture, pictures[k], where=(source == k)[..., None])
    if seam and len(used) > 1:
        _soften(picture, pictures, source, used, seam)
    return picture


def _soften(
    picture: np.ndarray, pictures: np.ndarray, source: np.ndarray, used: list[int], seam: int
) -> None:
    """Mix, where the square around a pixel holds several sources, their pictures by their share."""
    counts = {k: _count(source == k, seam) for k in used}
    total = np.sum(list(counts.values()), axis=0)
    mixed = ~np.logical_or.reduce([count == total for count in counts.values()])
    area = total[mixed][:, None]
    blend = np.sum([counts[k][mixed][:, None] * pictures[k][mixed] for k in used], axis=0)
    picture[mixed] = (2 * blend + area) // (2 * area)  # rounded to nearest


def _count(mask: np.ndarray, reach: int) -> np.ndarray:
    """How many pixels of the mask lie in the square around each pixel, as int64 [H, W]."""
    for axis in (0, 1):
        length = mask.shape[axis]
        sums = np.zeros([n + (i == axis) for i, n in enumerate(mask.shape)], np.int64)
        np.cumsum(mask, axis, out=sums[1:] if axis == 0 else sums[:, 1:])
        at = np.arange(length)
        high = np.minimum(at + reach + 1, length)
        low = np.maximum(at - reach, 0)
        mask = sums.take(high, axis) - sums.take(low, axis)
    return mask


def parse_choice(text: str, labels: LabelSet, images: int) -> dict[int, int]:
    """'car=2,road=0' as channel -> number of a picture.

    Raises:
        UsageError: a class that the label set has not, a number that is none of the K pictures, a
            class named twice, or a network that makes one picture.
    """
    if images == 1:
        raise UsageError(
            "--compose: this model makes one picture of a layout, so there is nothing to choose "
            "from; street-256-diverse makes four"
        )
    choice: dict[int, int] = {}
    for part in text.split(","):
        name, equals, number = (piece.strip() for piece in part.rpartition("="))
        if not equals:
            raise UsageError(f"--compose {part!r}: expected CLASS=K, as in car=2,road=0")
        if name not in labels.names:
            raise UsageError(
                f"--compose {part}: {name!r} is no class of {labels.name}: "
                f"{', '.join(labels.names)}"
            ).instead_of(name, *nearest(name, labels.names))
        if not number.isdecimal() or int(number) >= images:
            raise UsageError(
                f"--compose {part}: expected a picture's number, 0 to {images - 1}, not {number!r}"
            )
        channel = labels.names.index(name)
        if channel in choice:
            raise UsageError(f"--compose names {name!r} twice")
        choice[channel] = int(number)
    return choice
