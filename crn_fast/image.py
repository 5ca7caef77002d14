"""Pictures: uint8 RGB arrays <-> PNG, JPEG and WebP files. Not layouts, which hold ids."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import numpy as np

from crn_fast import png_writer
from crn_fast.errors import BadInput, UsageError
from crn_fast.files import ending_in, require_file, write_bytes

FORMATS = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG", "webp": "WEBP"}
"""File ending -> Pillow's name."""
MAX_PIXELS = 1 << 27
"""A larger picture is refused from its header."""


def read(path: str | Path) -> np.ndarray:
    """Read a photo (PNG, JPEG or WebP) as uint8 RGB [H, W, 3].

    Raises:
        BadInput: missing, not such a picture, damaged, or over MAX_PIXELS.
        ResourceError: it may not be read.
    """
    from PIL import Image, UnidentifiedImageError

    require_file(path, "a photo")
    try:
        # Formats are named because Pillow would hand some others to programs such as Ghostscript.
        with Image.open(path, formats=sorted(set(FORMATS.values()))) as picture:
            if picture.width * picture.height > MAX_PIXELS:
                raise BadInput(f"{path}: {picture.height}x{picture.width} is too large for a photo")
            return np.asarray(picture.convert("RGB"))
    except BadInput:
        raise
    except UnidentifiedImageError:
        raise BadInput(f"{path}: not a PNG, JPEG or WebP picture") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise BadInput(f"{path}: not a readable picture ({error})") from None


def resize(rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize uint8 RGB [H, W, 3] to `size` (height, width) with an antialiasing filter."""
    from PIL import Image

    picture = Image.fromarray(rgb).resize(size[::-1], Image.Resampling.LANCZOS)
    return np.asarray(picture)


def format_of(path: str | Path, wanted: str | None = None) -> str:
    """The picture format ('png', 'jpg', 'webp') of a file to be written.

    Raises:
        UsageError: neither `wanted` nor the ending names a known format, or they disagree.
    """
    ending = Path(path).suffix.removeprefix(".").lower()
    name = wanted or ending
    if name not in FORMATS:
        inside = Path(path).is_dir()
        meant = (str(Path(path, "picture.png")),) if inside else ending_in(path, ".png")
        raise UsageError(
            f"{path}: {'is a folder' if inside else 'is no name of a picture'}; expected one that "
            f"ends in {', '.join(f'.{name}' for name in FORMATS)}"
        ).instead_of(str(path), *meant)
    if ending in FORMATS and FORMATS[ending] != FORMATS[name]:
        raise UsageError(f"{path}: ends in .{ending}, but the format asked for is {name}")
    return name


def encode(rgb: np.ndarray, format: str = "png", quality: int = 95) -> bytes:
    """The bytes of a picture file of uint8 RGB [H, W, 3].

    Args:
        rgb: the picture.
        format: 'png', 'jpg', 'jpeg' or 'webp'.
        quality: 1..100, for JPEG and WebP.
    """
    if format == "png":
        return png_writer.encode(rgb)
    from PIL import Image

    stream = BytesIO()
    Image.fromarray(rgb).save(stream, FORMATS[format], quality=quality)
    return stream.getvalue()


def write(
    destination: str | Path | BinaryIO, rgb: np.ndarray, format: str = "png", quality: int = 95
) -> None:
    """Write uint8 RGB [H, W, 3], as `encode` makes it; a file appears whole or not at all.

    Args:
        destination: path, or an open binary stream.
        rgb: the picture.
        format: as for `encode`.
        quality: as for `encode`.

    Raises:
        ResourceError: the folder cannot be written, or the disk is full.
    """
    data = encode(rgb, format, quality)
    if isinstance(destination, str | Path):
        write_bytes(destination, data)
    else:
        destination.write(data)
