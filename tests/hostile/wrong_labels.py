"""Labels that are none, as arrays and as files, and what the ways into the renderer say of them."""

from __future__ import annotations

import functools
import os
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

import tiny
from crn_fast import batch, image, layout
from crn_fast.engine import Engine
from crn_fast.errors import CrnError
from crn_fast.palette import label_set
from hostile.command_line import run
from hostile.pngs import header, join, scan_lines

CAMVID = label_set("camvid")
SIZE = tiny.SPEC.size
IDS = tiny.labels_array()[0]
LAST = (SIZE[0] - 1, SIZE[1] - 1)
PLACES = {"first": (0, 0), "middle": (SIZE[0] // 2, 7), "last": LAST}


def spoiled(value: int, place: str = "middle") -> np.ndarray:
    """Sound ids with a wrong pixel; if that is not the last one, the last is wrong, too."""
    ids = IDS.astype(np.uint64 if value >= 1 << 63 else np.int64)
    ids[LAST] = value ^ 1
    ids[PLACES[place]] = value
    return ids


def at(row: int, column: int) -> str:
    return f" at row {row}, column {column} "


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


Form = Callable[[np.ndarray], Any]


def typed(dtype: str) -> Form:
    return lambda ids: ids.astype(dtype)


VALUES: dict[str, tuple[int, Form]] = {
    "a class too many": (12, typed("u1")),
    "ignored by others: 255": (255, typed("u1")),
    "a data set's id: 34": (34, typed("i8")),
    "negative": (-1, typed("i1")),
    "wraps to a class: 256 + 3": (259, typed("i8")),
    "wraps in 64 bits": (2**63 + 3, typed("u8")),
    "big-endian": (300, typed(">u2")),
    "not contiguous": (99, lambda ids: np.repeat(ids.astype("u1"), 2, 1)[:, ::2]),
    "read-only": (13, lambda ids: np.frombuffer(ids.astype("u1").tobytes(), "u1").reshape(SIZE)),
    "through DLPack": (77, lambda ids: Exported(ids.astype("i4"))),
    "one of a batch": (12, lambda ids: np.stack([IDS, ids.astype("u1")])),
    "one of a list": (-7, lambda ids: [IDS, ids]),
}
"""Faults of a value, which must be named with its pixel: the value, and how ids are given."""

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


def png(array: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(array).save(stream, "PNG")
    return stream.getvalue()


COLORS = np.array(CAMVID.colors, np.uint8)


def painted(strange: tuple[int, int, int], place: str) -> np.ndarray:
    """A layout in colours with a wrong pixel; if that is not the last, the last is, too."""
    colors = COLORS[IDS]
    colors[LAST] = 9, 9, 9
    colors[PLACES[place]] = strange
    return colors


def told(array: np.ndarray) -> str:
    """What must be said of a picture of ids or colours: its first wrong value, and where."""
    if array.ndim == 2:
        wrong, name = ~np.isin(array, list(CAMVID.ids)), "value"
    else:
        wrong, name = ~(array[:, :, None] == COLORS).all(-1).any(-1), "colour"
    row, column = np.argwhere(wrong)[0].tolist()
    return f"{name} {array[row, column].tolist()}{at(row, column)}"


def _short_palette() -> tuple[bytes, str]:
    lines = zlib.compress(scan_lines(IDS[..., None].astype(int), 8))
    row, column = np.argwhere(IDS > 2)[0].tolist()
    palette = (b"PLTE", bytes(range(9)))
    data = join([header(SIZE, 8, 3), palette, (b"IDAT", lines), (b"IEND", b"")])
    return data, f"index {IDS[row, column]}{at(row, column)}"


def _alpha() -> tuple[bytes, str]:
    alpha = np.full(SIZE, 255, np.uint8)
    alpha[PLACES["middle"]], alpha[LAST] = 128, 0
    return png(np.dstack([COLORS[IDS], alpha])), f"alpha 128{at(*PLACES['middle'])[:-1]}"


def _smooth() -> np.ndarray:
    """Grey ids, made smaller with smoothing and larger again: in-between values that are none."""
    large = Image.fromarray(np.where(IDS % 2, 11, 0).astype(np.uint8) * 20)
    return np.asarray(large.resize((SIZE[1] // 2, SIZE[0] // 2)).resize((SIZE[1], SIZE[0])))


CHANCE = np.random.default_rng(1)
PICTURES: dict[str, np.ndarray] = {
    **{
        f"value {value}, {place}": spoiled(value, place).astype(np.uint8)
        for value in (12, 34, 255)
        for place in PLACES
    },
    "16 bits that wrap": spoiled(259).astype(np.uint16),
    **{f"another colour, {place}": painted((1, 2, 3), place) for place in PLACES},
    "a photo": CHANCE.integers(0, 256, (*SIZE, 3), np.uint8),
    "a grey photo": CHANCE.integers(0, 256, SIZE, np.uint8),
    "smooth edges": _smooth(),
    "another set's colours": np.array(label_set("cityscapes").colors, np.uint8)[IDS],
    "all void of others": np.full(SIZE, 255, np.uint8),
}
FILES: dict[str, tuple[bytes, str]] = {
    **{name: (png(array), told(array)) for name, array in PICTURES.items()},
    "transparent": _alpha(),
    "short palette": _short_palette(),
}
"""Files, and what must be said of each."""


@functools.cache
def scene(folder: Path) -> tuple[Engine, np.ndarray]:
    """An engine of a model in the folder, and what it makes of sound labels."""
    made = folder / f"{os.getpid()}.safetensors"
    engine = Engine.open(tiny.save_checkpoint(made), threads=1)
    return engine, engine.render(IDS)


def in_library(folder: Path, case: tuple[str, str], defect: str | None = None) -> str | None:
    """None if an array is refused by name of its fault; `case` is its kind and place."""
    engine, _ = scene(folder)
    labels, words = _array(*case)
    with planted(defect):
        try:
            engine.render(labels)
        except CrnError as error:
            wanted = 4 if case[0] in ("transposed", "one-hot") else 3  # of another size
            return _judge(error, words, wanted)
    return "was rendered"


def _array(kind: str, place: str) -> tuple[Any, str]:
    """Wrong labels, and what must be said of them."""
    if kind in KINDS:
        return KINDS[kind], ""
    value, form = VALUES[kind]
    return form(spoiled(value, place)), f"value {value}{at(*PLACES[place])}"


def in_stream(folder: Path, case: tuple[str, str], defect: str | None = None) -> str | None:
    """As `in_library`, the third layout of a stream: those before it come out."""
    engine, right = scene(folder)
    labels, words = _array(*case)
    with planted(defect):
        made = engine.stream([IDS, IDS, labels], batch=1)
        if not all(np.array_equal(next(made), right[0]) for _ in range(2)):
            return "other pictures before it"
        try:
            next(made)
        except CrnError as error:
            return _judge(error, words)
    return "was rendered"


def in_command(folder: Path, case: str, defect: str | None = None) -> str | None:
    """None if `render` refuses the file with exit code 3, its name, value and pixel."""
    scene(folder)
    data, said = FILES[case]
    (folder / "layout.png").write_bytes(data)
    model = f"{os.getpid()}.safetensors"
    words = ["render", "--layout", "layout.png", "-m", model, "-o", "out.png", "--threads", "1"]
    with planted(defect):
        ran = run(words, folder)
    made = list(folder.glob("out*"))
    for path in made:
        path.unlink()
    if ran.code != 3 or made:
        return f"exit {ran.code}, {len(made)} files: {ran.message}"
    return None if f"layout.png: {said}" in ran.message else f"not {said!r}: {ran.message}"


def in_training(folder: Path, case: str, defect: str | None = None) -> str | None:
    """None if the check before training, and reading the sample, refuse the file in these words."""
    from crn_fast.training import preflight
    from crn_fast.training.data import Windows
    from crn_fast.training.recipe import Recipe

    data, said = FILES[case]
    for name in ("photos", "labels"):
        (folder / name).mkdir(exist_ok=True)
    image.write(folder / "photos/0.png", np.zeros((*SIZE, 3), np.uint8))
    (folder / "labels/0.png").write_bytes(data)
    network = {"widths": [8, 8, 6], "base": [3, 5], "classes": 12}
    recipe = Recipe.from_dict({"label_set": "camvid", "network": network})
    alone: Any = SimpleNamespace(rank=0, size=1, first=True, gather=lambda lines: [lines])
    with planted(defect):
        try:
            preflight.check(folder, recipe, CAMVID, 1, alone)
        except preflight.FaultyData as error:
            table = "\n".join(error.table)
        else:
            return "was trained on"
        windows = Windows(folder, recipe.data, CAMVID, recipe.network.size, recipe.training)
        sample = windows[0]
    if not isinstance(sample, CrnError) or sample.exit_code != 3:
        return f"the sample was read: {sample}"
    for words in (table, str(sample)):
        if f"labels/0.png: {said}" not in words:
            return f"not {said!r}: {words}"
    return None


def _judge(error: CrnError, words: str, wanted: int = 3) -> str | None:
    if error.exit_code != wanted or words not in str(error):
        return f"exit {error.exit_code}, not {words!r}: {error}"
    return None


def changed_meanwhile(folder: Path, case: int, defect: str | None = None) -> str | None:
    """Another thread changes the labels between a class and what wraps to one, as they are read."""
    engine, _ = scene(folder)
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
        with planted(defect):
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


@contextmanager
def planted(defect: str | None) -> Iterator[None]:
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
        return right(np.clip(array, 0, labels.classes - 1), labels, *rest)

    def stack(labels: Any, known: Any, size: Any) -> np.ndarray:
        several = labels if isinstance(labels, list) else [labels]
        arrays = np.stack([getattr(each, "array", each) for each in several])
        return np.clip(arrays, 0, 11).astype(np.uint8).reshape(-1, *size)

    def interpret(pixels: Any, labels: Any, name: str, **how: Any) -> layout.LabelMap:
        return lenient(pixels.colors if pixels.values is None else pixels.values, labels, name)

    with ExitStack() as plants:
        plants.enter_context(mock.patch.object(layout, "interpret", interpret))
        plants.enter_context(mock.patch("crn_fast.engine.stack", stack))
        if "crn_fast.serve.body" in sys.modules:
            plants.enter_context(mock.patch("crn_fast.serve.body.LabelMap", lenient))
        yield
