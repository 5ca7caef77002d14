"""Pairs of a photo and its layout, and the random windows of them that a network trains on.

Photos and layouts stay uint8 until they are on the device. Which sample comes at which position of
a run, its window and its colours follow from (seed, position) alone, so a resumed run sees what an
uninterrupted one would have seen, on any number of processes.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from crn_fast import image, layout
from crn_fast.errors import BadInput, CrnError, ResourceError
from crn_fast.files import kind_of
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.kernels.reference import one_hot
from crn_fast.palette import LabelSet
from crn_fast.training import color
from crn_fast.training.distributed import Processes
from crn_fast.training.recipe import Source, TrainingRecipe

PHOTO_SUFFIXES = {".png", ".jpg", ".jpeg", ".webp"}

PR_SET_PDEATHSIG = 1
"""Of Linux: the signal that a process gets as its parent dies."""

ORDER, PAIR, ZOOM, COLOR = range(4)
"""First words of the random streams' seeds, so that no two streams are one."""


class Pair(NamedTuple):
    photo: Path
    labels: Path
    source: Source


class Window(NamedTuple):
    """A part of a photo, in its own pixels."""

    top: int
    left: int
    height: int
    width: int
    mirrored: bool


class Sample(NamedTuple):
    """A window of a photo and the same window of its layout."""

    photo: Tensor
    """uint8 RGB [h, w, 3], at most the network's picture size"""
    labels: Tensor
    """uint8 [h', w'], at the layout's own scale"""
    name: str
    """The photo's path."""
    labels_name: str
    window: Window


def match(root: Path, source: Source) -> tuple[list[Pair], list[Path]]:
    """The pairs of one source, and the files that have no partner.

    A pair is files of the same name, suffixes aside, in the same subfolder.

    Raises:
        BadInput: a folder is missing or empty, or two files have one name.
        ResourceError: a folder may not be read.
    """
    photos = _files(root / source.photos, PHOTO_SUFFIXES, source.photo_suffix, source.skip)
    labels = _files(root / source.labels, {".png"}, source.label_suffix, source.skip)
    pairs = [Pair(photos[n], labels[n], source) for n in sorted(photos.keys() & labels.keys())]
    alone = [photos.get(n) or labels[n] for n in sorted(photos.keys() ^ labels.keys())]
    return pairs, alone


def find_pairs(root: Path, source: Source) -> list[Pair]:
    """The pairs of one source.

    Raises:
        BadInput: as `match`, or a file has no partner.
        ResourceError: as `match`.
    """
    pairs, alone = match(root, source)
    if alone:
        raise BadInput(
            f"{alone[0]}: has no partner ({len(alone)} such files in {root / source.photos} and "
            f"{root / source.labels}); a photo and its layout need the same name, or set "
            "photo_suffix and label_suffix in the recipe's [[data]]"
        )
    return pairs


def _files(folder: Path, endings: set[str], suffix: str, skip: tuple[str, ...]) -> dict[str, Path]:
    """Path below the folder, without suffix and ending -> file."""
    if kind_of(folder) != "folder":
        raise BadInput(f"{folder}: no such folder; set photos and labels in the recipe's [[data]]")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        wanted = path.suffix.lower() in endings and path.stem.endswith(suffix)
        if not wanted or path.name.startswith(skip):
            continue
        name = str(path.relative_to(folder).with_suffix("")).removesuffix(suffix)
        if name in found:
            raise BadInput(f"{path}: {found[name]} has the same name; take one of them away")
        found[name] = path
    if not found:
        raise BadInput(f"{folder}: no *{suffix}{' or '.join(sorted(endings))} files in it")
    return found


class Windows(Dataset[Sample | CrnError]):
    """The sample at each position of a run: a pair, a random window of it, perhaps mirrored.

    The window is the crop augmentation: `Source.zoom` of the largest that fits, at a random place.
    A single source is gone through in a new random order again and again; of several, each sample
    comes from one drawn by its share. A fault in a file is returned, not raised: worker processes
    would make a traceback of it.

    Args:
        root: the data's folder.
        sources: as in the recipe.
        labels: the label set that the layouts are in.
        size: height and width of the network's picture.
        recipe: for seed, batch, workers, and the augmentation by flips and colours.
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
        self.colors = color.Jitter(
            recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue
        )

    def __len__(self) -> int:
        """Number of pairs: the length of an epoch, not of a run."""
        return sum(map(len, self.pairs))

    def __getitem__(self, position: int) -> Sample | CrnError:
        seed = self.recipe.seed
        rng = np.random.default_rng((seed, PAIR, position))
        if len(self.pairs) == 1:
            epoch, index = divmod(position, len(self))
            pair = self.pairs[0][_order(seed, epoch, len(self))[index]]
        else:
            pairs = self.pairs[rng.choice(len(self.pairs), p=self.shares)]
            pair = pairs[rng.integers(len(pairs))]
        # One draw for the whole batch: photos of one size pass through the loss together.
        batch = np.random.default_rng((seed, ZOOM, position // self.recipe.batch))
        low, high = pair.source.zoom
        try:
            sample = self.window(pair, low + (high - low) * batch.random(), rng)
        except CrnError as error:
            return error
        if any(self.colors):
            drawn = color.draw(self.colors, np.random.default_rng((seed, COLOR, position)))
            photo = color.apply(sample.photo.numpy(), drawn)
            sample = sample._replace(photo=torch.from_numpy(photo))
        return sample

    def window(
        self, pair: Pair, zoom: float = 1.0, rng: np.random.Generator | None = None
    ) -> Sample:
        """A window, `zoom` of the largest that fits: a random one, or central if `rng` is None.

        Raises:
            BadInput: as `read_pair`.
        """
        photo, labels = read_pair(pair, self.labels)
        height, width = labels.shape
        h, w = window_size((height, width), self.size, zoom)
        y, x = (height - h) // 2, (width - w) // 2
        if rng is not None:
            y, x = int(rng.integers(height - h + 1)), int(rng.integers(width - w + 1))
        photo, labels = photo[y : y + h, x : x + w], labels[y : y + h, x : x + w]
        mirrored = rng is not None and self.recipe.flip and bool(rng.random() < 0.5)
        if mirrored:
            photo, labels = photo[:, ::-1], labels[:, ::-1]
        if h > self.size[0] or w > self.size[1]:
            photo = image.resize(photo, (min(h, self.size[0]), min(w, self.size[1])))
        photo = _expose(photo, pair.source.gain).copy()
        labels = labels.copy()  # torch takes no negative strides
        return Sample(
            torch.from_numpy(photo),
            torch.from_numpy(labels),
            str(pair.photo),
            str(pair.labels),
            Window(y, x, h, w, mirrored),
        )


def window_size(photo: tuple[int, int], picture: tuple[int, int], zoom: float) -> tuple[int, int]:
    """Size of a window: `zoom` of the largest in the photo that has the picture's aspect."""
    unit = zoom * min(photo[0] / picture[0], photo[1] / picture[1])
    return max(1, round(unit * picture[0])), max(1, round(unit * picture[1]))


@lru_cache(maxsize=2)
def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng((seed, ORDER, epoch)).permutation(count)


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
    encoding, unknown = pair.source.encoding, pair.source.unknown
    ids = layout.read(pair.labels, labels, encoding=encoding, unknown=unknown).array
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


def batches(
    windows: Windows, start: int, stop: int, processes: Processes | None = None
) -> Iterator[list[Sample]]:
    """This process's part of the batches of steps [start, stop), in order.

    Raises:
        BadInput, ResourceError: a file cannot be read; a worker process was killed.
    """
    recipe = windows.recipe
    workers = min(recipe.workers, usable_cpus())
    loader = DataLoader(
        windows,
        batch_sampler=_Positions(start, stop, recipe.batch, processes),
        num_workers=workers,
        collate_fn=list,
        pin_memory=torch.cuda.is_available(),
        prefetch_factor=4 if workers else None,
        worker_init_fn=partial(_live_with, os.getpid()),
    )
    try:
        for found in loader:
            for sample in found:
                if isinstance(sample, CrnError):
                    raise sample
            yield found
    except CrnError:
        raise
    except (RuntimeError, EOFError, OSError) as error:
        # What torch says depends on what it was at when the process was gone.
        gone = not isinstance(error, RuntimeError) or "DataLoader worker (pid" in str(error)
        if not workers or not gone or "in DataLoader worker process" in str(error):
            raise
        raise ResourceError(
            "a process that reads data was killed, probably for want of memory: lower "
            "training.workers, or --resume"
        ) from None


def _live_with(parent: int, worker: int) -> None:
    """Leave signals to the parent, which ends its workers, and die with it, if that is killed.

    A terminal's or manager's signal reaches every process.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    if sys.platform != "linux":
        return  # torch looks for the parent every few seconds, from now on
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    # It may be gone before this was asked for; a server of forks is what a worker of one has.
    if multiprocessing.get_start_method() != "forkserver" and os.getppid() != parent:
        os._exit(1)


class _Positions(Sampler[list[int]]):
    def __init__(self, start: int, stop: int, batch: int, processes: Processes | None) -> None:
        self.steps, self.batch = range(start, stop), batch
        self.rank, self.size = (processes.rank, processes.size) if processes else (0, 1)

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[int]]:
        part = self.batch // self.size
        for step in self.steps:
            first = step * self.batch + self.rank * part
            yield list(range(first, first + part))
