"""How long writing one rendered picture takes: PNG and JPEG encoders by time and bytes.

    python benchmarks/encoders.py [PICTURE.png]

Takes the packaged example through the packaged model if no picture is named. Every PNG is decoded
and compared before it is timed. Packages that are not installed are left out.
"""

from __future__ import annotations

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np
from PIL import Image

Encode = Callable[[np.ndarray], bytes]
ROUNDS = 9


def pillow(**options: Any) -> Encode:
    def encode(rgb: np.ndarray) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(rgb).save(stream, **options)
        return stream.getvalue()

    return encode


def plain(compress: Callable[[bytes], bytes]) -> Encode:
    """PNG by hand, every row filtered by 'up' or 'sub' in numpy, and one call of `compress`."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    def encode(rgb: np.ndarray) -> bytes:
        height, width = rgb.shape[:2]
        rows = np.empty((height, 1 + 3 * width), np.uint8)
        flat = rgb.reshape(height, -1)
        rows[:, 0] = 2
        rows[0, 1:] = flat[0]
        np.subtract(flat[1:], flat[:-1], out=rows[1:, 1:])
        header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
        data = compress(rows.data)
        return b"\x89PNG\r\n\x1a\n" + b"".join(
            (chunk(b"IHDR", header), chunk(b"IDAT", data), chunk(b"IEND", b""))
        )

    return encode


def zlib_strategy(strategy: int) -> Callable[[bytes], bytes]:
    def compress(data: bytes) -> bytes:
        stream = zlib.compressobj(1, zlib.DEFLATED, 15, 9, strategy)
        return stream.compress(data) + stream.flush()

    return compress


def encoders() -> Iterator[tuple[str, Encode]]:
    for level in (0, 1, 3, 6):
        yield f"PNG Pillow, level {level}", pillow(format="PNG", compress_level=level)
    for name, strategy in (("Huffman only", 2), ("RLE", 3)):
        options = {"compress_level": 1, "compress_type": strategy}
        yield f"PNG Pillow, level 1, {name}", pillow(format="PNG", **options)
    yield "PNG 'up' in numpy, zlib level 1", plain(lambda data: zlib.compress(data, 1))
    yield "PNG 'up' in numpy, zlib RLE", plain(zlib_strategy(zlib.Z_RLE))
    if isal := optional("isal.isal_zlib"):
        for level in (0, 1):
            yield (
                f"PNG 'up' in numpy, isal level {level}",
                plain(lambda data, level=level: isal.compress(data, level)),
            )
    if ng := optional("zlib_ng.zlib_ng"):
        yield "PNG 'up' in numpy, zlib-ng level 1", plain(lambda data: ng.compress(data, 1))
    if cv2 := optional("cv2"):
        for level in (1, 3):
            flags = [cv2.IMWRITE_PNG_COMPRESSION, level]
            yield (
                f"PNG OpenCV, level {level}",
                lambda rgb, flags=flags: cv2.imencode(".png", rgb[..., ::-1], flags)[1].tobytes(),
            )
    if codecs := optional("imagecodecs"):
        for level in (0, 1):
            yield (
                f"PNG imagecodecs, level {level}",
                lambda rgb, level=level: codecs.png_encode(rgb, level=level),
            )
            yield (
                f"PNG imagecodecs (spng), level {level}",
                lambda rgb, level=level: codecs.spng_encode(rgb, level=level),
            )
    for sampling in ("4:2:0", "4:4:4"):
        options = {"quality": 95, "subsampling": sampling}
        yield f"JPEG Pillow, {sampling}", pillow(format="JPEG", **options)
    if simple := optional("simplejpeg"):
        yield (
            "JPEG simplejpeg, 4:2:0",
            lambda rgb: simple.encode_jpeg(rgb, 95, colorsubsampling="420"),
        )
        yield (
            "JPEG simplejpeg, 4:2:0, fast DCT",
            lambda rgb: simple.encode_jpeg(rgb, 95, colorsubsampling="420", fastdct=True),
        )
    if cv2:
        yield (
            "JPEG OpenCV, 4:2:0",
            lambda rgb: cv2.imencode(".jpg", rgb[..., ::-1], [1, 95])[1].tobytes(),
        )
    yield "WebP Pillow", pillow(format="WEBP", quality=95)


def optional(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError:
        return None


def rendered() -> np.ndarray:
    from crn_fast import layout, models
    from crn_fast.engine import Engine

    engine = Engine.open(models.path_of(models.DEFAULT))
    return engine.render(layout.read(models.example_of(models.DEFAULT), engine.labels))[0, 0]


def main() -> None:
    rgb = np.asarray(Image.open(sys.argv[1]).convert("RGB")) if sys.argv[1:] else rendered()
    chosen = dict(encoders())
    made = {name: encode(rgb) for name, encode in chosen.items()}
    for name, data in made.items():
        if name.startswith("PNG"):
            np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(data))), rgb, name)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for _ in range(ROUNDS):
        for name, encode in chosen.items():
            since = perf_counter()
            encode(rgb)
            seconds[name].append(perf_counter() - since)
    print(f"{rgb.shape[0]}x{rgb.shape[1]}, one thread, median of {ROUNDS} rounds, interleaved")
    for name, data in made.items():
        print(f"| {name} | {1e3 * median(seconds[name]):.1f} | {len(data) / 1e6:.2f} |")


if __name__ == "__main__":
    main()
