"""PSNR and SSIM of a picture against its photo, by torchmetrics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np

from crn_fast.errors import Mismatch
from crn_fast.measure.views import Mean, Row, Values, Views

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = 11
"""Pixels across SSIM's Gaussian window (deviation 1.5), as in Wang et al. 2004."""


class Similarity:
    """Mean over pairs; of the K pictures of a layout, the mean over them.

    Args:
        name: 'psnr' (dB, over all three channels together) or 'ssim' (mean over pixels and
            channels), both of values in 0..255.
    """

    def __init__(self, name: Literal["psnr", "ssim"]) -> None:
        self.name = name
        self.model, self.baseline = Mean(), Mean()

    def add(self, views: Views) -> Values:
        """Take a pair into account.

        Raises:
            Mismatch: too small for SSIM's window.
        """
        height, width = views.photo.shape[:2]
        if self.name == "ssim" and min(height, width) < WINDOW:
            raise Mismatch(
                f"ssim: a pair is compared at {height}x{width}; its window needs "
                f"{WINDOW}x{WINDOW}: leave ssim out of --metrics, or use larger photos"
            )
        photo = _planes(views.photo)
        model = [self._compare(_planes(picture), photo) for picture in views.pictures]
        found = {
            "model": float(np.mean(model)),
            "baseline": self._compare(_planes(views.baseline), photo),
        }
        self.model.add(found["model"])
        self.baseline.add(found["baseline"])
        return {self.name: found}

    def rows(self) -> list[Row]:
        name = "PSNR, dB" if self.name == "psnr" else "SSIM"
        return [Row(name, self.model.value, self.baseline.value, better="higher")]

    def notes(self) -> list[str]:
        return []

    def _compare(self, picture: Tensor, photo: Tensor) -> float:
        from torchmetrics.functional import image

        if self.name == "psnr":
            return float(image.peak_signal_noise_ratio(picture, photo, data_range=255.0))
        found = image.structural_similarity_index_measure(picture, photo, data_range=255.0)
        assert not isinstance(found, tuple)  # it is one only if the whole map is asked for
        return float(found)


def _planes(rgb: np.ndarray) -> Tensor:
    """uint8 [h, w, 3] -> float64 [1, 3, h, w] in 0..255."""
    import torch

    return torch.tensor(rgb, dtype=torch.float64).movedim(-1, 0)[None]
