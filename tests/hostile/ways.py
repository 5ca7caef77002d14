"""One layout rendered in ways that must not matter: threads, company, form, route, memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import tiny
from crn_fast import checkpoint
from crn_fast.engine import Engine, build_engine
from crn_fast.layout import LabelMap
from crn_fast.palette import label_set
from crn_fast.spec import CascadeSpec

SPEC = CascadeSpec(widths=(48, 40, 33, 20), base=(4, 8), classes=12, images=2)
"""Of several blocks and tiles a stage, with channels to pad; pictures of 32x64."""
THREADS = (1, 2, 3, 7, 16)
BATCHES = (1, 2, 3, 5)
ROUTES = ("checkpoint", "engine", "opened again")
FORMS = ("uint8", "int64", "misaligned", "strided", "read-only", "map")
ENTRIES = ("render", "list", "stream")


@dataclass(frozen=True)
class Way:
    threads: int
    batch: int
    """Layouts that are rendered together."""
    place: int
    """The layout's, among them."""
    company: int
    """Seed of the other layouts."""
    route: str
    form: str
    entry: str
    poisoned: bool
    """Whether memory that is taken has NaN in it, or ones."""


def ways(rng: np.random.Generator, count: int, threads: tuple[int, ...] = THREADS) -> list[Way]:
    """Every number of threads and place in each batch first, then whatever comes."""
    places = [(t, n, p) for t in threads for n in BATCHES for p in range(n)]
    chosen = [places[i % len(places)] for i in range(count)]
    return [
        Way(
            *place,
            company=int(rng.integers(0, 2**31)),
            route=str(rng.choice(ROUTES, p=(0.2, 0.6, 0.2))),
            form=str(rng.choice(FORMS)),
            entry=str(rng.choice(ENTRIES)),
            poisoned=bool(rng.integers(0, 2)),
        )
        for place in chosen
    ]


class Scene:
    """A network's files and the layout that is rendered."""

    def __init__(
        self,
        folder: Path,
        backend: str,
        defect: type[Defective] | None = None,
        unrounded: bool = False,
    ) -> None:
        """`unrounded`: see `show_last_bits`."""
        self.spec, self.backend, self.defect, self.unrounded = SPEC, backend, defect, unrounded
        self.checkpoint, self.engine = folder / "net.safetensors", folder / f"{backend}.crn"
        network = tiny.calm_checkpoint(self.spec)
        checkpoint.save(self.checkpoint, network)
        build_engine(network, self.engine, backend=backend)
        self.layout = tiny.labels_array(1, self.spec)[0]
        self.kept = cache(self.open)

    def open(self, route: str, threads: int) -> Engine:
        path = self.checkpoint if route == "checkpoint" else self.engine
        engine = Engine.open(path, backend=self.backend, threads=threads)
        if self.unrounded:
            show_last_bits(engine)
        if self.defect:
            plant(engine, self.defect)
        return engine

    def picture(self, way: Way) -> np.ndarray:
        """uint8 [K, H, W, 3] of the layout, rendered in that way."""
        rng = np.random.default_rng(way.company)
        batch = rng.integers(0, self.spec.classes, (way.batch, *self.spec.size), dtype=np.uint8)
        batch[way.place] = self.layout
        opened = self.open if way.route == "opened again" else self.kept
        with poison() if way.poisoned else nullcontext():
            found = made(opened(way.route, way.threads), formed(batch, way.form), way)
        return found[way.place]


def formed(batch: np.ndarray, form: str) -> np.ndarray | list[LabelMap]:
    """The same layouts as another array, or as label maps."""
    if form == "int64":
        return batch.astype(np.int64)
    if form == "misaligned":
        memory = np.zeros(batch.size * 4 + 1, np.uint8)
        view: np.ndarray = memory[1:].view(np.int32).reshape(batch.shape)
        view[...] = batch
        return view
    if form == "strided":
        return np.repeat(batch, 2, axis=2)[:, :, ::2]
    if form == "read-only":
        return np.frombuffer(batch.tobytes(), np.uint8).reshape(batch.shape)
    if form == "map":
        return [LabelMap(layout, label_set("camvid")) for layout in batch]
    return batch


def made(engine: Engine, batch: np.ndarray | list[LabelMap], way: Way) -> np.ndarray:
    if way.entry == "stream":
        return np.stack(list(engine.stream(iter(batch), batch=1 + way.company % 3)))
    return engine.render(list(batch) if way.entry == "list" else batch)


@contextmanager
def poison() -> Iterator[None]:
    """Inside, memory from numpy.empty is full of NaN, or of ones in every bit."""
    empty = np.empty

    def poisoned(*args: object, **named: object) -> np.ndarray:
        memory: np.ndarray = empty(*args, **named)  # type: ignore[call-overload]
        memory.reshape(-1).view(np.uint8)[...] = 255
        return memory

    with patch.object(np, "empty", poisoned):
        yield


class Defective:
    """A renderer with a defect: the first byte of each picture is of `bits`."""

    def __init__(self, renderer: Any) -> None:
        self.renderer = renderer

    def __getattr__(self, name: str) -> Any:
        return getattr(self.renderer, name)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        pictures: np.ndarray = self.renderer(labels).copy()
        pictures.reshape(len(pictures), -1)[:, 0] ^= self.bits(pictures).astype(np.uint8)
        return pictures

    def bits(self, pictures: np.ndarray) -> np.ndarray:
        """An integer for each picture, or one for all; here they are other pictures."""
        return np.ones(1)


class SharedSum(Defective):
    """The byte is of a float32 sum of which each thread has a part."""

    def bits(self, pictures: np.ndarray) -> np.ndarray:
        values = pictures.reshape(len(pictures), -1).astype(np.float32) / 7
        parts = np.array_split(values, self.renderer.ops.threads, axis=1)
        sums = [np.add.accumulate(part, axis=1)[:, -1:] for part in parts]
        return np.add.accumulate(np.hstack(sums), axis=1)[:, -1].copy().view(np.uint32)


class PlaceInBatch(Defective):
    """The byte is of the picture's place in the batch."""

    def bits(self, pictures: np.ndarray) -> np.ndarray:
        return np.arange(len(pictures))


class StaleMemory(Defective):
    """The byte is of what was in memory before."""

    def bits(self, pictures: np.ndarray) -> np.ndarray:
        return np.empty(len(pictures), np.uint8) == 255


class HashSeed(Defective):
    """The byte is of the process."""

    def bits(self, pictures: np.ndarray) -> np.ndarray:
        return np.array([int(os.environ["PYTHONHASHSEED"])])


class Brighter(Defective):
    """Every value is two levels off."""

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        pictures: np.ndarray = self.renderer(labels)
        return pictures ^ np.uint8(2)


def show_last_bits(engine: Engine) -> None:
    """Let an engine of native give pictures with the last bits of the values before rounding."""
    ops: Any = engine._renderer.ops  # type: ignore[union-attr]
    rounded = ops.to_uint8
    ops.to_uint8 = lambda rgb: rounded(rgb) ^ rgb.view(np.uint32).astype(np.uint8)


def plant(engine: Engine, defect: type[Defective]) -> None:
    engine._renderer = defect(engine._renderer)


def sha256(picture: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(picture)).hexdigest()
