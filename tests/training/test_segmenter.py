"""The segmenter learns colours from flat photos, and its file says what it is or is refused."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from click.testing import CliRunner  # noqa: E402

from crn_fast import checkpoint, torch_file  # noqa: E402
from crn_fast.errors import BadInput, Mismatch  # noqa: E402
from crn_fast.files import write_whole  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training import data, segment, segmenter  # noqa: E402
from crn_fast.training.recipe import Source, TrainingRecipe  # noqa: E402
from scene import write_pairs  # noqa: E402

CAMVID = label_set("camvid")


def make(seed: int = 0) -> segmenter.Segmenter:
    torch.manual_seed(seed)
    return segmenter.Segmenter(CAMVID, (24, 40), (6, 6, 6)).eval()


def test_it_learns_what_colours_tell(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    settings = TrainingRecipe(batch=2, workers=0)
    windows = data.Windows(root, (Source(),), CAMVID, (24, 40), settings)
    seen = []
    model = segment.train(windows, 50, widths=(8, 8, 8), learning_rate=1e-2, tell=seen.append)
    assert [progress.step for progress in seen] == list(range(1, 51))
    hits = total = 0
    for pair in windows.pairs[0]:
        sample = windows.window(pair)
        found = model.segment(sample.photo[None])[0]
        kept = sample.labels != CAMVID.void
        hits += int((found == sample.labels)[kept].sum())
        total += int(kept.sum())
        assert not (found == CAMVID.void).any()
    assert hits / total > 0.4  # eleven classes: chance is 0.09


def test_it_takes_any_size() -> None:
    rgb = torch.randint(0, 256, (2, 37, 53, 3), dtype=torch.uint8)
    found = make().segment(rgb)
    assert (found.shape, found.dtype) == ((2, 37, 53), torch.uint8)
    assert found.max() < CAMVID.classes


def test_a_file_gives_back_the_same_network(tmp_path: Path) -> None:
    model = make()
    segmenter.save(tmp_path / "s.pt", model, {"licence": "none"})
    loaded = segmenter.load(tmp_path / "s.pt", CAMVID)
    rgb = torch.randint(0, 256, (1, 24, 40, 3), dtype=torch.uint8)
    torch.testing.assert_close(loaded.segment(rgb), model.segment(rgb), rtol=0, atol=0)
    with pytest.raises(BadInput, match="kind 'segmenter'"):
        checkpoint.load(tmp_path / "s.pt")


def test_what_is_no_segmenter_is_named(tmp_path: Path) -> None:
    path = tmp_path / "s.pt"
    with pytest.raises(BadInput, match="no such file"):
        segmenter.load(path, CAMVID)
    write_whole(path, partial(torch_file.write, {"kind": "cascade", "model": {}}))
    with pytest.raises(BadInput, match="kind 'cascade'; expected 'segmenter'"):
        segmenter.load(path, CAMVID)
    state = {"kind": "segmenter", "model": {}, "labels": CAMVID.to_json()}
    write_whole(path, partial(torch_file.write, state))
    with pytest.raises(BadInput, match="do not make a segmenter"):
        segmenter.load(path, CAMVID)
    segmenter.save(path, make(), {})
    with pytest.raises(Mismatch, match="classes of camvid apart, the model's are cityscapes"):
        segmenter.load(path, label_set("cityscapes"))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BadInput):
        segmenter.load(path, CAMVID)


def test_the_command_trains_and_saves(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    out = tmp_path / "s.pt"
    arguments = [str(root), "--steps", "2", "--batch", "2", "--workers", "0", "--out", str(out)]
    found = CliRunner().invoke(segment.command, arguments, catch_exceptions=False)
    assert found.exit_code == 0, found.output
    assert found.stdout == f"{out}\n"
    judge = segmenter.load(out, CAMVID)
    assert judge.segment(torch.from_numpy(np.zeros((1, 24, 40, 3), np.uint8))).shape == (1, 24, 40)
