"""Layout fidelity: does a segmentation network find the layout in the picture made from it?

The network has learned from real photos, so its score on these is the one to reach.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from crn_fast.measure.views import Row, Values, Views
from crn_fast.palette import LabelSet

Segment = Callable[[np.ndarray], np.ndarray]
"""uint8 RGB [N, h, w, 3] -> the class of each pixel, uint8 [N, h, w]."""


class Confusion:
    """How many pixels of each true class were found as each class; void pixels are left out."""

    def __init__(self, classes: int, void: int | None) -> None:
        self.classes, self.void = classes, void
        self.counts = np.zeros((classes, classes), np.int64)
        """[true class, found class]"""

    def add(self, truth: np.ndarray, found: np.ndarray) -> None:
        """Take uint8 [h, w] of true and of found classes into account."""
        kept = truth != self.void if self.void is not None else np.ones(truth.shape, bool)
        cells = truth[kept].astype(np.int64) * self.classes + found[kept]
        self.counts += np.bincount(cells, minlength=self.classes**2).reshape(self.counts.shape)

    def ious(self) -> np.ndarray:
        """Intersection over union of each class; nan for a class that is nowhere the truth."""
        hits = self.counts.diagonal()
        truth, found = self.counts.sum(1), self.counts.sum(0)
        union = truth + found - hits
        return np.where(truth > 0, hits / np.maximum(union, 1), np.nan)

    def mean_iou(self) -> float:
        """Mean over the classes that occur in the truth, so over the same ones for any pictures."""
        ious = self.ious()
        occur = ~np.isnan(ious)
        return float(ious[occur].mean()) if occur.any() else float("nan")

    def accuracy(self) -> float:
        """Share of pixels that were found as what they are."""
        total = self.counts.sum()
        return float(self.counts.trace() / total) if total else float("nan")


class LayoutFidelity:
    """mIoU and pixel accuracy over all pixels of all pictures, and the IoU of each class."""

    def __init__(self, segment: Segment, labels: LabelSet) -> None:
        self.segment, self.labels = segment, labels
        self.model, self.baseline, self.photos = (
            Confusion(labels.classes, labels.void) for _ in range(3)
        )

    def add(self, views: Views) -> Values:
        for confusion, pictures in (
            (self.model, views.pictures),
            (self.baseline, views.baseline[None]),
            (self.photos, views.photo[None]),
        ):
            for found in self.segment(pictures):
                confusion.add(views.labels, found)
        return {}

    def rows(self) -> list[Row]:
        found = (self.model, self.baseline, self.photos)

        def row(measure: str, figures: Iterable[float]) -> Row:
            model, baseline, photos = map(float, figures)
            return Row(measure, model, baseline, photos, "higher")

        rows = [
            row("fidelity mIoU", (confusion.mean_iou() for confusion in found)),
            row("fidelity accuracy", (confusion.accuracy() for confusion in found)),
        ]
        ious = np.stack([confusion.ious() for confusion in found], axis=1)
        occur = ~np.isnan(ious[:, 0])
        names = zip(self.labels.names, ious, occur, strict=True)
        return rows + [row(f"IoU {name}", figures) for name, figures, there in names if there]

    def notes(self) -> list[str]:
        return [
            "fidelity: a segmenter trained on real photos looks for the layout; the column "
            "'real photos' is what it finds in these"
        ]
