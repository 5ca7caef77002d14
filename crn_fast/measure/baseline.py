"""The trivial baseline: every pixel gets the mean colour of its class."""

from __future__ import annotations

import numpy as np


class ClassColors:
    """Mean colour of each class over photos that come one by one."""

    def __init__(self, classes: int) -> None:
        self.totals = np.zeros((classes, 3))
        self.counts = np.zeros(classes, np.int64)

    def add(self, photo: np.ndarray, labels: np.ndarray) -> None:
        """Take a photo uint8 RGB [h, w, 3] and its classes uint8 [h, w] into account."""
        classes, flat = len(self.counts), labels.ravel()
        self.counts += np.bincount(flat, minlength=classes)
        for channel in range(3):
            weights = photo[..., channel].ravel()
            self.totals[:, channel] += np.bincount(flat, weights, classes)

    def colors(self) -> np.ndarray:
        """uint8 RGB [classes, 3]; a class that never came gets the mean of all pixels."""
        overall = self.totals.sum(0) / max(1, self.counts.sum())
        means = self.totals / np.maximum(self.counts, 1)[:, None]
        found = np.where(self.counts[:, None] > 0, means, overall)
        colors: np.ndarray = np.floor(found + 0.5).astype(np.uint8)
        return colors
