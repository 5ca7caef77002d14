"""PNG files of every kind, sound and unsound, and what breaks them further. All made here.

A seed is a whole file, by name. A mutator makes another file of one, by chance; those that work on
chunks or scan lines make the checksums right again, so that what they broke is reached.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from crn_fast.palette import label_set

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
SIZE = (12, 20)
"""Of the toy network in tests/tiny.py."""

Chunks = list[tuple[bytes, bytes]]
"""Type and body of each."""


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def join(chunks: Chunks) -> bytes:
    """A file of chunks, with the right checksums."""
    return SIGNATURE + b"".join(chunk(*each) for each in chunks)


def split(data: bytes) -> Chunks:
    """The chunks of a file, as far as it can be followed."""
    chunks, at = [], 8
    while at + 12 <= len(data):
        length = int.from_bytes(data[at : at + 4], "big")
        chunks.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return chunks


def header(
    size: tuple[int, int], depth: int = 8, color: int = 0, interlace: int = 0
) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", size[1], size[0], depth, color, 0, 0, interlace)


def ids(size: tuple[int, int], below: int = 12) -> np.ndarray:
    """Blocks of labels, uint8 [H, W], the same at every call."""
    rng = np.random.default_rng(size[0] * 7919 + size[1])
    small = rng.integers(0, below, (-(-size[0] // 3), -(-size[1] // 4)), dtype=np.uint8)
    return small.repeat(3, 0).repeat(4, 1)[: size[0], : size[1]]


def samples(labels: np.ndarray, depth: int, color: int) -> np.ndarray:
    """What a layout of camvid holds in that kind of picture: [H, W, samples]."""
    if color in (0, 3):
        return labels[..., None].astype(int) % (1 << depth)
    opaque = np.full((*labels.shape, 1), (1 << depth) - 1)
    if color == 4:
        return np.dstack([labels[..., None], opaque])
    painted = np.array(label_set("camvid").colors)[labels] * (257 if depth == 16 else 1)
    return painted if color == 2 else np.dstack([painted, opaque])


def scan_lines(
    values: np.ndarray, depth: int, interlace: int = 0, filters: Sequence[int] = (0,)
) -> bytes:
    """Values [H, W, samples] as packed, filtered lines; the filters take turns."""
    step = max(1, values.shape[2] * depth // 8)
    found, number = [], 0
    for x, y, dx, dy in ADAM7 if interlace else ((0, 0, 1, 1),):
        part = values[y::dy, x::dx]
        before = b""
        for row in part if part.size else ():
            bits = (row.reshape(-1, 1) >> np.arange(depth - 1, -1, -1)) & 1
            line = np.packbits(bits.astype(np.uint8).reshape(-1)).tobytes()
            kind = filters[number % len(filters)]
            found.append(bytes([kind]) + _filtered(kind, line, before or bytes(len(line)), step))
            before, number = line, number + 1
    return b"".join(found)


def _filtered(kind: int, line: bytes, above: bytes, step: int) -> bytes:
    made = bytearray()
    for i, value in enumerate(line):
        a = line[i - step] if i >= step else 0
        b = above[i]
        c = above[i - step] if i >= step else 0
        nearest = min((abs(b - c), 0, a), (abs(a - c), 1, b), (abs(a + b - 2 * c), 2, c))[2]
        made.append((value - (0, a, b, (a + b) // 2, nearest)[kind]) % 256)
    return bytes(made)


def palette(colors: int = 256) -> tuple[bytes, bytes]:
    """As many of camvid's colours as there are, then others."""
    known = [bytes(color) for color in label_set("camvid").colors]
    more = [bytes([7, 9, i]) for i in range(256)]
    return b"PLTE", b"".join([*known, *more][:colors])


def picture(
    size: tuple[int, int] = SIZE,
    depth: int = 8,
    color: int = 0,
    interlace: int = 0,
    *,
    filters: Sequence[int] = (0,),
    before: Chunks | None = None,
    between: Chunks | None = None,
    after: Chunks | None = None,
    packed: Callable[[bytes], list[bytes]] = lambda lines: [zlib.compress(lines)],
) -> bytes:
    """A layout; chunks may be put before, between and after those of its pixels."""
    lines = scan_lines(samples(ids(size), depth, color), depth, interlace, filters)
    data: Chunks = [(b"IDAT", body) for body in packed(lines)]
    if between:
        data = [data[0], *between, *data[1:]]
    plte = [palette(1 << depth)] if color == 3 and before is None else []
    head = header(size, depth, color, interlace)
    return join([head, *plte, *(before or []), *data, *(after or []), (b"IEND", b"")])


def _pieces(length: int) -> Callable[[bytes], list[bytes]]:
    def cut(lines: bytes) -> list[bytes]:
        data = zlib.compress(lines)
        return [data[i : i + length] for i in range(0, len(data), length)]

    return cut


def _stream(level: int = 9, wbits: int = 15, **more: bytes) -> Callable[[bytes], list[bytes]]:
    def pack(lines: bytes) -> list[bytes]:
        stream = zlib.compressobj(level, zlib.DEFLATED, wbits, **more)  # type: ignore[arg-type]
        return [stream.compress(lines) + stream.flush()]

    return pack


def _flushed(lines: bytes) -> list[bytes]:
    stream = zlib.compressobj()
    parts = [stream.compress(lines[:99]), stream.flush(zlib.Z_FULL_FLUSH), stream.compress(b"")]
    return [*parts, stream.flush(zlib.Z_SYNC_FLUSH), stream.compress(lines[99:]) + stream.flush()]


def _saved(format: str, mode: str = "RGB") -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    Image.fromarray(ids(SIZE)).convert(mode).save(stream, format)
    return stream.getvalue()


@cache
def seeds() -> dict[str, bytes]:
    """All of them, sound and unsound, by name."""
    found = {
        f"{color}/{depth}{'/interlaced' * way}": picture(SIZE, depth, color, way)
        for color, depths in DEPTHS.items()
        for depth in depths
        for way in (0, 1)
    }
    good = split(picture())
    data = good[1]
    other = (b"IDAT", zlib.compress(bytes([0, *[77] * 20]) * 12))
    for color, depth in ((0, 3), (0, 32), (1, 8), (2, 4), (3, 16), (4, 1), (5, 8), (6, 2), (7, 0)):
        found[f"no such kind {color}/{depth}"] = join([header(SIZE, depth, color), *good[1:]])
    for name, at, value in (("packing", 10, 1), ("filtering", 11, 64), ("interlace", 12, 2)):
        body = bytearray(good[0][1])
        body[at] = value
        found[f"unknown {name}"] = join([(b"IHDR", bytes(body)), *good[1:]])
    for kind in range(5):
        found[f"filter {kind}"] = picture(filters=[kind])
        found[f"filter {kind} of RGB"] = picture(color=2, filters=[kind])
    found["all filters, interlaced"] = picture(depth=4, interlace=1, filters=(4, 3, 2, 1, 0))
    for size in ((1, 1), (1, 300), (300, 1), (24, 40), (8, 8), (13, 7), (3000, 2), (2, 3000)):
        found[f"{size[0]}x{size[1]}"] = picture(size)
        found[f"{size[0]}x{size[1]} of 1 bit, interlaced"] = picture(size, 1, 0, 1)
    clear = (b"tRNS", b"\0\x80\xff")
    for name, before in {
        "clear": [palette(), clear],
        "short": [palette(3)],
        "one colour": [palette(1)],
        "full": [palette(256)],
        "overfull": [(b"PLTE", bytes(771))],
        "two": [palette(), palette()],
        "no": [],
        "empty": [(b"PLTE", b"")],
        "odd": [(b"PLTE", palette()[1][:-1])],
    }.items():
        found[f"palette: {name}"] = picture(color=3, before=before)
    found["palette: late"] = picture(color=3, before=[], after=[palette()])
    found["palette: of RGB"] = picture(color=2, before=[palette()])
    found["palette: of grey"] = picture(color=0, before=[palette(), clear])
    text = zlib.compress(bytes(1 << 16))
    extra: dict[str, Chunks] = {
        "text": [(b"tEXt", b"who\0me"), (b"iTXt", b"a\0\1\0\0\0" + text)],
        "compressed text": [(b"zTXt", b"a\0\0" + text)],
        "broken text": [(b"tEXt", b""), (b"zTXt", b"no zlib"), (b"iTXt", b"\xff" * 9)],
        "profile": [(b"iCCP", b"x\0\0" + text)],
        "broken profile": [(b"iCCP", b"")],
        "Exif": [(b"eXIf", b"MM\0*" + b"\xff" * 30)],
        "gamma": [(b"gAMA", b"\0\0\0\0"), (b"cHRM", bytes(5)), (b"sRGB", b"\t")],
        "private": [(b"prVt", b"anything"), (b"abcd", b"")],
        "critical": [(b"CRIT", b"?")],
        "reserved": [(b"text", b"?")],
        "no letters": [(b"\x1b[2J", b"?")],
        "animation": [(b"acTL", bytes(8)), (b"fcTL", bytes(26)), (b"fdAT", b"\0\0\0\1" + data[1])],
        "another header": [good[0]],
        "another end": [(b"IEND", b"")],
        "an end with a body": [(b"IEND", b"more")],
        "many": [(b"tEXt", b"a\0b")] * 500,
    }  # fmt: skip
    for name, chunks in extra.items():
        found[f"before: {name}"] = picture(before=chunks)
        found[f"between: {name}"] = picture(between=chunks, packed=_pieces(20))
        found[f"after: {name}"] = picture(after=chunks)
    for name, packed in {
        "stored": _stream(0),
        "small window": _stream(9, 9),
        "no zlib header": _stream(9, -15),
        "gzip": _stream(9, 31),
        "a dictionary": _stream(zdict=b"layout" * 9),
        "flushes": _flushed,
        "one byte a chunk": _pieces(1),
        "empty chunks": lambda lines: [b"", b"".join(_pieces(9)(lines)), b"", b""],
        "two streams": lambda lines: [zlib.compress(lines[:99]), zlib.compress(lines[99:])],
        "wrong checksum": lambda lines: [zlib.compress(lines)[:-1] + b"\0"],
        "no checksum": lambda lines: [zlib.compress(lines)[:-4]],
        "cut": lambda lines: [zlib.compress(lines)[:-20]],
        "too little": lambda lines: [zlib.compress(lines[:-1])],
        "too much": lambda lines: [zlib.compress(lines + b"\0")],
        "more after it": lambda lines: [zlib.compress(lines) + b"\0"],
        "an unknown filter": lambda lines: [zlib.compress(b"\5" + lines[1:])],
        "nothing": lambda lines: [b""],
    }.items():  # fmt: skip
        found[f"stream: {name}"] = picture(packed=packed)
    whole = picture()
    found |= {
        "no end": join(good[:-1]),
        "no pixels": join([good[0], good[-1]]),
        "no header": join(good[1:]),
        "late header": join([data, good[0], good[-1]]),
        "more after the end": whole + b"PK\3\4",
        "twice": whole + whole,
        "a wrong checksum": whole[:-1] + b"\0",
        "a length beyond the end": whole[:33] + b"\x7f\xff\xff\xff" + whole[37:],
        "a negative length": whole[:33] + b"\xff\xff\xff\xff" + whole[37:],
        "a length of 0": whole[:33] + b"\0\0\0\0" + whole[37:],
        "the signature": SIGNATURE,
        "line ends changed": whole.replace(b"\r\n", b"\n"),
        "nothing": b"",
        "a byte": b"\x89",
        "other values": join([good[0], other, good[-1]]),
        "NumPy": b"\x93NUMPY\1\0" + bytes(99),
        "PDF": b"%PDF-1.7\n" + bytes(99),
        "text": "Hügel\n".encode() * 99,
    }  # fmt: skip
    for format in ("JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO"):
        found[format] = _saved(format)
    return found


def readable() -> dict[str, np.ndarray]:
    """The seeds of the network's size that must be read, and the labels that they hold."""
    depths = {0: (1, 2, 4, 8, 16), 2: (8,), 3: (1, 2, 4, 8), 4: (8,), 6: (8,)}
    kinds = {
        f"{color}/{depth}{'/interlaced' * way}": ids(SIZE) & ((1 << min(depth, 8)) - 1)
        for color, each in depths.items()
        for depth in each
        for way in (0, 1)
    }
    ignored = (
        *("text", "compressed text", "broken text", "profile", "broken profile"),
        *("Exif", "gamma", "private", "reserved", "many"),
    )
    streams = ("stored", "small window", "flushes", "one byte a chunk", "empty chunks")
    others = [f"filter {kind}{of}" for kind in range(5) for of in ("", " of RGB")]
    others += [f"palette: {name}" for name in ("clear", "full", "of RGB", "of grey")]
    others += [f"{place}: {name}" for place in ("before", "after") for name in ignored]
    others += [f"stream: {name}" for name in streams] + ["all filters, interlaced"]
    return kinds | dict.fromkeys(others, ids(SIZE))


def pngs() -> dict[str, bytes]:
    """The seeds that are PNG files with pixels, whatever else is wrong with them."""
    return {
        name: data
        for name, data in seeds().items()
        if data.startswith(SIGNATURE + b"\0\0\0\r") and b"IDAT" in data
    }


def sound() -> dict[str, bytes]:
    """A layout of each kind that rendering takes, with the colours and filters of real ones."""
    kinds = ((0, 1), (0, 4), (0, 8), (0, 16), (2, 8), (3, 4), (3, 8), (4, 8), (6, 8))
    return {
        f"{color}/{depth}{'/interlaced' * way}": picture((24, 40), depth, color, way, filters=f)
        for color, depth in kinds
        for way, f in ((0, (0, 1, 2, 3, 4)), (1, (2, 4)))
    }  # fmt: skip
