"""The check before the first step: every fault, all at once, whatever its kind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import cli, image  # noqa: E402
from crn_fast.palette import label_set  # noqa: E402
from crn_fast.training import preflight  # noqa: E402
from crn_fast.training.recipe import Recipe  # noqa: E402
from scene import write_pairs  # noqa: E402

CAMVID = label_set("camvid")
ALONE: Any = SimpleNamespace(rank=0, size=1, first=True, gather=lambda lines: [lines])


def table(root: Path, smallest: int = 1, processes: Any = ALONE, **tables: Any) -> list[str]:
    """What the check says of the data, files without their folder."""
    network = {"widths": [8, 8, 8, 6], "base": [3, 5], "classes": 12}  # 24x40
    recipe = Recipe.from_dict({"label_set": "camvid", "network": network} | tables)
    try:
        preflight.check(root, recipe, CAMVID, smallest, processes)
    except preflight.FaultyData as error:
        assert "\n" not in str(error)
        return [line.removeprefix(f"{root}/") for line in error.table]
    return []


def spoil(root: Path) -> None:
    """A fault of every kind, each in a pair of its own; the last pair stays sound."""
    (root / "labels" / "0.png").unlink()
    (root / "photos" / "1.png").write_bytes(b"not a PNG")
    ids = np.full((24, 40), 30, np.uint8)
    Image.fromarray(ids).save(root / "labels" / "2.png")
    image.write(root / "photos" / "3.png", np.zeros((12, 40, 3), np.uint8))
    whole = (root / "labels" / "4.png").read_bytes()
    (root / "labels" / "4.png").write_bytes(whole[: len(whole) // 2])


FAULTS = (
    "photos/0.png: has no partner",
    "labels/2.png: ",
    "labels/3.png: is 24x40, but its photo",
    "labels/4.png: ",
    "photos/1.png: not a PNG, JPEG or WebP picture",
)


def test_all_faults_stand_in_one_table(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, count=6)
    assert table(root) == []
    spoil(root)
    found = table(root)
    assert len(found) == len(FAULTS)
    for line, expected in zip(found, FAULTS, strict=True):
        assert line.startswith(expected)
    assert "30" in found[1]


def test_processes_share_the_reading_and_the_answer(tmp_path: Path) -> None:
    root = write_pairs(tmp_path, count=6)
    spoil(root)
    parts: list[list[str]] = []

    def gather(lines: list[str]) -> list[list[str]]:
        parts.append(lines)
        return [lines]

    for rank in range(2):
        table(root, processes=SimpleNamespace(rank=rank, size=2, first=rank == 0, gather=gather))
    assert len(parts[0]) == len(parts[1]) == 2
    everything = SimpleNamespace(rank=0, size=2, first=True, gather=lambda lines: parts)
    assert table(root, processes=everything) == table(root)
    other = SimpleNamespace(rank=1, size=2, first=False, gather=lambda lines: parts)
    recipe = Recipe.from_dict({"network": {"widths": [8], "base": [3, 5], "classes": 12}})
    with pytest.raises(preflight.FaultyData) as raised:
        preflight.check(root, recipe, CAMVID, 1, other)
    assert raised.value.table == []  # the first process speaks for all


def test_what_sample_pictures_come_from_is_read(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)
    write_pairs(root / "held")
    (root / "held" / "photos" / "0.png").write_bytes(b"")
    held = {"photos": "held/photos", "labels": "held/labels"}
    assert table(root) == []
    assert [line.partition(":")[0] for line in table(root, validation=held)] == [
        "held/photos/0.png"
    ]
    (root / "held" / "labels" / "3.png").unlink()
    assert table(root, validation=held)[0].startswith("held/photos/3.png: has no")
    (folder,) = table(root, data=[{"photos": "elsewhere"}])
    assert folder.startswith("elsewhere: no such folder")


def test_photos_too_small_for_the_loss_are_found_at_their_smallest_window(tmp_path: Path) -> None:
    root = write_pairs(tmp_path)  # photos of 24x40 for pictures of 24x40
    assert table(root, 24) == []
    assert len(table(root, 25)) == 5
    crops = [{"zoom": [0.5, 1.0]}]
    assert table(root, 12, data=crops) == []
    found = table(root, 13, data=crops)
    assert len(found) == 5
    assert "photos/0.png: is 24x40, of which as little as 12x20 is compared" in found[0]
    small = {"widths": [8], "base": [12, 20], "classes": 12}
    found = table(root, 13, network=small)
    assert len(found) == 5 and "as little as 12x20 is compared" in found[0]


def test_the_command_shows_the_table_before_step_1(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = write_pairs(tmp_path / "data", count=6)
    (tmp_path / "recipe.toml").write_text(
        'label_set = "camvid"\n[network]\nwidths = [8, 8, 6]\nclasses = 12\n'
        '[loss]\nkind = "pix2pix"\ncalibrate_at = 0\n[training]\nsteps = 1\nworkers = 0\n'
    )
    command = ["-q", "train", str(root), "-c", str(tmp_path / "recipe.toml"), "--device", "cpu"]
    command += ["--out", str(tmp_path / "run")]

    def run(*more: str) -> tuple[int, list[str]]:
        with pytest.raises(SystemExit) as exited:
            cli.main([*command, *more])
        assert isinstance(exited.value.code, int)
        return exited.value.code, capfd.readouterr().err.splitlines()

    code, lines = run()  # the network's pictures are 16x32
    assert code == 3 and len(lines) == 7
    assert all("but the loss needs 24 pixels each way" in line for line in lines[:-1])
    spoil(root)
    code, lines = run("--set", "network.base=[6, 8]")
    assert code == 3 and len(lines) == 6
    assert lines[-1].startswith(f"crn-fast: {root}: cannot be trained on")
    assert not (tmp_path / "run").exists()
