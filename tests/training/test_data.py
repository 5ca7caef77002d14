"""Pairs and windows: what is paired, what is refused, and that positions decide samples."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import image, layout  # noqa: E402
from crn_fast.errors import BadInput, ResourceError  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training import data  # noqa: E402
from crn_fast.training.recipe import Source, TrainingRecipe  # noqa: E402
from scene import write_pairs  # noqa: E402

CAMVID = label_set("camvid")


def windows(root: Path, size: tuple[int, int] = (24, 48), **settings: object) -> data.Windows:
    recipe = TrainingRecipe(**settings)  # type: ignore[arg-type]
    return data.Windows(root, (Source(zoom=(0.4, 1.0)),), CAMVID, size, recipe)


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_pairs_go_by_name_whatever_the_data_set_adds(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "x/a_leftImg8bit.png", "y/a_leftImg8bit.jpg", "y/b_rightImg.png")
    touch(tmp_path / "labels", "x/a_gtFine_labelIds.png", "y/a_gtFine_labelIds.png")
    touch(tmp_path / "labels", "x/a_gtFine_color.png", "x/a_gtFine_instanceIds.png")
    found = data.find_pairs(
        tmp_path, Source(photo_suffix="_leftImg8bit", label_suffix="_gtFine_labelIds")
    )
    assert [
        (str(p.photo.relative_to(tmp_path)), str(p.labels.relative_to(tmp_path))) for p in found
    ] == [
        ("photos/x/a_leftImg8bit.png", "labels/x/a_gtFine_labelIds.png"),
        ("photos/y/a_leftImg8bit.jpg", "labels/y/a_gtFine_labelIds.png"),
    ]


def test_a_photo_never_takes_another_s_layout(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "a/0.png", "b/0.png")
    touch(tmp_path / "labels", "a/0.png")
    with pytest.raises(BadInput, match=r"b/0\.png: has no partner"):
        data.find_pairs(tmp_path, Source())
    touch(tmp_path / "labels", "b/0.png")
    touch(tmp_path / "photos", "a/0.jpg")
    with pytest.raises(BadInput, match=r"0\.png: .*0\.jpg has the same name"):
        data.find_pairs(tmp_path, Source())


def test_files_to_skip_are_skipped(tmp_path: Path) -> None:
    touch(tmp_path / "photos", "a.png", "dusk_1.png")
    touch(tmp_path / "labels", "a.png", "dusk_1.png")
    assert len(data.find_pairs(tmp_path, Source(skip=("dusk",)))) == 1


def test_what_has_no_partner_is_named(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    (root / "labels" / "3.png").unlink()
    with pytest.raises(BadInput, match=r"photos/3\.png: has no partner \(1 such"):
        data.find_pairs(root, Source())
    with pytest.raises(BadInput, match="elsewhere: no such folder"):
        data.find_pairs(root, Source(photos="elsewhere"))
    (root / "none").mkdir()
    with pytest.raises(BadInput, match=r"none: no \*\.png files"):
        data.find_pairs(root, Source(labels="none"))


def test_a_photo_and_layout_of_different_size_are_named(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, count=1)
    image.write(root / "photos" / "0.png", np.zeros((24, 41, 3), np.uint8))
    with pytest.raises(BadInput, match=r"is 24x40, but its photo .* is 24x41"):
        raise windows(root)[0]


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


def test_a_batch_has_one_window_size(tmp_path: Path) -> None:
    """Photos of one size pass through the loss together; their places still differ."""
    root = write_pairs(tmp_path, count=1)
    found = windows(root, batch=4)
    batches = [[found[position] for position in range(at, at + 4)] for at in range(0, 40, 4)]
    shapes = [{tuple(sample.labels.shape) for sample in batch} for batch in batches]
    assert all(len(sizes) == 1 for sizes in shapes)
    assert len(set.union(*shapes)) > 3
    assert any(not torch.equal(batch[0].labels, batch[1].labels) for batch in batches)


def test_gain_multiplies_the_photo_alone(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, count=1)
    recipe = TrainingRecipe()
    plain = data.Windows(root, (Source(),), CAMVID, (24, 48), recipe)[0]
    bright = data.Windows(root, (Source(gain=(1.5, 1.0, 0.5)),), CAMVID, (24, 48), recipe)[0]
    expected = np.minimum(plain.photo.numpy() * np.array([1.5, 1.0, 0.5]) + 0.5, 255)
    np.testing.assert_array_equal(bright.photo.numpy(), expected.astype(np.uint8))
    assert not torch.equal(bright.photo, plain.photo)
    assert torch.equal(bright.labels, plain.labels)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_follow_positions(workers: int, tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path), batch=2, workers=workers)
    stream = list(data.batches(found, 2, 7))
    assert [len(batch) for batch in stream] == [2] * 5
    for position, sample in enumerate((s for batch in stream for s in batch), start=4):
        assert torch.equal(sample.photo, found[position].photo)


def test_augmentation_is_off_by_default(tmp_path: Path) -> None:
    """The whole photo and its whole layout, as they are, where their aspect is the network's."""
    root = write_pairs(tmp_path)
    found = data.Windows(root, (Source(),), CAMVID, (24, 40), TrainingRecipe())
    for position in range(10):
        sample = found[position]
        assert sample.window == (0, 0, 24, 40, False)
        np.testing.assert_array_equal(sample.photo, image.read(sample.name))
        np.testing.assert_array_equal(sample.labels, layout.read(sample.labels_name, CAMVID).array)


def test_a_crop_is_one_window_of_photo_and_layout(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    found = windows(root, (24, 40), flip=True)
    seen = [found[position] for position in range(60)]
    for sample in seen:
        y, x, h, w, mirrored = sample.window
        assert 0 <= y <= 24 - h and 0 <= x <= 40 - w
        for part, whole in (
            (sample.photo, image.read(sample.name)),
            (sample.labels, layout.read(sample.labels_name, CAMVID).array),
        ):
            inside = whole[y : y + h, x : x + w]
            np.testing.assert_array_equal(part, inside[:, ::-1] if mirrored else inside)
    assert len({sample.window for sample in seen}) > 50
    assert {sample.window.mirrored for sample in seen} == {True, False}


def test_colours_change_the_photo_alone(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    plain, changed = windows(root), windows(root, brightness=0.3, hue=0.1)
    for position in range(5):
        before, after = plain[position], changed[position]
        assert before.window == after.window and torch.equal(before.labels, after.labels)
        assert not torch.equal(before.photo, after.photo)
        # Its own draw at each position, the same whenever it is asked for.
        assert torch.equal(after.photo, windows(root, brightness=0.3, hue=0.1)[position].photo)
    twice = [changed[position] for position in range(40)]
    same = [s for s in twice[1:] if s.name == twice[0].name and s.window == twice[0].window]
    assert not any(torch.equal(s.photo, twice[0].photo) for s in same)


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


def test_an_epoch_goes_through_every_pair_once(tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path))
    epochs = [[found[e * 5 + i].name for i in range(5)] for e in range(4)]
    assert all(len(set(names)) == 5 for names in epochs)
    assert len({tuple(names) for names in epochs}) > 1


@pytest.mark.parametrize("workers", [0, 2])
def test_a_faulty_file_is_named_in_one_line(workers: int, tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    (root / "labels" / "2.png").write_bytes(b"not a PNG")
    found = windows(root, workers=workers)
    with pytest.raises(BadInput, match=r"labels/2\.png") as raised:
        list(data.batches(found, 0, 10))
    assert "Traceback" not in str(raised.value)


def test_a_worker_that_is_killed_is_told_in_one_line(tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path), batch=2, workers=2)
    stream = data.batches(found, 0, 10_000)
    next(stream)
    for worker in multiprocessing.active_children():
        worker.kill()
    with pytest.raises(ResourceError, match=r"reads data was killed.*training\.workers"):
        list(stream)


def test_processes_share_each_batch(tmp_path: Path) -> None:
    found = windows(write_pairs(tmp_path), batch=4, workers=0)
    whole = [sample for batch in data.batches(found, 1, 3) for sample in batch]
    parts: list[list[data.Sample]] = []
    for rank in range(2):
        processes = SimpleNamespace(rank=rank, size=2)
        parts.append([s for batch in data.batches(found, 1, 3, processes) for s in batch])
    together = [*parts[0][:2], *parts[1][:2], *parts[0][2:], *parts[1][2:]]
    for a, b in zip(whole, together, strict=True):
        assert torch.equal(a.photo, b.photo) and torch.equal(a.labels, b.labels)
