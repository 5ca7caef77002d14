"""Confusion, mIoU and accuracy against loops over pixels, with absent and void classes."""

from __future__ import annotations

import math

import numpy as np
import pytest

from crn_fast.measure.fidelity import Confusion, LayoutFidelity
from crn_fast.measure.views import Views
from crn_fast.palette import label_set

RNG = np.random.default_rng(4)
CAMVID = label_set("camvid")


def ious(truth: np.ndarray, found: np.ndarray, void: int | None, classes: int) -> list[float]:
    result = []
    for c in range(classes):
        both = either = occurs = 0
        for t, f in zip(truth.flat, found.flat, strict=True):
            if t == void:
                continue
            both += t == c and f == c
            either += t == c or f == c
            occurs += t == c
        result.append(both / either if occurs else math.nan)
    return result


@pytest.mark.parametrize("void", [None, 3])
def test_confusion_is_what_loops_count(void: int | None) -> None:
    # Class 4 is never the truth but is found; class 1 is the truth but never found; 5 is neither.
    truth = RNG.choice([0, 1, 2, 3], (2, 7, 9)).astype(np.uint8)
    found = RNG.choice([0, 2, 3, 4], (2, 7, 9)).astype(np.uint8)
    confusion = Confusion(6, void)
    for t, f in zip(truth, found, strict=True):
        confusion.add(t, f)
    expected = ious(truth, found, void, 6)
    np.testing.assert_allclose(confusion.ious(), expected, rtol=1e-12)
    assert expected[1] == 0 and math.isnan(expected[4]) and math.isnan(expected[5])
    assert confusion.mean_iou() == pytest.approx(np.nanmean(expected), rel=1e-12)
    kept = [(t, f) for t, f in zip(truth.flat, found.flat, strict=True) if t != void]
    hits = sum(t == f for t, f in kept)
    assert confusion.accuracy() == pytest.approx(hits / len(kept), rel=1e-12)


def test_all_void_is_no_figure() -> None:
    confusion = Confusion(3, 2)
    confusion.add(np.full((2, 2), 2, np.uint8), np.zeros((2, 2), np.uint8))
    assert math.isnan(confusion.mean_iou()) and math.isnan(confusion.accuracy())


def test_the_same_segmenter_judges_model_baseline_and_photos() -> None:
    def segment(rgb: np.ndarray) -> np.ndarray:
        assert rgb.ndim == 4
        return rgb[..., 0]

    labels = RNG.integers(0, 4, (6, 8), dtype=np.uint8)
    photo, baseline = (np.stack([labels] * 3, -1).copy() for _ in range(2))
    photo[0], baseline[:3] = 7, 7
    pictures = RNG.integers(0, 4, (2, 6, 8, 3), dtype=np.uint8)
    measure = LayoutFidelity(segment, CAMVID)
    assert measure.add(Views(photo, pictures, baseline, labels)) == {}
    rows = {row.measure: row for row in measure.rows()}
    truth = np.stack([labels] * 2)
    miou = rows["fidelity mIoU"]
    for figure, found, against in (
        (miou.model, pictures[..., 0], truth),
        (miou.baseline, baseline[..., 0], labels),
        (miou.photos, photo[..., 0], labels),
    ):
        expected = np.nanmean(ious(against, found, CAMVID.void, 12))
        assert figure == pytest.approx(expected, rel=1e-12)
    assert rows["fidelity accuracy"].photos == pytest.approx(5 / 6)
    assert rows["fidelity accuracy"].baseline == pytest.approx(1 / 2)
    assert "IoU road" in rows and "IoU car" not in rows
