"""Small files that would take much memory or time, and what refusing one costs."""

from __future__ import annotations

import io
import os
import resource
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import numpy as np

from crn_fast import layout, png
from crn_fast.errors import BadInput
from crn_fast.palette import label_set
from hostile.pngs import ADAM7, SAMPLES, Chunks, header, join, picture, split

MEMORY = 16 << 20
"""Bytes above what the idle process takes."""
SECONDS = 0.05
TRIES = 5
"""Times that a bomb is read, for the median."""

KINDS = ((0, 1), (0, 8), (0, 16), (2, 8), (3, 8), (4, 8), (6, 8))
"""Colour types and depths of layouts."""


class Bomb(NamedTuple):
    told: str
    chunks: Chunks


@cache
def zeros(million: int) -> bytes:
    """As a zlib stream, a thousandth of that."""
    stream = zlib.compressobj(9)
    parts = [stream.compress(bytes(1_000_000)) for _ in range(million)]
    return b"".join(parts) + stream.flush()


def bombs(rng: np.random.Generator, count: int) -> Iterator[Bomb]:
    """By turns, of all sorts."""
    sorts = (dimensions, honest, lies, ratios, pieces, texts, palettes)
    for number in range(count):
        color, depth = KINDS[rng.integers(len(KINDS))]
        way = int(rng.integers(2))
        yield sorts[number % len(sorts)](rng, color, depth, way)


def _file(size: tuple[int, int], color: int, depth: int, way: int, *data: bytes) -> Chunks:
    plte = [(b"PLTE", bytes(768))] * (color == 3)
    pixels = [(b"IDAT", each) for each in data]
    return [header(size, depth, color, way), *plte, *pixels, (b"IEND", b"")]


def dimensions(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """A header beyond what is accepted, with much or little behind it."""
    most = (1 << 31) - 1
    sizes = (
        (most, most), (most, 1), (1, most), (16385, 1), (1, 16385), (16384, 2049), (5793, 5793),
        ((1 << 32) - 1, 2), (65536, 65536),
    )  # fmt: skip
    size = sizes[rng.integers(len(sizes))]
    if rng.integers(3) == 0:
        size = (int(rng.integers(16385, most)), int(rng.integers(1, most)))
    return Bomb(f"{size} {color}/{depth}", _file(size, color, depth, way, zeros(20)))


OVER = ((16384, 2049), (5793, 5793), (16385, 1), (1, 16385))
"""Just beyond what is accepted."""
LARGEST = ((16384, 2048), (16384, 1), (1, 16384))


def honest(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """A header just beyond what is accepted, and all of its pixels: one colour, so a small file."""
    return whole(OVER[rng.integers(len(OVER))], color, depth, way)


def whole(size: tuple[int, int], color: int, depth: int, way: int) -> Bomb:
    """A sound picture of the value 0."""
    bits = depth * SAMPLES[color]
    parts = [(-(-(size[0] - y) // dy), -(-(size[1] - x) // dx)) for x, y, dx, dy in ADAM7]
    count = sum(
        height * (1 + -(-width * bits // 8))
        for height, width in (parts if way else [size])
        if height > 0 and width > 0
    )
    told = f"{'interlaced ' * way}{size} {color}/{depth}, whole"
    return Bomb(told, _file(size, color, depth, way, zlib.compress(bytes(count), 9)))


def lies(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """An accepted header, and too little behind it."""
    sizes = ((16384, 2048), (2048, 16384), (5792, 5792), (16384, 1), (1, 16384), (4000, 4000))
    size = sizes[rng.integers(len(sizes))]
    behind = (b"", zlib.compress(b""), zlib.compress(bytes(1000)), zeros(1)[:-4])
    data = behind[rng.integers(len(behind))]
    return Bomb(f"too little for {size} {color}/{depth}", _file(size, color, depth, way, data))


def ratios(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """A small header, and a thousand times too much behind it."""
    size = (int(rng.integers(1, 64)), int(rng.integers(1, 64)))
    million = (4, 30, 100)[rng.integers(3)]
    data = zeros(million)
    length = (len(data), 4096, 100)[rng.integers(3)]
    parts = [data[i : i + length] for i in range(0, len(data), length)]
    told = f"{million} MB in {len(parts)} pieces for {size} {color}/{depth}"
    return Bomb(told, _file(size, color, depth, way, *parts))


def pieces(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """Very many chunks, of pixels or of anything."""
    count = (16_000, 17_000, 17_000, 80_000)[rng.integers(4)]
    kind = (b"IDAT", b"tEXt", b"prVt", b"PLTE")[rng.integers(4)]
    start, *rest = _file((8, 8), color, depth, way, zlib.compress(bytes(9)))
    return Bomb(f"{count} of {kind.decode()}", [start, *[(kind, b"")] * count, *rest])


def texts(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """Text, profiles and Exif that would be large, beside pixels that are missing."""
    data = zeros((4, 30, 100)[rng.integers(3)])
    kinds = (
        (b"zTXt", b"a\0\0" + data),
        (b"iTXt", b"a\0\1\0\0\0" + data),
        (b"iCCP", b"a\0\0" + data),
        (b"eXIf", b"MM\0*" + struct.pack(">I", 8) + b"\xff" * 100_000),
        (b"tEXt", b"a\0" + bytes(1_500_000)),
    )
    kind, body = kinds[rng.integers(len(kinds))]
    start, *rest = _file((8, 8), color, depth, way, zlib.compress(bytes(9)))
    return Bomb(f"{len(body)} bytes of {kind.decode()}", [start, (kind, body), *rest])


def palettes(rng: np.random.Generator, color: int, depth: int, way: int) -> Bomb:
    """A palette, or the colour of one, that is too large."""
    kind = (b"PLTE", b"tRNS", b"hIST", b"sPLT")[rng.integers(4)]
    body = bytes(int(rng.integers(769, 900_000)))
    start, *rest = _file((8, 8), 3, 8, way, zlib.compress(bytes(9)))
    return Bomb(f"{len(body)} bytes of {kind.decode()}", [start, (kind, body), *rest])


def refused_at_little_cost(
    folder: Path, bomb: Bomb, read: Callable[..., Any] = layout.read, tries: int = TRIES
) -> str | None:
    """None if a bomb is refused within MEMORY, which is measured in a child of its own.

    What it cost is added to a file: seconds of the processor, the median of `tries`, and bytes.
    """
    path = folder / f"{os.getpid()}.png"
    path.write_bytes(join(bomb.chunks))
    receiver, sender = os.pipe()
    _warm()
    child = os.fork()
    if child == 0:
        os.write(sender, _explode(path, read, tries).encode())
        os._exit(0)
    os.close(sender)
    with os.fdopen(receiver) as answer:
        text = answer.read()
    os.waitpid(child, 0)
    refused, seconds, grown = text.split("\t") if text else ("the process died", "0", "0")
    with (folder / f"{os.getpid()}.costs").open("a") as stream:
        stream.write(f"{seconds}\t{grown}\n")
    if refused != "refused":
        return f"{bomb.told}: {refused}"
    if int(grown) > MEMORY:
        return f"{bomb.told}: refused, but took {int(grown) / 1e6:.0f} MB"
    return None


def costs(folder: Path) -> list[tuple[float, int]]:
    """Seconds and bytes of every bomb so far."""
    rows = [line.split("\t") for path in folder.glob("*.costs") for line in path.open()]
    return [(float(seconds), int(grown)) for seconds, grown in rows]


@cache
def _warm() -> None:
    """What any process has done that has read one layout before."""
    for data in (picture(), picture(color=2), join(split(picture())[:-1])):
        try:
            layout.read(io.BytesIO(data), label_set("camvid"))
        except BadInput:
            continue


def _explode(path: Path, read: Callable[..., Any], tries: int) -> str:
    """Memory at its peak beyond that of a process which has just been forked."""
    labels = label_set("camvid")
    before = _peak()
    costs = []
    refused = "is taken for a layout"
    for _ in range(tries):
        start = time.process_time()
        try:
            read(path, labels)
        except BadInput:
            refused = "refused"
        except BaseException as error:
            refused = f"{type(error).__name__}: {error}"
        costs.append(time.process_time() - start)
    return f"{refused}\t{median(costs):.5f}\t{_peak() - before}"


def _peak() -> int:
    """Most memory of this process so far, in bytes; that of a forked one begins anew."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def read_four_times_as_large(path: Path, labels: Any) -> Any:
    """A planted defect: the limits of a picture's size are too high."""
    with (
        mock.patch.object(png, "MAX_SIDE", 4 * png.MAX_SIDE),
        mock.patch.object(png, "MAX_PIXELS", 4 * png.MAX_PIXELS),
    ):
        return layout.read(path, labels)


def read_by_pillow(path: Path, labels: Any) -> Any:
    """A planted defect: Pillow alone, told to take pictures of any size."""
    from PIL import Image

    Image.MAX_IMAGE_PIXELS = None
    try:
        with Image.open(path, formats=["PNG"]) as found:
            return np.asarray(found)
    except Exception as error:
        raise BadInput(f"{path}: {error}") from None
