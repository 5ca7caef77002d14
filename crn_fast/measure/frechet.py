r"""Frechet distance between two sets of pictures (Heusel et al. 2017), of any network's features.

    d^2 = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2))

for the means m and covariances C (unbiased: divided by N - 1) of the features, in float64. Its
value depends on network and N, so both are part of its name.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from crn_fast.measure.views import Row, Values, Views

Network = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [N, h, w, 3] -> float [N, dimension]."""


class Gaussian:
    """Mean and covariance of vectors that come one by one (Welford's update)."""

    def __init__(self, dimension: int) -> None:
        self.count = 0
        self.mean = np.zeros(dimension)
        self._scatter = np.zeros((dimension, dimension))

    def add(self, vector: np.ndarray) -> None:
        """Take a vector [dimension] into account."""
        self.count += 1
        before = np.asarray(vector, np.float64) - self.mean
        self.mean += before / self.count
        self._scatter += np.outer(before, before) * ((self.count - 1) / self.count)

    @property
    def covariance(self) -> np.ndarray:
        """Float64 [dimension, dimension], unbiased; needs two vectors."""
        assert self.count > 1, "the covariance of one vector"
        covariance: np.ndarray = self._scatter / (self.count - 1)
        return covariance


def distance(one: Gaussian, other: Gaussian) -> float:
    """d^2 as above.

    tr (C1 C2)^(1/2) is taken of the symmetric C1^(1/2) C2 C1^(1/2), which has the same eigenvalues
    and stays exact where the covariances are singular, as they are whenever N <= dimension.
    """
    root = _square_root(one.covariance)
    values = np.linalg.eigvalsh(root @ other.covariance @ root)
    cross = np.sqrt(values.clip(0)).sum()
    offset = np.square(one.mean - other.mean).sum()
    trace = np.trace(one.covariance) + np.trace(other.covariance)
    return float(max(0.0, offset + trace - 2 * cross))


def _square_root(covariance: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(covariance)
    root: np.ndarray = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    return root


class FrechetDistance:
    """Of all rendered pictures (K of each layout) from all photos.

    Args:
        network: gives each picture's features.
        dimension: of a picture's features.
        description: of the network, for the reader.
    """

    def __init__(self, network: Network, dimension: int, description: str) -> None:
        self.network, self.dimension, self.description = network, dimension, description
        self.photos, self.model, self.baseline = (Gaussian(dimension) for _ in range(3))

    def add(self, views: Views) -> Values:
        self.photos.add(self.network(views.photo[None])[0])
        self.baseline.add(self.network(views.baseline[None])[0])
        for vector in self.network(views.pictures):
            self.model.add(vector)
        return {}

    def rows(self) -> list[Row]:
        model, baseline = (distance(each, self.photos) for each in (self.model, self.baseline))
        return [
            Row(f"FID-{self.dimension}, N={self.photos.count}", model, baseline, better="lower")
        ]

    def notes(self) -> list[str]:
        name = f"FID-{self.dimension}"
        found = [
            f"{name}: {self.description}, N={self.photos.count} photos and {self.model.count} "
            "pictures, unbiased covariances; not comparable with published FID"
        ]
        if self.photos.count <= self.dimension:
            found.append(
                f"{name}: warning: N={self.photos.count} is not above the features' dimension "
                f"{self.dimension}: the covariances are singular; compare only figures of the same "
                "pairs"
            )
        return found
