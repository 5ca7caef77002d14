"""Whether an engine file renders what its checkpoint says: pictures compared before it is kept.

Held layouts are rendered by the file, opened as its user will open it, and by another backend in
float32 from the checkpoint's own weights. What is timed here is the same calls, for people; the
timings that comparisons are made of are `measure`'s.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from crn_fast import backends, layout, models, palette
from crn_fast.checkpoint import Checkpoint
from crn_fast.engine import Engine
from crn_fast.errors import CheckFailed, Mismatch, Unavailable
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec


@dataclass(frozen=True)
class Tolerance:
    """How far from float32 a picture may be: both must hold."""

    levels: int
    """Largest difference of a value, in grey levels of 255."""
    psnr: float
    """Decibels at least, of each picture."""


TOLERANCES = {
    "fp32": Tolerance(1, 60),
    "tf32": Tolerance(2, 50),
    "fp16": Tolerance(2, 50),
    "bf16": Tolerance(6, 48),
    "fp8": Tolerance(64, 38),
}
REFERENCES = ("native", "eager")
"""Backends to compare with, in float32: the first that can run here and is not the one built."""
LARGE, HUGE = 30e9, 1e12
"""FLOPs a picture from which one layout is enough, and from which it is rendered only once."""
MOST_LAYOUTS = 4
"""At a time; engines that take more are not filled up."""
CALLS, SECONDS = 50, 1.0
"""Timed calls end with the first of the two."""


@dataclass(frozen=True)
class Verified:
    """An engine that is within its tolerance."""

    against: str
    """What it was compared with, for people."""
    pictures: int
    levels: int
    """Largest difference found."""
    psnr: float
    """Of the worst picture; infinite where all are equal."""
    seconds: tuple[float, ...]
    """Of whole calls with one layout: arrays in, pictures out."""
    parts: Mapping[str, float]
    """Seconds of one call's upload, compute and download, where the renderer tells them apart."""

    def __str__(self) -> str:
        times = ", ".join(
            f"p{share} {1e3 * _percentile(self.seconds, share):.2f}" for share in (50, 90, 99)
        )
        parts = "".join(f", {part} {1e3 * value:.3f}" for part, value in self.parts.items())
        return (
            f"verified against {self.against}: {self.pictures} pictures, largest difference "
            f"{self.levels} of 255, PSNR {self.psnr:.1f} dB at least; latency in ms of "
            f"{len(self.seconds)} calls: {times}{parts}"
        )


class Check:
    """The verification of one build: called with the file, it raises or says what it found.

    Args:
        asked: whether the user wants it; None: wherever the engine can run here.
        built: the backend's name.
        name: of the file, for messages.
        loaded: the checkpoint, a cascade's.
        elsewhere: GPUs were named, so that the engine may be for another machine.

    Raises:
        Unavailable: it was asked for, and cannot be done here.
    """

    reason: str | None
    """Why nothing is verified; None when it is."""

    def __init__(
        self, asked: bool | None, built: str, name: str, loaded: Checkpoint, elsewhere: bool = False
    ) -> None:
        self._built, self._name, self._loaded = built, name, loaded
        self._lenient = asked is None and elsewhere
        self._found: Verified | None = None
        self.reason = "not asked for" if asked is False else why_not(built)
        if asked and self.reason:
            raise Unavailable(f"--verify: {self.reason}")

    def __call__(self, path: Path) -> None:
        """Verify the file; errors as of `verify`."""
        try:
            self._found = verify(path, self._name, self._built, self._loaded)
        except (Mismatch, Unavailable) as error:
            if not self._lenient:
                raise
            self.reason = str(error)

    def __str__(self) -> str:
        return str(self._found) if self._found else f"not verified: {self.reason}"


def why_not(built: str) -> str | None:
    """None when engines of the backend `built` can be verified here, else the reason."""
    if reason := backends.get(built).available_to_open():
        return f"{built} cannot run here ({reason})"
    lacking = {name: backends.get(name).available() for name in REFERENCES if name != built}
    if all(lacking.values()):
        reasons = "; ".join(f"{name}: {reason}" for name, reason in lacking.items())
        return f"there is nothing to compare {built} with ({reasons})"
    return None


def verify(path: Path, name: str, built: str, loaded: Checkpoint) -> Verified:
    """Open an engine file, render with it, and compare.

    Args:
        path: the file, in whatever temporary folder.
        name: what to call it in messages.
        built: its backend; `why_not` had nothing against it.
        loaded: the checkpoint that it was built from, a cascade's.

    Raises:
        CheckFailed: a picture is beyond the tolerance; layout, difference and place are named.
        Mismatch, Unavailable: it cannot run on this machine.
        BadInput, ResourceError: as `Engine.open` and `Engine.render`.
    """
    spec = loaded.spec
    assert isinstance(spec, CascadeSpec)
    held = held_layouts(spec, loaded.labels)
    labels = np.stack(list(held.values()))
    against, expected = _reference(built, spec, loaded, labels)
    engine = _open(path, name)
    # Alone, and among others, which is another shape to the kernels.
    batches = [np.array([0])]
    if spec.flops() < HUGE:
        batches.append(np.resize(np.arange(len(labels)), max(2, min(MOST_LAYOUTS, _most(engine)))))
    worst: list[tuple[int, float]] = []
    for chosen in batches:
        found = engine.render(labels[chosen])
        for picture, i in zip(found, chosen, strict=True):
            where = f"{name}: layout {list(held)[i]!r}, {len(chosen)} at a time"
            worst.append(compare(where, picture, expected[i], engine.precision, against))
    return Verified(
        against,
        len(worst) * spec.images,
        max(levels for levels, _ in worst),
        min(psnr for _, psnr in worst),
        _time(lambda: engine.render(labels[:1])),
        engine.timings(labels[:1]),
    )


def held_layouts(spec: CascadeSpec, labels: LabelSet) -> dict[str, np.ndarray]:
    """Layouts by name, each uint8 [H, W]: the packaged street over blocks, and blocks alone.

    The street's classes are taken by name where the label set has them, else by number. A large
    network gets the first layout only.
    """
    camvid = palette.label_set(models.LABEL_SET)
    street = layout.read(models.example_of("street-256"), camvid)
    known = {name: i for i, name in enumerate(labels.names)}
    channels = [known.get(name, i % spec.classes) for i, name in enumerate(camvid.names)]
    first = np.array(channels, np.uint8)[layout.fit(street, spec.size, "nearest").array]
    below = 3 * spec.size[0] // 4
    first[below:] = blocks(spec.classes, (spec.size[0] - below, spec.size[1]), (4, 16), seed=0)
    if spec.flops() >= LARGE:
        return {"street": first}
    return {"street": first, "blocks": blocks(spec.classes, spec.size, (16, 32), seed=1)}


def blocks(classes: int, size: tuple[int, int], grid: tuple[int, int], seed: int) -> np.ndarray:
    """uint8 [H, W] in random blocks, rows by columns: every class, if there is room for them."""
    (height, width), (rows, columns) = size, grid
    ids = np.resize(np.arange(classes, dtype=np.uint8), rows * columns)
    ids = np.random.default_rng(seed).permutation(ids).reshape(grid)
    return ids[np.arange(height)[:, None] * rows // height, np.arange(width) * columns // width]


def compare(
    where: str, found: np.ndarray, expected: np.ndarray, precision: str, against: str
) -> tuple[int, float]:
    """Largest difference and PSNR of the pictures of one layout, uint8 [K, H, W, 3].

    Raises:
        CheckFailed: beyond the tolerance of the precision; `where` begins the message.
    """
    allowed = TOLERANCES[precision]
    difference = np.abs(found.astype(np.int16) - expected)
    squares = np.square(difference, dtype=np.float64).mean((1, 2, 3))
    levels, mean = int(difference.max()), float(squares.max())
    psnr = 10 * float(np.log10(255**2 / mean)) if mean else float("inf")
    if levels <= allowed.levels and psnr >= allowed.psnr:
        return levels, psnr
    k, row, column, channel = np.unravel_index(difference.argmax(), difference.shape)
    at = (k, row, column, channel)
    raise CheckFailed(
        f"{where}: picture {k} has {found[at]} at row {row}, column {column}, "
        f"{['red', 'green', 'blue'][channel]}, and {against} has {expected[at]}: {levels} levels "
        f"apart and {psnr:.1f} dB; {precision} may be {allowed.levels} and {allowed.psnr:.0f} dB "
        "or more: the engine was not written"
    )


def _reference(
    built: str, spec: CascadeSpec, loaded: Checkpoint, labels: np.ndarray
) -> tuple[str, np.ndarray]:
    """What to compare an engine of the backend `built` with, for people, and its pictures."""
    names = [name for name in REFERENCES if name != built]
    name = next(name for name in names if backends.get(name).available() is None)
    backend = backends.get(name)
    packed = backend.prepare(spec, loaded.tensors, "fp32")
    renderer = backend.load(spec, packed, "fp32", None, None)
    # One at a time: a float32 batch would need the memory of all.
    return f"{name} in float32", np.concatenate([renderer(ids[None]) for ids in labels])


def _open(path: Path, name: str) -> Engine:
    try:
        return Engine.open(path)
    except (Mismatch, Unavailable) as error:
        raise type(error)(f"{name}: cannot be verified here, add --no-verify: {error}") from None


def _most(engine: Engine) -> int:
    """Layouts that the engine takes at a time."""
    return int(engine.manifest.built_with.get("batch", "2").rpartition(" ")[2])


def _time(call: Callable[[], object]) -> tuple[float, ...]:
    seconds: list[float] = []
    while len(seconds) < CALLS and sum(seconds) < SECONDS:
        start = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - start)
    return tuple(seconds)


def _percentile(seconds: Sequence[float], share: int) -> float:
    if len(seconds) == 1:
        return seconds[0]
    return statistics.quantiles(seconds, n=100, method="inclusive")[share - 1]
