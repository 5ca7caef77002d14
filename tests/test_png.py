"""PNG files: every kind exactly, and every damage noticed before a label is wrong."""

from __future__ import annotations

import io
import os
import struct
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from crn_fast import png
from crn_fast.errors import BadInput, ResourceError

SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def header(width: int, height: int, depth: int = 8, color: int = 0, interlace: int = 0) -> bytes:
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlace))


def build(*chunks: bytes) -> bytes:
    return SIGNATURE + b"".join(chunks) + chunk(b"IEND")


def simple(width: int, height: int, depth: int, color: int, rows: bytes, *before: bytes) -> bytes:
    return build(header(width, height, depth, color), *before, chunk(b"IDAT", zlib.compress(rows)))


def saved(array: np.ndarray, mode: str | None = None, **options: object) -> bytes:
    picture = Image.fromarray(array)
    if mode:
        picture = picture.convert(mode)
    stream = io.BytesIO()
    picture.save(stream, "PNG", **options)
    return stream.getvalue()


def decode(data: bytes) -> png.Pixels:
    return png.read(io.BytesIO(data), "test.png")


def values(data: bytes) -> np.ndarray:
    found = decode(data).values
    assert found is not None
    return found


def refused(data: bytes, part: str) -> str:
    with pytest.raises(BadInput, match=part) as caught:
        decode(data)
    message = str(caught.value)
    assert message.startswith("test.png: ")
    assert "\n" not in message
    return message


GREY = np.random.default_rng(3).integers(0, 256, (7, 13), dtype=np.uint8)
RGB = np.random.default_rng(4).integers(0, 256, (5, 9, 3), dtype=np.uint8)
LAYOUT = np.random.default_rng(5).integers(0, 12, (6, 8), dtype=np.uint8).repeat(4, 0).repeat(4, 1)


def test_grey() -> None:
    found = decode(saved(GREY))
    assert found.kind == "8-bit grey"
    assert found.colors is None
    np.testing.assert_array_equal(found.values, GREY)


@pytest.mark.parametrize(("depth", "row", "expected"), [
    (1, b"\x50", [0, 1, 0, 1]), (2, b"\x1b", [0, 1, 2, 3]), (4, b"\x12\xf0", [1, 2, 15, 0]),
])  # fmt: skip
def test_grey_below_8_bits_is_not_stretched(depth: int, row: bytes, expected: list[int]) -> None:
    assert values(simple(4, 1, depth, 0, b"\0" + row)).tolist() == [expected]
    palette = chunk(b"PLTE", bytes(range(3 << depth)))
    found = decode(simple(4, 1, depth, 3, b"\0" + row, palette))
    assert found.values is not None
    assert found.colors is not None
    assert found.values.tolist() == [expected]
    colors = [3 * i | (3 * i + 1) << 8 | (3 * i + 2) << 16 for i in expected]
    assert found.colors.tolist() == [colors]


def test_grey_16_bits() -> None:
    wide = (GREY.astype(np.uint16) * 257) ^ 3
    found = values(saved(wide))
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, wide)


def test_grey_with_alpha() -> None:
    both = np.dstack([GREY, np.full_like(GREY, 255)])
    np.testing.assert_array_equal(values(saved(both)), GREY)
    both[2, 3, 1] = 254
    refused(saved(both), "alpha 254 at row 2, column 3")


@pytest.mark.parametrize("alpha", [False, True])
def test_rgb_is_packed_red_first(alpha: bool) -> None:
    array = np.dstack([RGB, np.full((5, 9), 255, np.uint8)]) if alpha else RGB
    found = decode(saved(array))
    assert found.values is None
    expected = RGB.astype(np.uint32) @ np.array([1, 256, 65536], np.uint32)
    np.testing.assert_array_equal(found.colors, expected)
    if alpha:
        array[4, 0, 3] = 0
        refused(saved(array), "alpha 0 at row 4, column 0; a layout must be opaque")


@pytest.mark.parametrize("size", [(1, 1), (3, 2), (8, 8), (9, 17)])
def test_interlaced(size: tuple[int, int]) -> None:
    height, width = size
    array = np.random.default_rng(6).integers(0, 256, size, dtype=np.uint8)
    passes = [
        (0, 0, 8, 8),
        (4, 0, 8, 8),
        (0, 4, 4, 8),
        (2, 0, 4, 4),
        (0, 2, 2, 4),
        (1, 0, 2, 2),
        (0, 1, 1, 2),
    ]
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, dx, dy in passes for row in array[y::dy, x::dx] if row.size
    )
    data = build(header(width, height, interlace=1), chunk(b"IDAT", zlib.compress(rows)))
    np.testing.assert_array_equal(values(data), array)


def test_an_index_outside_the_palette() -> None:
    palette = chunk(b"PLTE", bytes(9))
    refused(simple(2, 1, 8, 3, b"\0\2\3", palette), "index 3 at row 0, column 1 .* 3 colours")


def test_what_is_not_pixels_is_left_alone() -> None:
    notes = PngImagePlugin.PngInfo()
    notes.add_text("who", "me")
    notes.add_text("much", "x" * 100_000, zip=True)
    data = saved(GREY, pnginfo=notes, dpi=(72, 72))
    np.testing.assert_array_equal(values(data), GREY)


def test_every_truncation_is_refused() -> None:
    data = saved(LAYOUT)
    for length in range(len(data)):
        refused(data[:length], "empty|not a PNG|truncated|no whole header")


def test_the_decoder_cannot_be_told_to_fill_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import ImageFile

    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    refused(simple(4, 4, 8, 0, bytes(19)), "its data are not those of 4x4 8-bit grey")
    refused(simple(4, 4, 8, 0, bytes(21)), "its data are not those of 4x4")
    refused(simple(2, 2, 8, 0, b"\0\0\0\x05\0\0"), "its data are not those of 2x2")


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is empty"),
        (b"\xff\xd8\xff\xe0 JFIF", "JPEG; lossy compression destroys labels"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
        (b"BM" + bytes(60), "a BMP"),
        (b"II*\0" + bytes(60), "a TIFF"),
        (b"GIF89a" + bytes(60), "a GIF"),
        (b"\x93NUMPY" + bytes(60), "a NumPy array"),
        (b"hello, world", "not a PNG .*68 65 6c"),
        (SIGNATURE, "no whole header"),
        (SIGNATURE + chunk(b"IDAT", bytes(13)), "no whole header"),
        (saved(GREY) + b"\0", "1 bytes after the end"),
        (build(header(1, 1)), "pixels are missing"),
        (build(header(0, 1)), "no valid header"),
        (build(header(1, 1, 3)), "no valid header"),
        (build(header(1, 1, 8, 1)), "no valid header"),
        (build(header(1, 1, 8, 0, 2)), "no valid header"),
        (simple(1, 1, 16, 2, bytes(7)), "16 bits per channel RGB"),
        (simple(1, 1, 16, 6, bytes(9)), "16 bits per channel RGBA"),
        (simple(1, 1, 8, 3, bytes(2)), "needs one palette"),
        (simple(1, 1, 8, 3, bytes(2), chunk(b"PLTE", bytes(4))), "a palette of 4 bytes"),
        (
            build(
                header(1, 1, 8, 3),
                chunk(b"IDAT", zlib.compress(bytes(2))),
                chunk(b"PLTE", bytes(3)),
            ),
            "one palette, before its pixels",
        ),
        (simple(1, 1, 8, 0, bytes(2), chunk(b"acTL", bytes(8))), "animated"),
        (simple(1, 1, 8, 0, bytes(2), chunk(b"ABCD")), "unexpected chunk b'ABCD'"),
        (simple(1, 1, 8, 0, bytes(2), header(1, 1)), "unexpected chunk b'IHDR'"),
        (build(header(1, 1), chunk(b"IDAT", b"no zlib")), "damaged PNG"),
        (
            build(header(1, 1), chunk(b"IDAT", zlib.compress(bytes(2)) + b"more")),
            "its data are not those",
        ),
        (
            simple(1, 1, 8, 0, bytes(2), chunk(b"IDAT"), chunk(b"tEXt")),
            "scattered",
        ),
    ],
)  # fmt: skip
def test_refused_by_name(data: bytes, part: str) -> None:
    refused(data, part)


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (build(header(5792, 5792, 8, 6), chunk(b"IDAT", bytes(20_000))), "its data are not those"),
        (simple(4096, 4096, 8, 6, bytes(1 << 26)), "its data are not those"),
        (build(header(16385, 1), chunk(b"IDAT", b"")), "1x16385 .*too large.* 16384"),
        (build(header(8192, 8192), chunk(b"IDAT", b"")), "8192x8192 .*too large"),
        (build(header(2**31 - 1, 2**31 - 1), chunk(b"IDAT", b"")), "too large"),
        (simple(8, 8, 8, 0, bytes(1 << 26)), "its data are not those of 8x8"),
        (simple(1, 1, 8, 0, bytes(2), chunk(b"tEXt", bytes(2 << 20))), "more than .* bytes"),
        (simple(1, 1, 8, 0, bytes(2), *[chunk(b"tEXt")] * 80_000), "chunks"),
    ],
)  # fmt: skip
def test_bombs_cost_nothing(data: bytes, part: str) -> None:
    decode(saved(GREY))
    stream = io.BytesIO(data)
    tracemalloc.start()
    try:
        with pytest.raises(BadInput, match=part):
            png.read(stream, "bomb.png")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 16 << 20


def test_a_compressed_text_is_never_decompressed() -> None:
    bomb = zlib.compress(bytes(1 << 27), 9)
    data = simple(1, 1, 8, 0, b"\0\7", chunk(b"zTXt", b"a\0\0" + bomb))
    tracemalloc.start()
    try:
        assert values(data).tolist() == [[7]]
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


def test_streams_that_give_little_at_a_time() -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(min(5, size or 0))

    np.testing.assert_array_equal(png.read(Slow(saved(GREY)), "slow").values, GREY)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(BadInput, match="no regular file"):
        png.read(tmp_path / "pipe.png", "pipe.png")


def test_paths_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path, part in (
        (tmp_path / "no.png", "no such file"),
        (tmp_path, "is a folder"),
        (tmp_path / ("x" * 300), "no such file"),
        (Path("a\0b"), "no such file"),
    ):
        with pytest.raises(BadInput, match=part):
            png.read(path, str(path))

    path = tmp_path / "secret.png"
    path.write_bytes(saved(GREY))

    def deny(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", deny)
    with pytest.raises(ResourceError, match="no permission"):
        png.read(path, str(path))
