"""Pairs of a photo and its layout, and the random windows of them that a network trains on.

Photos and layouts stay uint8 until they are on the device. Which sample comes at which position,
and its window, follow from (seed, position) alone, so a resumed run sees what an uninterrupted one
would have seen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from crn_fast import image, layout
from crn_fast.errors import BadInput
from crn_fast.kernels.reference import one_hot
from crn_fast.palette import LabelSet
from crn_fast.training.recipe import Source, TrainingRecipe

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}
NAME_SUFFIXES = ("_leftImg8bit", "_gtFine_labelIds", "_gtFine_labelTrainIds", "_gtFine_color")
"""Parts of Cityscapes' file names that differ between a photo and its layout."""


class Pair(NamedTuple):
    photo: Path
    labels: Path
    source: Source


class Sample(NamedTuple):
    """A window of a photo and the same window of its layout."""

    photo: Tensor
    """uint8 RGB [h, w, 3], at most the network's picture size"""
    labels: Tensor
    """uint8 [h', w'], at the layout's own scale"""
    name: str


def find_pairs(root: Path, source: Source) -> list[Pair]:
    """The pairs of one source, by name.

    Raises:
        BadInput: a folder is missing or empty, or a file has no partner; the first are named.
    """
    folders = [root / source.photos, root / source.labels]
    found = []
    for folder, suffixes in zip(folders, (PHOTO_SUFFIXES, {".png"}), strict=True):
        if not folder.is_dir():
            raise BadInput(
                f"{folder}: no such folder; set photos and labels in the recipe's [[data]]"
            )
        files = (path for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes)
        found.append({_stem(path): path for path in files if not path.name.startswith(source.skip)})
        if not found[-1]:
            raise BadInput(f"{folder}: no {' or '.join(sorted(suffixes))} files in it")
    photos, labels = found
    if alone := sorted(photos.keys() ^ labels.keys()):
        first = photos.get(alone[0]) or labels[alone[0]]
        raise BadInput(
            f"{first}: has no partner ({len(alone)} such files in {folders[0]} and {folders[1]}); "
            "a photo and its layout need the same name"
        )
    return [Pair(photos[stem], labels[stem], source) for stem in sorted(photos)]


def _stem(path: Path) -> str:
    stem = path.stem
    for suffix in NAME_SUFFIXES:
        stem = stem.removesuffix(suffix)
    return stem


class Windows(Dataset[Sample]):
    """The sample at each position of a run: a random pair, window and flip.

    Args:
        root: the data's folder.
        sources: as in the recipe.
        labels: the label set that the layouts are in.
        size: height and width of the network's picture.
        recipe: for seed and flip.
    """

    def __init__(
        self,
        root: Path,
        sources: tuple[Source, ...],
        labels: LabelSet,
        size: tuple[int, int],
        recipe: TrainingRecipe,
    ) -> None:
        self.pairs = [find_pairs(root, source) for source in sources]
        shares = np.array([source.share for source in sources])
        self.shares = shares / shares.sum()
        self.labels, self.size, self.recipe = labels, size, recipe

    def __getitem__(self, position: int) -> Sample:
        rng = np.random.default_rng((self.recipe.seed, position))
        pairs = self.pairs[rng.choice(len(self.pairs), p=self.shares)]
        pair = pairs[rng.integers(len(pairs))]
        return self.window(pair, rng)

    def window(self, pair: Pair, rng: np.random.Generator | None = None) -> Sample:
        """A random window of the pair, or the largest central one where `rng` is None."""
        photo, labels = read_pair(pair, self.labels)
        height, width = labels.shape
        share = 1.0 if rng is None else rng.uniform(*pair.source.zoom)
        unit = share * min(height / self.size[0], width / self.size[1])
        h, w = round(unit * self.size[0]), round(unit * self.size[1])
        y, x = (height - h) / 2, (width - w) / 2
        if rng is not None:
            y, x = rng.integers(height - h + 1), rng.integers(width - w + 1)
        inside = np.s_[int(y) : int(y) + h, int(x) : int(x) + w]
        photo, labels = photo[inside], labels[inside]
        if rng is not None and self.recipe.flip and rng.random() < 0.5:
            photo, labels = photo[:, ::-1], labels[:, ::-1]
        if h > self.size[0] or w > self.size[1]:
            photo = image.resize(photo, (min(h, self.size[0]), min(w, self.size[1])))
        photo = _expose(photo, pair.source.gain)
        photo, labels = photo.copy(), labels.copy()  # torch takes no negative strides
        return Sample(torch.from_numpy(photo), torch.from_numpy(labels), str(pair.photo))


def _expose(photo: np.ndarray, gain: tuple[float, float, float]) -> np.ndarray:
    """Multiply the channels of uint8 RGB [h, w, 3] by `gain`, up to 255."""
    if gain == (1.0, 1.0, 1.0):
        return photo
    values = np.minimum(np.arange(256)[:, None] * gain + 0.5, 255).astype(np.uint8)
    return np.stack([values[photo[..., channel], channel] for channel in range(3)], axis=-1)


def read_pair(pair: Pair, labels: LabelSet) -> tuple[np.ndarray, np.ndarray]:
    """Photo uint8 [H, W, 3] and layout uint8 [H, W].

    Raises:
        BadInput: unreadable files, ids outside the label set, or different sizes.
    """
    photo = image.read(pair.photo)
    ids = layout.read(pair.labels, labels).array
    if photo.shape[:2] != ids.shape:
        raise BadInput(
            f"{pair.labels}: is {ids.shape[0]}x{ids.shape[1]}, but its photo {pair.photo} is "
            f"{photo.shape[0]}x{photo.shape[1]}; they must be the same size"
        )
    return photo, ids


def fit_labels(labels: Tensor, size: tuple[int, int], classes: int) -> Tensor:
    """Bring a window's layout to the network's size: uint8 [h, w] -> uint8 [H, W].

    Enlarging lets each pixel take the class with the largest bilinear share: nearest would teach
    the network the staircases that no full-size layout has. Reducing takes the nearest pixel.
    """
    if tuple(labels.shape) == size:
        return labels
    if labels.shape[0] > size[0]:
        return F.interpolate(labels[None, None], size=size, mode="nearest-exact")[0, 0]
    shares = one_hot(labels[None], classes, torch.float32)
    return F.interpolate(shares, size=size, mode="bilinear").argmax(1)[0].to(torch.uint8)


def batches(windows: Windows, start: int, stop: int) -> Iterator[list[Sample]]:
    """Batches of positions [start, stop), in order."""
    batch = windows.recipe.batch
    workers = min(windows.recipe.workers, os.cpu_count() or 1)
    return iter(
        DataLoader(
            windows,
            batch_sampler=_Positions(start, stop, batch),
            num_workers=workers,
            collate_fn=list,
            pin_memory=torch.cuda.is_available(),
            prefetch_factor=4 if workers else None,
            worker_init_fn=_leave_signals_to_the_parent,
        )
    )


def _leave_signals_to_the_parent(worker: int) -> None:
    """Ctrl-C reaches every process of a terminal; the parent decides when its workers end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class _Positions(Sampler[list[int]]):
    def __init__(self, start: int, stop: int, batch: int) -> None:
        self.start, self.stop, self.batch = start, stop, batch

    def __iter__(self) -> Iterator[list[int]]:
        for first in range(self.start, self.stop, self.batch):
            yield list(range(first, min(first + self.batch, self.stop)))
