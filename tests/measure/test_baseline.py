"""The trivial baseline against means taken by masks."""

from __future__ import annotations

import numpy as np

from crn_fast.measure.baseline import ClassColors

RNG = np.random.default_rng(5)


def test_colors_are_the_means_of_their_classes() -> None:
    photos = RNG.integers(0, 256, (3, 5, 7, 3), dtype=np.uint8)
    labels = RNG.choice([0, 2, 3], (3, 5, 7)).astype(np.uint8)
    colors = ClassColors(5)
    for photo, ids in zip(photos, labels, strict=True):
        colors.add(photo, ids)
    found = colors.colors()
    assert found.dtype == np.uint8
    for c in (0, 2, 3):
        expected = photos[labels == c].astype(np.float64).mean(0)
        np.testing.assert_array_equal(found[c], np.floor(expected + 0.5))
    overall = np.floor(photos.reshape(-1, 3).astype(np.float64).mean(0) + 0.5)
    np.testing.assert_array_equal(found[[1, 4]], [overall] * 2)
