"""Labels that are none, as arrays and as files, and what the ways into the renderer say of them."""

from __future__ import annotations

import functools
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

import tiny
from crn_fast import batch, checkpoint, image, layout
from crn_fast.engine import Engine
from crn_fast.errors import CrnError
from crn_fast.palette import label_set
from hostile.command_line import run

CAMVID = label_set("camvid")
SIZE = tiny.SPEC.size
IDS = tiny.labels_array()[0]
PLACES = {"first": (0, 0), "middle": (SIZE[0] // 2, 7), "last": (SIZE[0] - 1, SIZE[1] - 1)}
AT = re.compile(r"(value \S+|colour \[.*?\]) at row (\d+), column (\d+)")


def spoiled(value: int | float, place: str = "middle", dtype: Any = np.int64) -> np.ndarray:
    """Sound ids with one wrong pixel."""
    ids = IDS.astype(dtype)
    ids[PLACES[place]] = value
    return ids


class Strange:
    """Neither array nor tensor."""


class Exported:
    """Something with DLPack, of any type."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **options: Any) -> Any:
        return self.array.__dlpack__()

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


VALUES: dict[str, Callable[[str], Any]] = {
    "a class too many": lambda place: spoiled(12, place, np.uint8),
    "ignored by others: 255": lambda place: spoiled(255, place, np.uint8),
    "a data set's id: 34": lambda place: spoiled(34, place),
    "negative": lambda place: spoiled(-1, place, np.int8),
    "wraps to a class: 256 + 3": lambda place: spoiled(259, place),
    "wraps in 64 bits": lambda place: spoiled(2**63 + 3, place, np.uint64),
    "big-endian": lambda place: spoiled(300, place, ">u2"),
    "not contiguous": lambda place: np.repeat(spoiled(99, place, np.uint8), 2, 1)[:, ::2],
    "read-only": lambda place: np.frombuffer(spoiled(13, place, np.uint8).tobytes(), "u1").reshape(
        SIZE
    ),
    "through DLPack": lambda place: Exported(spoiled(77, place, np.int32)),
    "one of a batch": lambda place: np.stack([IDS, spoiled(12, place, np.uint8)]),
    "one of a list": lambda place: [IDS, spoiled(-7, place)],
}
"""Faults of a value, which must be named with its pixel."""

KINDS: dict[str, Any] = {
    "float": IDS.astype(np.float32),
    "NaN": np.full(SIZE, np.nan),
    "float through DLPack": Exported(IDS.astype(np.float64)),
    "complex": IDS.astype(np.complex64),
    "objects": IDS.astype(object),
    "text": IDS.astype(str),
    "dates": IDS.astype("M8[s]"),
    "records": IDS.astype([("id", "u1")]),
    "masked": np.ma.masked_equal(IDS, 3),
    "masked, 64 bits": np.ma.masked_equal(IDS.astype(np.int64), 3),
    "empty": np.empty((0, 0), np.uint8),
    "no rows": np.empty((0, *SIZE), np.uint8),
    "0-d": np.array(3),
    "a number": 3,
    "a NumPy number": np.uint8(3),
    "nothing": None,
    "1-d": IDS[0],
    "4-d": IDS[None, :, :, None],
    "one-hot": np.eye(12, dtype=np.uint8)[IDS],
    "a photo": np.full((*SIZE, 3), 200, np.uint8),
    "a list of photos": [np.full((*SIZE, 3), 200, np.uint8)],
    "a list of small photos": [np.zeros((*SIZE, 3), np.uint8)],
    "transposed": IDS.T,
    "a list of rows": IDS.tolist(),
    "text as a list": "layout",
    "bytes": IDS.tobytes(),
    "a table": {"labels": IDS},
    "something else": Strange(),
    "no layouts": [],
}
"""Faults of a kind, which have no pixel."""


def png(array: np.ndarray, mode: str | None = None) -> bytes:
    stream = BytesIO()
    Image.fromarray(array, mode).save(stream, "PNG")
    return stream.getvalue()


def painted(strange: tuple[int, int, int], place: str = "middle") -> np.ndarray:
    colors = np.array(CAMVID.colors, np.uint8)[IDS]
    colors[PLACES[place]] = strange
    return colors


def _palette(colors: np.ndarray) -> bytes:
    picture = Image.fromarray(IDS, "P")
    picture.putpalette(colors.astype(np.uint8).tobytes())
    stream = BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()


def _smooth() -> bytes:
    """Grey ids, made smaller with smoothing and larger again: in-between values that are none."""
    large = Image.fromarray(np.where(IDS % 2, 11, 0).astype(np.uint8) * 20)
    return png(np.asarray(large.resize((SIZE[1] // 2, SIZE[0] // 2)).resize((SIZE[1], SIZE[0]))))


def _alpha() -> bytes:
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[PLACES["middle"]] = 128
    return png(np.dstack([np.array(CAMVID.colors, np.uint8)[IDS], alpha]))


FILES: dict[str, Callable[[], bytes]] = {
    **{
        f"value {value}, {place}": functools.partial(
            lambda value, place: png(spoiled(value, place, np.uint8)), value, place
        )
        for value in (12, 34, 255)
        for place in PLACES
    },
    "16 bits that wrap": lambda: png(spoiled(259, "middle", np.uint16)),
    "another colour": lambda: png(painted((1, 2, 3))),
    "another colour, first": lambda: png(painted((1, 2, 3), "first")),
    "a photo": lambda: png(np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)),
    "a grey photo": lambda: png(np.random.default_rng(1).integers(0, 256, SIZE, np.uint8)),
    "smooth edges": _smooth,
    "another set's colours": lambda: png(np.array(label_set("cityscapes").colors, np.uint8)[IDS]),
    "transparent": _alpha,
    "all void of others": lambda: png(np.full(SIZE, 255, np.uint8)),
    "short palette": lambda: _palette(np.arange(9).reshape(3, 3)),
}
PIXELLESS = ("transparent", "short palette")
"""Files whose fault is not one of a value."""


@functools.cache
def scene() -> tuple[Path, Engine, np.ndarray]:
    folder = Path(tempfile.mkdtemp(prefix="crn-fast-wrong-"))
    checkpoint.save(folder / "net.safetensors", tiny.make_checkpoint())
    engine = Engine.open(folder / "net.safetensors", threads=1)
    return folder, engine, engine.render(IDS)


def in_library(case: tuple[str, str], defect: str | None = None) -> str | None:
    """None if an array is refused by name of its fault; `case` is its kind and place."""
    _, engine, _ = scene()
    kind, place = case
    labels = VALUES[kind](place) if kind in VALUES else KINDS[kind]
    with _clipping(defect):
        try:
            engine.render(labels)
        except CrnError as error:
            wanted = 4 if kind in ("transposed", "one-hot") else 3  # of another size
            if error.exit_code != wanted:
                return f"exit {error.exit_code}: {error}"
            return _names(str(error), PLACES[place]) if kind in VALUES else None
    return "was rendered"


def in_stream(case: tuple[str, str]) -> str | None:
    """As `in_library`, the third layout of a stream: those before it come out."""
    _, engine, right = scene()
    made = engine.stream([IDS, IDS, VALUES[case[0]](case[1])], batch=1)
    if not all(np.array_equal(next(made), right[0]) for _ in range(2)):
        return "other pictures before it"
    try:
        next(made)
    except CrnError as error:
        return None if error.exit_code == 3 else str(error)
    return "was rendered"


def in_command(case: str, defect: str | None = None) -> str | None:
    """None if `render` refuses the file with exit code 3, its name, value and pixel."""
    folder, _, _ = scene()
    (folder / "layout.png").write_bytes(FILES[case]())
    words = ["render", "--layout", "layout.png", "-m", "net.safetensors", "-o", "out.png"]
    with _clipping(defect):
        ran = run(words, folder)
    made = list(folder.glob("out*"))
    for path in made:
        path.unlink()
    if ran.code != 3 or made:
        return f"exit {ran.code}, {len(made)} files: {ran.message}"
    if "layout.png" not in ran.message:
        return f"no file: {ran.message}"
    return None if case in PIXELLESS else _names(ran.message)


def in_training(case: str, defect: str | None = None) -> str | None:
    """None if the check before training, and reading the sample, refuse the file in these words."""
    from crn_fast.training import preflight
    from crn_fast.training.data import Windows
    from crn_fast.training.recipe import Recipe

    folder = Path(tempfile.mkdtemp(dir=scene()[0]))
    for name in ("photos", "labels"):
        (folder / name).mkdir()
    image.write(folder / "photos/0.png", np.zeros((*SIZE, 3), np.uint8))
    (folder / "labels/0.png").write_bytes(FILES[case]())
    network = {"widths": [8, 8, 6], "base": [3, 5], "classes": 12}
    recipe = Recipe.from_dict({"label_set": "camvid", "network": network})
    alone: Any = SimpleNamespace(rank=0, size=1, first=True, gather=lambda lines: [lines])
    with _clipping(defect):
        try:
            preflight.check(folder, recipe, CAMVID, 1, alone)
        except preflight.FaultyData as error:
            told = "\n".join(error.table)
        else:
            return "was trained on"
        windows = Windows(folder, recipe.data, CAMVID, recipe.network.size, recipe.training)
        sample = windows[0]
    if not isinstance(sample, CrnError) or sample.exit_code != 3:
        return f"the sample was read: {sample}"
    for words in (told, str(sample)):
        if "labels/0.png" not in words:
            return f"no file: {words}"
        if case not in PIXELLESS and (wrong := _names(words)):
            return wrong
    return None


def changed_meanwhile(case: int, defect: str | None = None) -> str | None:
    """Another thread changes the labels between a class and what wraps to one, as they are read."""
    _, engine, _ = scene()
    labels = np.full((2, *SIZE), 3, (np.int64, np.uint16, np.int32, np.uint8)[case % 4])
    right = engine.render(labels)
    other = 200 if labels.dtype == np.uint8 else 256 + 5
    stop, interval = threading.Event(), sys.getswitchinterval()
    sys.setswitchinterval(1e-5)

    def change() -> None:
        while not stop.is_set():
            labels[:, ::2] = other
            time.sleep(0)  # the other thread's turn
            labels[:] = 3
            time.sleep(0)

    thread = threading.Thread(target=change)
    thread.start()
    try:
        with _clipping(defect):
            for _ in range(20):
                try:
                    found = engine.render(labels)
                except CrnError:
                    continue
                if not np.array_equal(found, right):
                    return "was rendered, with labels that are none"
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    return None


def _names(message: str, place: tuple[int, int] | None = None) -> str | None:
    """What is wrong with a message that is to name value and first pixel."""
    found = AT.search(message)
    if found is None:
        return f"names no value and pixel: {message}"
    if place is not None and (int(found[2]), int(found[3])) != place:
        return f"names another pixel than {place}: {message}"
    return None


@contextmanager
def _clipping(defect: str | None) -> Iterator[None]:
    """A planted defect: ids are brought into the range, without a word, or are copied late."""
    if defect is None:
        yield
        return
    right = layout.LabelMap

    def late(labels: np.ndarray, known: Any, size: Any) -> np.ndarray:
        batch.stack(labels, known, size)
        time.sleep(5e-4)
        return labels.astype(np.uint8)

    if defect == "late":
        with mock.patch("crn_fast.engine.stack", late):
            yield
        return

    def lenient(array: Any, labels: Any, *rest: Any) -> layout.LabelMap:
        return right(np.clip(np.asarray(array), 0, labels.classes - 1), labels, *rest)

    def stack(labels: Any, known: Any, size: Any) -> np.ndarray:
        return np.clip(np.asarray(labels), 0, 11).astype(np.uint8).reshape(-1, *size)

    def interpret(pixels: Any, labels: Any, name: str, **how: Any) -> layout.LabelMap:
        values = pixels.values if pixels.values is not None else pixels.colors
        return lenient(values, labels, name)

    with (
        mock.patch.object(layout, "interpret", interpret),
        mock.patch.object(batch, "stack", stack),
        mock.patch("crn_fast.engine.stack", stack),
    ):
        yield
