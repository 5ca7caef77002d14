"""What breaks a PNG further, by chance: bits, bytes, chunks, the header, scan lines.

All but the first few make the checksums right again, so that what they broke is reached.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable

import numpy as np

from hostile.pngs import DEPTHS, SAMPLES, Chunks, header, join, palette, scan_lines, split

Rng = np.random.Generator
Mutator = Callable[[Rng, bytes, bytes], bytes]
"""Given a file and another one, makes a third."""

NUMBERS = (0, 1, 2, 3, 7, 8, 16, 255, 256, 16384, 16385, 65535, 1 << 20, 1 << 31, (1 << 32) - 1)
MOST = 1 << 18
"""Bytes of a file that grows no more."""


def flip_bits(rng: Rng, data: bytes, other: bytes) -> bytes:
    made = bytearray(data)
    for at in rng.integers(0, max(1, len(made) * 8), rng.integers(1, 9)) if made else ():
        made[at // 8] ^= 1 << at % 8
    return bytes(made)


def change_bytes(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Insert, remove, repeat, blank or cut off."""
    at, to = np.sort(rng.integers(0, len(data) + 1, 2)).tolist()
    to = min(to, at + 64)
    kinds = (
        data[:at] + rng.bytes(rng.integers(1, 9)) + data[at:],
        data[:at] + data[to:],
        data[:to] + data[at:],
        data[:at] + bytes(to - at) + data[to:],
        data[:to],
    )
    return kinds[rng.integers(len(kinds))]


def splice(rng: Rng, data: bytes, other: bytes) -> bytes:
    return data[: rng.integers(len(data) + 1)] + other[rng.integers(len(other) + 1) :]


def splice_chunks(rng: Rng, data: bytes, other: bytes) -> bytes:
    mine, theirs = split(data), split(other) or split(data)
    return join(mine[: rng.integers(len(mine) + 1)] + theirs[rng.integers(len(theirs) + 1) :])


def change_chunks(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Break a body, rename, remove, repeat, move or add chunks."""
    chunks = split(data)
    if not chunks:
        return flip_bits(rng, data, other)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(chunks)))
        kind, body = chunks[at]
        match rng.integers(8):
            case 0 | 1 | 2:
                chunks[at] = kind, flip_bits(rng, body, b"")
            case 3:
                chunks[at] = flip_bits(rng, kind, b""), body
            case 4 if len(chunks) > 1:
                del chunks[at]
            case 5:
                chunks.insert(int(rng.integers(len(chunks) + 1)), (kind, body))
            case 6:
                chunks.insert(int(rng.integers(len(chunks))), chunks.pop(at))
            case _:
                kinds = (b"tRNS", b"PLTE", b"IDAT", b"acTL", b"sBIT", b"hIST", b"IHDR", b"prVt")
                new = kinds[rng.integers(len(kinds))], rng.bytes(rng.integers(0, 40))
                chunks.insert(at, new)
    return join(chunks)


def change_lengths(rng: Rng, data: bytes, other: bytes) -> bytes:
    """A chunk says that it is shorter or longer than it is."""
    made = bytearray(data)
    at, places = 8, []
    for _, body in split(data):
        places.append(at)
        at += 12 + len(body)
    if places:
        at = places[rng.integers(len(places))]
        made[at : at + 4] = _number(rng).to_bytes(4, "big")
    return bytes(made)


def change_header(rng: Rng, data: bytes, other: bytes) -> bytes:
    chunks = split(data)
    if not chunks or len(chunks[0][1]) != 13:
        return data
    body = bytearray(chunks[0][1])
    match rng.integers(4):
        case 0:
            body[0:4] = _number(rng).to_bytes(4, "big")
        case 1:
            body[4:8] = _number(rng).to_bytes(4, "big")
        case 2:
            body[8:10] = (1, 2, 4, 8, 16)[rng.integers(5)], rng.integers(0, 8)
        case 3:
            body[rng.integers(8, 13)] = rng.integers(256)
    return join([(chunks[0][0], bytes(body)), *chunks[1:]])


def change_lines(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Filters and pixels, packed again in some way."""
    chunks = split(data)
    try:
        packed = b"".join(body for kind, body in chunks if kind == b"IDAT")
        lines = zlib.decompressobj().decompress(packed, MOST)
    except zlib.error:
        return data
    match rng.integers(6):
        case 0 | 1:
            lines = flip_bits(rng, lines, b"")
        case 2:
            lines = change_bytes(rng, lines, b"")
        case _:
            made = bytearray(lines)
            for at in range(0, len(made), int(rng.integers(1, 50))):
                made[at] = rng.integers(6)
            lines = bytes(made)
    return join(_with_data(chunks, _pack(rng, lines)))


def change_kind(rng: Rng, data: bytes, other: bytes) -> bytes:
    """Another kind and size of picture, with some palette and as many bytes as that needs."""
    chunks = [each for each in split(data) if each[0] not in (b"PLTE", b"IHDR")]
    color = (0, 2, 3, 3, 4, 6)[rng.integers(6)]
    depth = DEPTHS[color][rng.integers(len(DEPTHS[color]))]
    size = (int(rng.integers(1, 40)), int(rng.integers(1, 40)))
    values = rng.integers(0, (2, 12, 256)[rng.integers(3)], (*size, SAMPLES[color]))
    if color in (4, 6) and rng.integers(2):
        values[..., -1] = (1 << depth) - 1
    way, filters = int(rng.integers(2)), rng.integers(0, 5, 7).tolist()
    lines = scan_lines(values, depth, way, filters)
    colors = rng.bytes(3 * rng.integers(0, 258)) if rng.integers(3) else palette(1 << depth)[1]
    head = [header(size, depth, color, way)] + [(b"PLTE", colors)] * (color == 3)
    return join([*head, *_with_data(chunks, _pack(rng, lines))])


MUTATORS: tuple[tuple[Mutator, int], ...] = (
    (flip_bits, 1),
    (change_bytes, 1),
    (splice, 1),
    (splice_chunks, 2),
    (change_chunks, 3),
    (change_lengths, 1),
    (change_header, 2),
    (change_lines, 5),
    (change_kind, 5),
)
"""Each with how often it is taken: oftener those that reach further."""
_CHOICE = [change for change, times in MUTATORS for _ in range(times)]


def mutate(rng: Rng, data: bytes, other: bytes) -> tuple[bytes, str]:
    """One of them, or two or three one after the other; and their names."""
    chosen = [_CHOICE[i] for i in rng.integers(0, len(_CHOICE), (1, 1, 1, 2, 3)[rng.integers(5)])]
    for change in chosen:
        data = change(rng, data, other)[:MOST]
    return data, ", ".join(change.__name__ for change in chosen)


def _number(rng: Rng) -> int:
    near = int(rng.integers(0, 64))
    return NUMBERS[rng.integers(len(NUMBERS))] if rng.integers(2) else near


def _with_data(chunks: Chunks, bodies: list[bytes]) -> Chunks:
    at = next((i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT"), len(chunks))
    rest = [each for each in chunks[at:] if each[0] != b"IDAT"]
    return [*chunks[:at], *((b"IDAT", body) for body in bodies), *rest]


def _pack(rng: Rng, lines: bytes) -> list[bytes]:
    stream = zlib.compressobj(
        int(rng.integers(0, 10)),
        zlib.DEFLATED,
        int(rng.integers(9, 16)),
        8,
        int(rng.integers(0, 5)),
    )
    data = stream.compress(lines) + stream.flush()
    length = int(rng.integers(1, 200)) if rng.integers(2) else len(data) + 1
    return [data[i : i + length] for i in range(0, len(data), length)]
