"""Pairs and windows: what is paired, what is refused, and that positions decide samples."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import image, layout  # noqa: E402
from crn_fast.errors import BadInput  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training import data  # noqa: E402
from crn_fast.training.recipe import Source, TrainingRecipe  # noqa: E402
from scene import write_pairs  # noqa: E402

CAMVID = label_set("camvid")


def windows(root: Path, size: tuple[int, int] = (24, 48), **settings: object) -> data.Windows:
    recipe = TrainingRecipe(**settings)  # type: ignore[arg-type]
    return data.Windows(root, (Source(zoom=(0.4, 1.0)),), CAMVID, size, recipe)


def test_pairs_go_by_name_whatever_the_data_set_adds(tmp_path: Path) -> None:
    for name in ("a_leftImg8bit.png", "b.jpg", "skipped_1.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    for name in ("city/a_gtFine_labelIds.png", "b.png", "skipped_1.png"):
        path = tmp_path / "labels" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = data.find_pairs(tmp_path, Source(skip=("skipped",)))
    assert [(p.photo.name, p.labels.name) for p in found] == [
        ("a_leftImg8bit.png", "a_gtFine_labelIds.png"),
        ("b.jpg", "b.png"),
    ]


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    (root / "labels" / "3.png").unlink()
    with pytest.raises(BadInput, match=r"photos/3\.png: has no partner \(1 such"):
        data.find_pairs(root, Source())
    with pytest.raises(BadInput, match="elsewhere: no such folder"):
        data.find_pairs(root, Source(photos="elsewhere"))
    (root / "none").mkdir()
    with pytest.raises(BadInput, match=r"none: no \.png files"):
        data.find_pairs(root, Source(labels="none"))


def test_a_photo_and_layout_of_different_size_are_named(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, count=1)
    image.write(root / "photos" / "0.png", np.zeros((24, 41, 3), np.uint8))
    with pytest.raises(BadInput, match=r"is 24x40, but its photo .* is 24x41"):
        windows(root)[0]


def test_the_same_position_gives_the_same_sample(tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path), flip=True)
    again = windows(tmp_path, flip=True)
    for position in range(12):
        a, b = found[position], again[position]
        assert a.name == b.name
        assert torch.equal(a.photo, b.photo) and torch.equal(a.labels, b.labels)
    shapes = {tuple(found[position].labels.shape) for position in range(30)}
    names = {found[position].name for position in range(30)}
    assert len(shapes) > 5 and len(names) == 5


def test_windows_keep_photo_and_layout_together(tmp_path: Path) -> None:
    """The photos are the layouts' colours, so any window of one must be that of the other."""
    found = windows(write_pairs(tmp_path), flip=True)
    for position in range(30):
        sample = found[position]
        ids = layout.from_array(sample.labels.numpy(), CAMVID)
        np.testing.assert_array_equal(layout.colorize(ids), sample.photo.numpy())
        height, width = sample.labels.shape
        assert abs(width / height - 2) < 0.2


def test_a_large_photo_is_reduced_to_the_picture(tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path), size=(8, 16))
    sample = found.window(found.pairs[0][0])
    assert sample.photo.shape == (8, 16, 3)
    assert sample.labels.shape == (20, 40)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_positions(workers: int, tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path), batch=2, workers=workers)
    stream = list(data.batches(found, 2, 7))
    assert [len(batch) for batch in stream] == [2, 2, 1]
    for position, sample in enumerate((s for batch in stream for s in batch), start=2):
        assert torch.equal(sample.photo, found[position].photo)


def test_labels_are_enlarged_by_vote() -> None:
    labels = torch.tensor([[0, 0, 5], [0, 5, 5]], dtype=torch.uint8)
    grown = data.fit_labels(labels, (16, 24), 12)
    assert grown.shape == (16, 24) and grown.dtype == torch.uint8
    assert set(grown.unique().tolist()) == {0, 5}
    assert grown[0, 0] == 0 and grown[-1, -1] == 5
    # Nearest would give a staircase of 8x8 blocks; a vote cuts off its corners.
    assert grown[8, 8] == 0 and grown[7, 15] == 5
    assert data.fit_labels(labels, (2, 3), 12) is labels
    reduced = data.fit_labels(grown, (2, 3), 12)
    assert reduced.shape == (2, 3)
