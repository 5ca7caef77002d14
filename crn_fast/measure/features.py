"""Distances between the features of pictures: to the photo, and among the K of one layout."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np

from crn_fast.errors import Mismatch
from crn_fast.measure.views import Mean, Row, Values, Views

if TYPE_CHECKING:
    from torch import Tensor

SMALLEST = 32
"""Pixels: the shorter side that survives a feature network's poolings."""


class Features:
    """Mean absolute difference of features, for each layer, mean over pairs.

    Args:
        network: float RGB [N, 3, h, w] in 0..255 -> a list of features [N, C, h', w'].
        layers: a name for each of them.
        distance: measure the distance of picture and photo (mean over the K pictures).
        diversity: measure the distance between the K pictures of a layout (mean over the
            K (K - 1) / 2 couples); no figure where K is 1.
        device: where the network is, in torch's words.
    """

    def __init__(
        self,
        network: Callable[[Tensor], list[Tensor]],
        layers: Sequence[str],
        *,
        distance: bool = True,
        diversity: bool = False,
        device: str = "cpu",
    ) -> None:
        self.network, self.layers, self.device = network, list(layers), device
        self.distance, self.diversity = distance, diversity
        self.model, self.baseline, self.among = ([Mean() for _ in layers] for _ in range(3))
        self.alone = False

    def add(self, views: Views) -> Values:
        """Take a pair into account.

        Raises:
            Mismatch: too small for the network's poolings.
        """
        height, width = views.photo.shape[:2]
        if min(height, width) < SMALLEST:
            raise Mismatch(
                f"features: a pair is compared at {height}x{width}; the feature network needs "
                f"{SMALLEST}x{SMALLEST}: leave features and diversity out of --metrics, or use "
                "larger photos"
            )
        found: dict[str, dict[str, float]] = {}
        # One picture at a time: the features of a large one fill gigabytes.
        pictures = [self._features(picture) for picture in views.pictures] if self.diversity else []
        if self.distance:
            photo = self._features(views.photo)
            each = pictures or (self._features(picture) for picture in views.pictures)
            model = np.mean([_distances(picture, photo) for picture in each], axis=0)
            baseline = _distances(self._features(views.baseline), photo)
            for i, layer in enumerate(self.layers):
                self.model[i].add(model[i])
                self.baseline[i].add(baseline[i])
                found[f"features {layer}"] = {"model": float(model[i]), "baseline": baseline[i]}
        self.alone = len(views.pictures) == 1
        if len(pictures) > 1:
            among = np.mean([_distances(a, b) for a, b in combinations(pictures, 2)], axis=0)
            for i, layer in enumerate(self.layers):
                self.among[i].add(among[i])
                found[f"diversity {layer}"] = {"model": float(among[i])}
        return found

    def rows(self) -> list[Row]:
        rows = []
        if self.distance:
            rows += [
                Row(f"features {layer}", model.value, baseline.value, better="lower")
                for layer, model, baseline in zip(
                    self.layers, self.model, self.baseline, strict=True
                )
            ]
        if self.diversity and not self.alone:
            rows += [
                # The baseline makes one picture of a layout: K of them are the same.
                Row(f"diversity {layer}", mean.value, 0.0)
                for layer, mean in zip(self.layers, self.among, strict=True)
            ]
        return rows

    def notes(self) -> list[str]:
        if self.diversity and self.alone:
            return ["diversity: not applicable, the model makes one picture of a layout"]
        return []

    def _features(self, rgb: np.ndarray) -> list[Tensor]:
        import torch

        with torch.inference_mode():
            x = torch.tensor(rgb, device=self.device).movedim(-1, 0)[None].float()
            return self.network(x)


def _distances(one: list[Tensor], other: list[Tensor]) -> list[float]:
    import torch

    return [float((a - b).abs().mean(dtype=torch.float64)) for a, b in zip(one, other, strict=True)]
