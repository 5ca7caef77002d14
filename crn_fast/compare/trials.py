"""What a rater is shown: pairs of pictures in random order, on random sides.

As in the perceptual experiments of Chen & Koltun 2017, section 5: which of two pictures of the same
layout looks more real, with unlimited time or for a fraction of a second, and sentinel pairs whose
answer is plain, so that who does not look is noticed. Not how they are shown or answered.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from crn_fast import image
from crn_fast.errors import BadInput, UsageError, one_line
from crn_fast.files import kind_of

Source = Literal["a", "b", "real", "coarse"]
"""Where a picture of a pair comes from; 'coarse' is made of the sentinel's other picture."""

SUFFIXES = (
    *(".render", "_leftImg8bit", "_gtFine_labelTrainIds"),
    *("_gtFine_labelIds", "_gtFine_color", "_L"),
)
"""Left out of a file's name to find its partner."""
COARSE_ROWS = 8
"""Height in pixels that a sentinel's coarse picture is reduced to."""


class Scene(NamedTuple):
    """One layout's pictures."""

    name: str
    files: Mapping[Source, Path]


class Trial(NamedTuple):
    """One pair, as a rater sees it."""

    scene: Scene
    left: Source
    right: Source
    seconds: float | None
    """How long it is shown; None: until it is answered."""

    @property
    def sentinel(self) -> bool:
        return "coarse" in (self.left, self.right)


def scenes(folders: Mapping[Source, Path]) -> list[Scene]:
    """The scenes of which every folder has a picture, by name.

    Raises:
        BadInput: a folder is missing or empty, has two pictures of one scene, or shares none with
            the others.
    """
    found = {source: _pictures(folder) for source, folder in folders.items()}
    common = sorted(set.intersection(*(set(pictures) for pictures in found.values())))
    if not common:
        examples = ", ".join(f"{folders[s]} has {min(p)!r}" for s, p in found.items())
        raise BadInput(f"no picture is in all folders under one name: {examples}")
    return [Scene(name, {s: pictures[name] for s, pictures in found.items()}) for name in common]


def plan(
    found: Sequence[Scene],
    pairings: Sequence[tuple[Source, Source]],
    seconds: Sequence[float | None],
    count: int,
    sentinels: int,
    seed: str,
) -> list[Trial]:
    """A rater's trials: every pairing equally often, and every time, as evenly as `count` allows.

    Args:
        found: scenes; each comes again only when all were shown.
        pairings: which two sources are set against each other.
        seconds: for how long pairs are shown.
        count: trials, without the sentinels.
        sentinels: pairs of a picture and its own coarse version, shown without a limit.
        seed: the same seed gives the same trials.

    Raises:
        UsageError: nothing would be shown.
    """
    if count < 1 or not pairings or not seconds:
        raise UsageError(f"{count} trials of {len(pairings)} pairings; expected one at least")
    # A text seeds by its SHA-512, which is the same on every machine.
    chance = random.Random(seed)
    kinds = [(pairing, shown) for pairing in pairings for shown in seconds]
    trials = [
        _on_random_sides(chance, scene, *kinds[i % len(kinds)])
        for i, scene in enumerate(_in_rounds(chance, found, count))
    ]
    best: Source = "real" if "real" in found[0].files else "a"
    trials += [
        _on_random_sides(chance, scene, (best, "coarse"), None)
        for scene in _in_rounds(chance, found, sentinels)
    ]
    chance.shuffle(trials)
    return trials


def picture(trial: Trial, side: Literal["left", "right"]) -> np.ndarray:
    """The picture on one side of a trial, uint8 RGB, of the size of its first folder's.

    Raises:
        BadInput: the file is no readable picture.
    """
    source = trial.left if side == "left" else trial.right
    size = image.read(trial.scene.files["a"]).shape[:2]
    if source == "coarse":
        rgb = image.read(trial.scene.files["real" if "real" in trial.scene.files else "a"])
        rows = min(COARSE_ROWS, size[0])
        small = image.resize(rgb, (rows, max(1, rows * size[1] // size[0])))
        return image.resize(small, (size[0], size[1]))
    rgb = image.read(trial.scene.files[source])
    return rgb if rgb.shape[:2] == size else image.resize(rgb, (size[0], size[1]))


def _in_rounds(chance: random.Random, found: Sequence[Scene], count: int) -> list[Scene]:
    chosen: list[Scene] = []
    while len(chosen) < count:
        chosen += chance.sample(found, min(len(found), count - len(chosen)))
    return chosen


def _on_random_sides(
    chance: random.Random, scene: Scene, pairing: tuple[Source, Source], seconds: float | None
) -> Trial:
    left, right = chance.sample(pairing, 2)
    return Trial(scene, left, right, seconds)


def _pictures(folder: Path) -> dict[str, Path]:
    """Name of the scene -> file, in a folder and below it."""
    if kind_of(folder) != "folder":
        raise BadInput(f"{folder}: no such folder; expected one of pictures")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower().removeprefix(".") not in image.FORMATS:
            continue
        name = one_line(str(path.relative_to(folder).with_suffix("")))
        for suffix in SUFFIXES:
            name = name.removesuffix(suffix)
        if name in found:
            raise BadInput(f"{folder}: {found[name].name} and {path.name} are one scene, {name}")
        found[name] = path
    if not found:
        raise BadInput(f"{folder}: no PNG, JPEG or WebP picture in it")
    return found
