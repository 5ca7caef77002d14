"""A PNG file as the exact values it holds: whole, of bounded size, or refused.

Label files must not be damaged silently, and a decoder alone does not see to that: Pillow skips
some checksums, fills in what is missing, and rescales grey below 8 bits. Here the file is walked
chunk by chunk first, every checksum is compared, and the decoder is given only the chunks that
carry pixels. Sizes are judged from the header, before anything is decompressed.

What the values *mean* is `layout`'s business.

Source: W3C, Portable Network Graphics Specification (Third Edition).
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from crn_fast.errors import BadInput, ResourceError
from crn_fast.files import require_file

MAX_SIDE = 16384
MAX_PIXELS = 1 << 25
MAX_CHUNKS = 1 << 14

_DEFLATE_RATIO = 1032
"""A byte of a zlib stream gives no more bytes than this: 258 of them take two bits."""
_BLOCK = 1 << 18
"""Bytes of scan lines, and of their zlib stream, that are checked at a time."""
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_ANCILLARY_ROOM = 1 << 20
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
_KINDS = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGBA"}
_ADAM7 = (
    (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)
)  # fmt: skip
"""First column and row of each interlace pass, then the steps to the next."""

_OTHER_FORMATS = {
    b"\xff\xd8\xff": "a JPEG; lossy compression destroys labels, so go back to the original",
    b"RIFF": "a RIFF file such as WebP, which may be lossy; go back to the original",
    b"GIF8": "a GIF",
    b"BM": "a BMP",
    b"II*\x00": "a TIFF",
    b"MM\x00*": "a TIFF",
    b"P5": "a PGM",
    b"P6": "a PPM",
    b"\x93NUMPY": "a NumPy array",
    b"%PDF": "a PDF",
}


@dataclass(frozen=True)
class Pixels:
    """What a PNG says about each pixel, undecided what it means."""

    kind: str
    """For people: '8-bit grey', '4-bit palette', '8-bit RGB'."""
    values: np.ndarray | None
    """Grey value or palette index: uint8 or uint16 [H, W]; None for RGB."""
    colors: np.ndarray | None
    """R + 256 G + 65536 B: uint32 [H, W]; None for grey."""


def read(source: str | Path | BinaryIO, name: str) -> Pixels:
    """Read and check one PNG file or stream. `name` stands for it in messages.

    Raises:
        BadInput: missing, no PNG, damaged, too large, or of a kind that cannot hold labels.
        ResourceError: it may not be read.
    """
    if not isinstance(source, str | Path):
        return _read_stream(source, name)
    require_file(source, "a PNG layout, or - for standard input")
    try:
        with Path(source).open("rb") as stream:
            return _read_stream(stream, name)
    except PermissionError:
        raise ResourceError(f"{name}: no permission to read it") from None
    except OSError as error:
        raise BadInput(f"{name}: cannot be read ({error})") from None


def _read_stream(stream: BinaryIO, name: str) -> Pixels:
    header = _Header.parse(_read_up_to(stream, 33), name)
    limit = header.raw_bytes + header.raw_bytes // 8 + _ANCILLARY_ROOM
    data = _read_up_to(stream, limit + 1)
    if len(data) > limit:
        raise BadInput(
            f"{name}: more than {limit} bytes for {header.height}x{header.width} pixels; "
            "the file is damaged or carries something else; save the layout again as plain PNG"
        )
    chunks = _chunks(data, name)
    _check_pixels([body for kind, body in chunks if kind == b"IDAT"], header, name)
    return _decode(header, chunks, name)


def _read_up_to(stream: BinaryIO, count: int) -> bytes:
    parts: list[bytes] = []
    while count > 0 and (part := stream.read(count)):
        parts.append(part)
        count -= len(part)
    return b"".join(parts)


@dataclass(frozen=True)
class _Header:
    width: int
    height: int
    depth: int
    color_type: int
    interlaced: int
    chunk: bytes

    @classmethod
    def parse(cls, head: bytes, name: str) -> _Header:
        if not head:
            raise BadInput(f"{name}: is empty; expected a PNG")
        if not head.startswith(_SIGNATURE):
            what = next(
                (text for magic, text in _OTHER_FORMATS.items() if head.startswith(magic)),
                f"not a PNG (it begins with {head[:8].hex(' ')})",
            )
            raise BadInput(f"{name}: is {what}; layouts are read from PNG files only")
        if len(head) < 33 or head[8:16] != b"\0\0\0\rIHDR":
            raise BadInput(f"{name}: damaged or truncated PNG (no whole header)")
        width, height, depth, color_type, packing, filtering, interlaced, crc = struct.unpack(
            ">IIBBBBBI", head[16:33]
        )
        if zlib.crc32(head[12:29]) != crc:
            raise BadInput(f"{name}: damaged PNG (checksum of IHDR); fetch or save it again")
        if not (width and height and depth in _DEPTHS.get(color_type, ())) or (
            packing or filtering or interlaced > 1
        ):
            raise BadInput(f"{name}: damaged PNG (no valid header); save it again")
        if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
            raise BadInput(
                f"{name}: {height}x{width} (height x width) is too large; the limit is "
                f"{MAX_SIDE} a side and {MAX_PIXELS} pixels; crop or resize it by nearest"
            )
        if depth == 16 and color_type != 0:
            raise BadInput(
                f"{name}: 16 bits per channel {_KINDS[color_type]}; expected 8 bits "
                "(16 bits are read only from grey files of ids); save it with 8 bits"
            )
        return cls(width, height, depth, color_type, interlaced, head[8:33])

    @property
    def kind(self) -> str:
        return f"{self.depth}-bit {_KINDS[self.color_type]}"

    @property
    def passes(self) -> list[tuple[int, int]]:
        """Number of scan lines and bytes of each, filter byte included, pass after pass."""
        bits = self.depth * _SAMPLES[self.color_type]
        found = []
        for x, y, dx, dy in _ADAM7 if self.interlaced else ((0, 0, 1, 1),):
            width, height = -(-(self.width - x) // dx), -(-(self.height - y) // dy)
            if width > 0 and height > 0:
                found.append((height, 1 + (width * bits + 7) // 8))
        return found

    @property
    def raw_bytes(self) -> int:
        """Size of all scan lines, decompressed."""
        return sum(lines * size for lines, size in self.passes)


def _chunks(data: bytes, name: str) -> list[tuple[bytes, bytes]]:
    """The chunks after the header up to IEND, checksums compared."""
    chunks: list[tuple[bytes, bytes]] = []
    at = 0
    while not chunks or chunks[-1][0] != b"IEND":
        if at + 12 > len(data):
            raise BadInput(f"{name}: truncated PNG; fetch or save it again")
        length = int.from_bytes(data[at : at + 4], "big")
        kind, end = data[at + 4 : at + 8], at + 8 + length
        if end + 4 > len(data):
            raise BadInput(f"{name}: truncated or damaged PNG; fetch or save it again")
        if zlib.crc32(data[at + 4 : end]) != int.from_bytes(data[end : end + 4], "big"):
            raise BadInput(f"{name}: damaged PNG (a checksum is wrong); fetch or save it again")
        if kind in (b"acTL", b"fcTL", b"fdAT"):
            raise BadInput(f"{name}: an animated PNG; expected one picture")
        if not kind[0] & 0x20 and kind not in (b"PLTE", b"IDAT", b"IEND"):
            raise BadInput(f"{name}: damaged PNG (unexpected chunk {kind!r})")
        chunks.append((kind, data[at + 8 : end]))
        if len(chunks) > MAX_CHUNKS:
            raise BadInput(f"{name}: more than {MAX_CHUNKS} chunks; save it again as plain PNG")
        at = end + 4
    if at != len(data):
        raise BadInput(f"{name}: {len(data) - at} bytes after the end of the PNG; save it again")
    data_at = [i for i, (kind, _) in enumerate(chunks) if kind == b"IDAT"]
    if not data_at or data_at[-1] - data_at[0] + 1 != len(data_at):
        raise BadInput(f"{name}: damaged PNG (its pixels are missing or scattered)")
    return chunks


def _check_pixels(packed: list[bytes], header: _Header, name: str) -> None:
    """Compare the scan lines in a zlib stream with what the header promises, block by block.

    So a file that lies about its size costs no memory; what promises more than its bytes can hold
    is not even decompressed. The decoder would notice most of this itself, unless a program has
    told Pillow to go on with truncated pictures.
    """
    try:
        sound = sum(map(len, packed)) * _DEFLATE_RATIO >= header.raw_bytes and _are_lines(
            packed, header
        )
    except zlib.error as error:
        raise BadInput(f"{name}: damaged PNG ({error}); fetch or save it again") from None
    if not sound:
        raise BadInput(
            f"{name}: damaged PNG (its data are not those of {header.height}x{header.width} "
            f"{header.kind} pixels); save it again"
        )


def _are_lines(packed: list[bytes], header: _Header) -> bool:
    stream = _Inflated(packed)
    for lines, size in header.passes:
        most = max(1, _BLOCK // size)
        for start in range(0, lines, most):
            block = stream.read(wanted := size * min(most, lines - start))
            if len(block) < wanted or max(block[::size]) > 4:  # the filter types
                return False
    return stream.ends()


class _Inflated:
    """A zlib stream that lies in pieces, decompressed as it is read."""

    def __init__(self, packed: list[bytes]) -> None:
        self._pieces = (
            piece[at : at + _BLOCK] for piece in packed for at in range(0, len(piece), _BLOCK)
        )
        self._stream = zlib.decompressobj()
        self._piece = b""

    def read(self, count: int) -> bytes:
        """The next `count` bytes; fewer at the end."""
        parts: list[bytes] = []
        while count and not self._stream.eof:
            part = self._stream.decompress(self._piece, count)
            self._piece = self._stream.unconsumed_tail
            if not part and not self._piece:
                self._piece = next(self._pieces, b"")
                if not self._piece:
                    break
            parts.append(part)
            count -= len(part)
        return b"".join(parts)

    def ends(self) -> bool:
        """Whether the stream is whole, and it and the pieces end here."""
        more = self.read(1)
        left = self._stream.unused_data or next(self._pieces, b"")
        return self._stream.eof and not more and not left


def _decode(header: _Header, chunks: list[tuple[bytes, bytes]], name: str) -> Pixels:
    from PIL import Image

    kinds = [kind for kind, _ in chunks]
    palette = [body for kind, body in chunks if kind == b"PLTE"]
    if header.color_type == 3:
        if len(palette) != 1 or kinds.index(b"PLTE") > kinds.index(b"IDAT"):
            raise BadInput(
                f"{name}: damaged PNG (it needs one palette, before its pixels); save it again"
            )
        if not 3 <= (size := len(palette[0])) <= 768 or size % 3:
            raise BadInput(f"{name}: damaged PNG (a palette of {size} bytes); save it again")
    plain = BytesIO(_SIGNATURE + header.chunk + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
        if kind in (b"IDAT", b"IEND") or (kind == b"PLTE" and header.color_type == 3)
    ))  # fmt: skip
    try:
        with Image.open(plain, formats=["PNG"]) as picture:
            picture.load()
            return _pixels(picture, header, palette, name)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        if isinstance(error, BadInput):
            raise
        raise BadInput(f"{name}: damaged PNG ({error}); fetch or save it again") from None


def _pixels(picture: Any, header: _Header, palette: list[bytes], name: str) -> Pixels:
    if header.color_type in (2, 6):
        raw = picture.tobytes("raw", "RGBX" if header.color_type == 2 else "RGBA")
        packed = np.frombuffer(raw, "<u4").reshape(header.height, header.width)
        if header.color_type == 6:
            _check_opaque(packed.view(np.uint8)[:, 3::4], name)
        return Pixels(header.kind, None, packed & 0xFFFFFF)
    if header.color_type == 4:
        both = np.asarray(picture)
        _check_opaque(both[..., 1], name)
        return Pixels(header.kind, both[..., 0], None)
    values = np.asarray(picture)
    if header.color_type == 0:
        if header.depth == 16:
            return Pixels(header.kind, values.astype(np.uint16), None)
        # Pillow stretches grey to 0..255, or to False and True; the id is the value in the file.
        stretch = 1 if header.depth == 1 else 255 // ((1 << header.depth) - 1)
        return Pixels(header.kind, values.astype(np.uint8) // np.uint8(stretch), None)
    entries = np.frombuffer(palette[0], np.uint8).reshape(-1, 3)
    table = entries.astype(np.uint32) @ np.array([1, 1 << 8, 1 << 16], np.uint32)
    if values.max() >= len(table):
        row, column = np.unravel_index(np.argmax(values >= len(table)), values.shape)
        raise BadInput(
            f"{name}: index {values[row, column]} at row {row}, column {column} is not in its "
            f"palette of {len(table)} colours; save it again"
        )
    return Pixels(header.kind, values, table[values])


def _check_opaque(alpha: np.ndarray, name: str) -> None:
    if (clear := alpha != 255).any():
        row, column = np.unravel_index(np.argmax(clear), clear.shape)
        raise BadInput(
            f"{name}: alpha {alpha[row, column]} at row {row}, column {column}; a layout must be "
            "opaque (255): give see-through pixels their class's colour, then save without alpha"
        )
