"""The Frechet distance against its formula and against cases with a known answer."""

from __future__ import annotations

import numpy as np
import pytest

from crn_fast.measure.frechet import FrechetDistance, Gaussian, distance
from crn_fast.measure.views import Views

RNG = np.random.default_rng(2)


def gaussian_of(vectors: np.ndarray) -> Gaussian:
    found = Gaussian(vectors.shape[1])
    for vector in vectors:
        found.add(vector)
    return found


def test_mean_and_covariance_are_numpys() -> None:
    vectors = RNG.normal(1000, 1, (40, 5)) @ RNG.normal(size=(5, 5))
    found = gaussian_of(vectors)
    np.testing.assert_allclose(found.mean, vectors.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(vectors.T), rtol=1e-9)


def test_distance_is_the_formula() -> None:
    linalg = pytest.importorskip("scipy.linalg", reason="the oracle takes scipy's square root")
    one, other = RNG.normal(size=(60, 6)), RNG.normal(0.5, 2, (50, 6)) @ RNG.normal(size=(6, 6))
    c1, c2 = np.cov(one.T), np.cov(other.T)
    offset = ((one.mean(0) - other.mean(0)) ** 2).sum()
    expected = offset + np.trace(c1 + c2 - 2 * linalg.sqrtm(c1 @ c2).real)
    found = distance(gaussian_of(one), gaussian_of(other))
    assert found == pytest.approx(expected, rel=1e-9)
    assert distance(gaussian_of(other), gaussian_of(one)) == pytest.approx(expected, rel=1e-9)


def test_commuting_covariances_have_a_closed_form() -> None:
    """For diagonal covariances: |m1 - m2|^2 + sum (s1 - s2)^2."""
    signs = np.array([[a, b] for a in (-1, 1) for b in (-1, 1)], float)  # covariance 4/3 identity
    one, other = signs * [3, 5], signs * [2, 9] + [10, -1]
    expected = 101 + 4 / 3 * ((3 - 2) ** 2 + (5 - 9) ** 2)
    assert distance(gaussian_of(one), gaussian_of(other)) == pytest.approx(expected, rel=1e-12)


def test_singular_covariances() -> None:
    few = RNG.normal(size=(3, 8))
    assert distance(gaussian_of(few), gaussian_of(few)) == pytest.approx(0, abs=1e-7)
    moved = gaussian_of(few + np.eye(8)[0] * 2)
    assert distance(gaussian_of(few), moved) == pytest.approx(4, abs=1e-6)


def test_every_picture_of_a_layout_counts() -> None:
    def network(rgb: np.ndarray) -> np.ndarray:
        return rgb.mean((1, 2))[:, :2]

    measure = FrechetDistance(network, 2, "the mean colour")
    photos, baselines = (RNG.integers(0, 256, (5, 4, 6, 3), dtype=np.uint8) for _ in range(2))
    pictures = RNG.integers(0, 256, (5, 3, 4, 6, 3), dtype=np.uint8)
    for photo, rendered, baseline in zip(photos, pictures, baselines, strict=True):
        assert measure.add(Views(photo, rendered, baseline, photo[..., 0])) == {}
    (row,) = measure.rows()
    real = gaussian_of(network(photos))
    rendered = gaussian_of(network(pictures.reshape(15, 4, 6, 3)))
    assert row.measure == "FID-2, N=5"
    assert row.model == pytest.approx(distance(rendered, real), rel=1e-12)
    assert row.baseline == pytest.approx(distance(gaussian_of(network(baselines)), real), rel=1e-12)
    (note,) = measure.notes()
    assert "N=5 photos and 15 pictures" in note and "not comparable with published FID" in note


def test_few_photos_are_warned_of() -> None:
    measure = FrechetDistance(lambda rgb: np.zeros((len(rgb), 4)), 4, "nothing")
    for _ in range(4):
        rgb = np.zeros((2, 2, 3), np.uint8)
        measure.add(Views(rgb, rgb[None], rgb, rgb[..., 0]))
    assert "warning: N=4" in measure.notes()[1]
