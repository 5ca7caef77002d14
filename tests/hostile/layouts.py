"""A layout on its way through the product: read, brought to the network, rendered. Or refused."""

from __future__ import annotations

import io
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from crn_fast import layout, png
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, CrnError, Mismatch
from crn_fast.image import read as read_picture
from crn_fast.layout import LabelMap
from crn_fast.palette import label_set
from crn_fast.rendering import video
from hostile.command_line import run
from hostile.pngs import join, split

MODEL = "net.safetensors"
ALL = "outcomes.txt"
Read = Callable[..., LabelMap]
"""As `layout.read`."""


@dataclass(frozen=True)
class Case:
    data: bytes
    told: str
    """How it was made."""
    labels: str = "camvid"
    encoding: str = "auto"
    unknown: str = "error"
    fit: str = "nearest"
    shows: np.ndarray | None = None
    """The labels that it holds, if it must be rendered."""


_labels = cache(label_set)


@cache
def _engine(folder: Path) -> Engine:
    return Engine.open(folder / MODEL, threads=1)


@cache
def _idle(folder: Path) -> int:
    """Peak memory of this process, in bytes, once it has rendered and refused something."""
    engine, ids = _engine(folder), tiny.labels_array()[0]
    for name in ("camvid", "cityscapes", "ade20k", "nyu40"):
        labels = label_set(name)
        engine.render(layout.from_array(ids, engine.labels))
        pixels = png.Pixels("8-bit RGB", None, np.full((12, 20), 5, np.uint32))
        try:
            layout.interpret(pixels, labels, "warm", encoding="auto")
        except BadInput:
            continue
    return _peak()


def _peak() -> int:
    """Of this program alone: ru_maxrss begins with what the process that started it had."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) << 10


def rendered_or_refused(folder: Path, case: Case, read: Read = layout.read) -> str | None:
    """None for a picture of the network's size or a refusal in one line that names the file.

    A file that cannot be read is refused with exit code 3, one that can but is of another size or
    label set with 4, and nothing else happens to it. One that must be rendered is, with the labels
    that it holds. What became of it is added to a file.
    """
    idle, engine, start = _idle(folder), _engine(folder), time.perf_counter()
    path = folder / f"{os.getpid()}.png"
    path.write_bytes(case.data)
    stage: tuple[type[CrnError], ...] = (BadInput,)
    try:
        found = read(path, _labels(case.labels), encoding=case.encoding, unknown=case.unknown)
        stage = (Mismatch,)
        if found.labels.names != engine.labels.names:
            found = layout.convert(found, engine.labels)
        found = layout.fit(found, engine.spec.size, case.fit)  # type: ignore[arg-type]
        stage = ()
        became, wrong = "rendered", _judge_picture(engine.render(found))
        if case.shows is not None and not np.array_equal(found.array, case.shows):
            wrong = "was read as other labels"
    except CrnError as error:
        became, wrong = f"refused with {error.exit_code}", _judge_message(error, path)
        if case.shows is not None or not isinstance(error, stage):
            wrong = f"{type(error).__name__}: {error}"
    _note(folder, became, time.perf_counter() - start, _peak() - idle)
    return wrong and f"{case.told}: {wrong}"


def _judge_picture(made: np.ndarray) -> str | None:
    expected = (1, tiny.SPEC.images, *tiny.SPEC.size, 3)
    return None if made.shape == expected and made.dtype == np.uint8 else f"made {made.shape}"


def _judge_message(error: CrnError, path: Path) -> str | None:
    message = str(error)
    if not message.startswith(f"{path}: ") or not message.isprintable() or len(message) > 2000:
        return f"its message is {message[:300]!r}"
    return None


def _note(folder: Path, became: str, seconds: float, grown: int) -> None:
    with (folder / f"{os.getpid()}.{ALL}").open("a") as stream:
        stream.write(f"{became}\t{seconds:.4f}\t{grown}\n")


def outcomes(folder: Path) -> list[tuple[str, float, int]]:
    """Of every case: what became of it, its seconds, and how far memory had grown by then."""
    rows = [line.split("\t") for path in folder.glob(f"*.{ALL}") for line in path.open()]
    return [(became, float(seconds), int(grown)) for became, seconds, grown in rows]


def commanded(folder: Path, case: Case) -> str | None:
    """The same by `crn-fast render`, which leaves a whole picture, or none and a line."""
    own = folder / str(os.getpid())
    own.mkdir(exist_ok=True)
    (own / "layout.png").write_bytes(case.data)
    words = ["render", "--layout", "layout.png", "-m", str(folder / MODEL), "--images", "1"]
    words += ["-o", "picture.png", "--labels", case.labels, "--fit", case.fit]
    words += ["--encoding", case.encoding, "--unknown", case.unknown, "--threads", "1", "-q"]
    done = run(words, own)
    left = sorted(path.name for path in own.iterdir())
    lines = done.err.splitlines()
    try:
        if done.code == 0:
            whole = left == ["layout.png", "picture.png"] and not lines
            if not whole or read_picture(own / "picture.png").shape != (*tiny.SPEC.size, 3):
                return f"{case.told}: left {left}, said {done.err!r}"
        elif case.shows is not None:
            return f"{case.told}: exit code {done.code}, said {done.err!r}"
        elif done.code not in (3, 4) or len(lines) != 1 or left != ["layout.png"]:
            return f"{case.told}: exit code {done.code}, left {left}, said {done.err!r}"
        elif not lines[0].startswith("crn-fast: layout.png: ") or not lines[0].isprintable():
            return f"{case.told}: said {lines[0]!r}"
        return None
    finally:
        (own / "picture.png").unlink(missing_ok=True)


def read_with_a_crash(path: Path, *arguments: Any, **options: Any) -> LabelMap:
    """A planted defect: some byte ends the process, as in a decoder that writes out of bounds."""
    if 0xF7 in path.read_bytes()[60:70]:
        os.abort()
    return layout.read(path, *arguments, **options)


def read_by_pillow(path: Path, labels: Any, **options: Any) -> LabelMap:
    """A planted defect: nothing is checked before Pillow decodes."""
    from PIL import Image

    with Image.open(path) as picture:
        values = np.asarray(picture.convert("L"))
    return layout.interpret(png.Pixels("grey", values, None), labels, str(path), **options)


@dataclass(frozen=True)
class Damaged:
    """A sound file, and the same with some bytes changed."""

    sound: bytes
    data: bytes
    told: str


def same_or_refused(case: Damaged, decode: Callable[[bytes], Any] | None = None) -> str | None:
    """None if a damaged file is refused by BadInput, or decodes as the sound one does."""
    decode = decode or _decode
    before = _sound(case.sound, decode)
    try:
        found = decode(case.data)
    except BadInput:
        return None
    except Exception as error:
        return f"{case.told}: {error!r}"
    return None if found == before else f"{case.told}: decodes otherwise, without a word"


@cache
def _sound(data: bytes, decode: Callable[[bytes], Any]) -> Any:
    return decode(data)


def _decode(data: bytes) -> Any:
    found = png.read(io.BytesIO(data), "damaged.png")
    parts = (found.values, found.colors)
    return [None if part is None else (part.shape, part.tobytes()) for part in parts]


def decode_without_checksums(data: bytes) -> Any:
    """A planted defect: every checksum of a chunk is taken for right."""
    return _decode(join(split(data)))


def video_same_or_refused(folder: Path, case: Damaged, read: Any = video.read) -> str | None:
    """None if a damaged video of labels is refused, or gives frames as they were, in order.

    Its container may lose frames or be wrong about their size, which is noted; see docs/rendering.
    """
    found, before = (_frames(folder, data, read) for data in (case.data, case.sound))
    if before is None:
        return f"{case.told}: the sound video is refused"
    if found is None:
        return None
    rest = iter(before)
    if len(found) == len(before) and found[0][0] != before[0][0]:
        _note(folder, "another size", 0, 0)
    elif not all(frame in rest for frame in found):
        return f"{case.told}: decodes otherwise, without a word"
    elif len(found) < len(before):
        _note(folder, "fewer frames", 0, 0)
    return None


def _frames(folder: Path, data: bytes, read: Any) -> list[tuple[Any, bytes]] | None:
    """None if it is refused."""
    path = folder / f"{os.getpid()}.video"
    path.write_bytes(data)
    try:
        arrays = [f.values if f.values is not None else f.colors for f in read(path)]
        return [(array.shape, array.tobytes()) for array in arrays]
    except BadInput:
        return None


def video_by_ffmpeg(path: Path) -> Iterator[png.Pixels]:
    """A planted defect: FFmpeg is believed."""
    import av

    try:
        with av.open(str(path), metadata_errors="replace") as container:
            for frame in container.decode(video=0):
                yield png.Pixels("8-bit grey", frame.to_ndarray(format="gray"), None)
    except (av.FFmpegError, AttributeError, ValueError) as error:
        raise BadInput(f"{path}: {error}") from None
