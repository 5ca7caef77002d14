"""The drawn street layouts: what they hold, that they repeat exactly, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

ROOT = Path(__file__).parent.parent
CLASSES = 12
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, FENCE, CAR, PEDESTRIAN, BICYCLIST, VOID = range(12)
SCENES = ("boulevard", "town", "suburb", "terrace")
BOUNDS = {
    SKY: (0.02, 0.35),
    BUILDING: (0.05, 0.50),
    POLE: (0.001, 0.05),
    ROAD: (0.25, 0.55),
    PAVEMENT: (0.01, 0.12),
    TREE: (0.005, 0.40),
    SIGN: (0.0, 0.04),
    FENCE: (0.0, 0.10),
    CAR: (0.005, 0.30),
    PEDESTRIAN: (0.0, 0.06),
    BICYCLIST: (0.0, 0.05),
    VOID: (0.0, 0.0),
}
"""The least and largest share of the pixels that each class may have in any layout."""


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "examples" / "draw_street.py", *arguments]
    return subprocess.run([*map(str, command)], capture_output=True, text=True, timeout=300)


def draw(out: Path, scene: str, seed: int, size: str) -> NDArray[np.uint8]:
    result = run("--scene", scene, "--seed", str(seed), "--size", size, "-o", out)
    assert (result.returncode, result.stdout) == (0, f"{out}\n"), result.stderr
    with Image.open(out) as image:
        assert image.mode == "P"
        return np.array(image)


def check_layout(labels: NDArray[np.uint8]) -> None:
    shares = np.bincount(labels.ravel(), minlength=CLASSES) / labels.size
    assert len(shares) == CLASSES, f"an id of {len(shares) - 1}"
    for label, (least, most) in BOUNDS.items():
        assert least <= shares[label] <= most, (label, shares[label])
    height, width = labels.shape
    assert labels[-1, width // 2] == ROAD
    assert SKY not in labels[int(0.52 * height) :], "sky below the horizon"
    assert ROAD not in labels[: int(0.47 * height)], "road above the horizon"


@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize(("seed", "size"), [(0, "256x512"), (1, "360x480"), (12345, "257x511")])
def test_every_scene_has_a_streets_shares(tmp_path: Path, scene: str, seed: int, size: str) -> None:
    labels = draw(tmp_path / "street.png", scene, seed, size)
    assert f"{labels.shape[0]}x{labels.shape[1]}" == size
    check_layout(labels)


@pytest.mark.parametrize("scene", SCENES)
def test_same_seed_same_pixels(tmp_path: Path, scene: str) -> None:
    first = draw(tmp_path / "a.png", scene, 7, "128x256")
    again = draw(tmp_path / "b.png", scene, 7, "128x256")
    other = draw(tmp_path / "c.png", scene, 8, "128x256")
    assert np.array_equal(first, again)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert np.mean(first != other) > 0.05


def test_scenes_differ(tmp_path: Path) -> None:
    layouts = [draw(tmp_path / f"{scene}.png", scene, 3, "128x256") for scene in SCENES]
    for i, one in enumerate(layouts):
        assert all(np.mean(one != two) > 0.05 for two in layouts[:i])


def test_sizes_show_the_same_street(tmp_path: Path) -> None:
    small = draw(tmp_path / "small.png", "suburb", 4, "128x256")
    large = draw(tmp_path / "large.png", "suburb", 4, "512x1024")
    assert np.mean(large[2::4, 2::4] == small) > 0.9


@pytest.mark.parametrize("size", ["16x16", "16x400", "400x16", "33x17"])
def test_extreme_sizes(tmp_path: Path, size: str) -> None:
    labels = draw(tmp_path / "street.png", "town", 0, size)
    assert f"{labels.shape[0]}x{labels.shape[1]}" == size
    assert labels.max() < CLASSES


def test_palette_is_camvids(tmp_path: Path) -> None:
    draw(tmp_path / "street.png", "town", 0, "64x128")
    with Image.open(tmp_path / "street.png") as image:
        palette = np.array(image.getpalette()).reshape(-1, 3)[:CLASSES]
    assert palette[[SKY, ROAD, PAVEMENT, BICYCLIST, VOID]].tolist() == [
        [128, 128, 128],
        [128, 64, 128],
        [60, 40, 222],
        [0, 128, 192],
        [0, 0, 0],
    ]
    assert len(np.unique(palette, axis=0)) == CLASSES


def test_frames_drive_on_from_the_single_layout(tmp_path: Path) -> None:
    arguments = ("--scene", "town", "--seed", "5", "--size", "96x192")
    result = run(*arguments, "--frames", "20", "-o", tmp_path / "frames")
    assert result.returncode == 0, result.stderr
    paths = sorted((tmp_path / "frames").iterdir())
    assert [path.name for path in paths] == [f"{i:05}.png" for i in range(20)]
    frames = [np.array(Image.open(path)) for path in paths]
    assert np.array_equal(frames[0], draw(tmp_path / "one.png", "town", 5, "96x192"))
    changes = [np.mean(a != b) for a, b in pairwise(frames)]
    assert min(changes) > 0 and max(changes) < 0.15, "each frame follows smoothly from the last"
    assert np.mean(frames[0] != frames[-1]) > max(changes)
    for frame in frames:
        check_layout(frame)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (["--scene", "moon"], "boulevard"),
        (["--size", "1024"], "HEIGHTxWIDTH"),
        (["--size", "8x8"], "16 to 8192"),
        (["--size", "-64x128"], "HEIGHTxWIDTH"),
        (["--size", "99999x99999"], "8192"),
        (["--seed", "-1"], "--seed"),
        (["--seed", "one"], "--seed"),
        (["--frames", "0"], "--frames"),
        (["--colour", "red"], "--colour"),
    ],
)
def test_bad_arguments_are_one_line(tmp_path: Path, arguments: list[str], names: str) -> None:
    result = run(*arguments, "-o", tmp_path / "street.png")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and names in result.stderr, result.stderr
    assert list(tmp_path.iterdir()) == []


def test_out_is_required() -> None:
    result = run("--scene", "town")
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and "-o" in result.stderr


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    for out in (tmp_path / "file" / "street.png", tmp_path / "folder"):
        result = run("--size", "32x64", "-o", out)
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1 and tmp_path.name in result.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "folder"]


@pytest.mark.parametrize(
    ("name", "size"), [("street-1024", (1024, 2048)), ("street-256", (256, 512))]
)
def test_packaged_examples_are_layouts(name: str, size: tuple[int, int]) -> None:
    with Image.open(ROOT / "crn_fast" / "data" / f"{name}.png") as image:
        assert image.mode == "P"
        labels = np.array(image)
    assert labels.shape == size
    check_layout(labels)
    assert len(np.unique(labels)) >= 10
