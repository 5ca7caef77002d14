"""Layouts: a PNG file or an array of labels -> a checked map of network channels.

How a file may spell its classes is told in `encoding`. There is no one-hot here (the
kernels make it), and nothing is ever resized except by nearest.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal

import numpy as np

from crn_fast import png
from crn_fast.encoding import (
    UNKNOWN,
    at_first,
    decide,
    explain_color,
    explain_id,
    first,
    nearest_channels,
    readings_of,
    with_grey,
)
from crn_fast.errors import BadInput, Mismatch, UsageError
from crn_fast.files import ending_in, write_whole
from crn_fast.palette import LabelSet

Encoding = Literal["auto", "ids", "train-ids", "color"]
Unknown = Literal["error", "void", "nearest"]
Fit = Literal["error", "pad", "crop", "nearest"]


@dataclass(frozen=True, eq=False)
class LabelMap:
    """A layout whose every pixel is a channel of its label set.

    Raises:
        BadInput: not [H, W] of integers in 0..classes-1; value and first pixel are named.
    """

    array: np.ndarray
    """uint8 [H, W], C-contiguous, cannot be written to; any integer array is taken."""
    labels: LabelSet
    source: str = "array"
    """Where it came from, for messages."""
    encoding: str = "channels"
    """How it was read, for people: 'ids', 'color; 12 unknown pixels read as none'."""

    def __post_init__(self) -> None:
        # A copy, that nobody can change between the check and the rendering.
        array = np.array(self.array)
        if isinstance(self.array, np.ma.MaskedArray):
            raise BadInput(
                f"{self.source}: is a masked array; fill it with the void class or another: "
                "array.filled(value)"
            )
        if array.ndim != 2 or not array.size or array.dtype.kind not in "biu":
            raise BadInput(
                f"{self.source}: {array.dtype} array of shape {array.shape}; expected integers "
                "[height, width], each the channel of a class"
            )
        outside = (array < 0) | (array >= self.labels.classes)
        if outside.any():
            raise BadInput(
                f"{self.source}: value {at_first(array, outside)} is no channel of "
                f"{self.labels.name}; expected 0..{self.labels.classes - 1}"
            )
        # bytes underneath: nobody can make this array writable again.
        frozen = np.frombuffer(array.astype(np.uint8).tobytes(), np.uint8).reshape(array.shape)
        object.__setattr__(self, "array", frozen)

    def __reduce__(self) -> tuple[Any, ...]:
        return LabelMap, (self.array, self.labels, self.source, self.encoding)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.array.shape[0], self.array.shape[1]


def from_array(array: Any, labels: LabelSet, *, source: str = "array") -> LabelMap:
    """Channels [H, W] of any integer type -> label map. A channel is not always the file's id.

    Raises:
        BadInput: as `LabelMap`.
    """
    return LabelMap(array, labels, source)


def read(
    source: str | Path | BinaryIO,
    labels: LabelSet,
    *,
    encoding: Encoding = "auto",
    unknown: Unknown = "error",
) -> LabelMap:
    """Read a PNG layout: grey, palette, RGB or opaque RGBA with 8 bits, or grey with 16.

    Args:
        source: path, or a binary stream.
        labels: the label set that the file is in.
        encoding: how classes are spelled; 'auto' decides as `crn_fast.encoding` says.
        unknown: what a value that is no class becomes: an error, the void class, or (colours only)
            the class with the nearest colour by squared RGB distance, the first if two are equal.

    Raises:
        BadInput: the file is missing, damaged, no PNG, has unknown values or two meanings.
        UsageError: the label set has no such encoding or no void class.
        ResourceError: it may not be read.
    """
    name = str(source) if isinstance(source, str | Path) else _stream_name(source)
    check_reading(labels, encoding, unknown)
    return interpret(png.read(source, name), labels, name, encoding=encoding, unknown=unknown)


def check_reading(labels: LabelSet, encoding: Encoding, unknown: Unknown) -> None:
    """Check that a label set can be read so.

    Raises:
        UsageError: it has no train ids, or no void class.
    """
    if encoding == "train-ids" and labels.train_ids is None:
        raise UsageError(f"--encoding train-ids: label set {labels.name} has no train ids")
    if unknown == "void" and labels.void is None:
        raise UsageError(f"--unknown void: label set {labels.name} has no void class")


def interpret(
    pixels: png.Pixels,
    labels: LabelSet,
    name: str,
    *,
    encoding: Encoding = "auto",
    unknown: Unknown = "error",
) -> LabelMap:
    """A picture's values as a layout; as `read`, which `name` stands for in messages.

    Raises:
        BadInput: unknown values, or two meanings.
    """
    if encoding in ("ids", "train-ids"):
        pixels = with_grey(pixels)
    readings = readings_of(pixels, labels)
    chosen = decide(readings, pixels, labels, name, unknown) if encoding == "auto" else encoding
    if chosen not in readings:
        raise BadInput(
            f"{name}: a {pixels.kind} PNG cannot be read with --encoding {encoding}; "
            f"use {' or '.join(f'`--encoding {reading}`' for reading in readings)}"
        )
    channels, how = readings[chosen], str(chosen)
    strange = channels == UNKNOWN
    if count := int(np.count_nonzero(strange)):
        if unknown == "void" and labels.void is not None:
            channels[strange] = labels.void
            how += f"; {count} unknown pixels read as {labels.names[labels.void]}"
        elif chosen != "color":
            raise BadInput(explain_id(readings, chosen, pixels, labels, name))
        elif unknown == "nearest" and pixels.colors is not None:
            channels[strange] = nearest_channels(pixels.colors[strange], labels)
            how += f"; {count} unknown pixels read as the nearest colour"
        else:
            raise BadInput(explain_color(pixels, strange, labels, name))
    return LabelMap(channels, labels, name, how)


def fit(layout: LabelMap, size: tuple[int, int], how: Fit = "error") -> LabelMap:
    """Bring a layout to `size` (height, width).

    'pad' centres it on void, 'crop' keeps its middle, 'nearest' takes for each pixel the one under
    its centre; 'error' only compares.

    Raises:
        Mismatch: the size differs and `how` does not mend that.
        UsageError: `size` is no size.
    """
    if len(size) != 2 or min(size) < 1 or max(size) > png.MAX_SIDE:
        raise UsageError(f"size {size!r}: expected height and width, each in 1..{png.MAX_SIDE}")
    if layout.size == tuple(size):
        return layout
    array, (height, width) = layout.array, layout.size
    sizes = f"{layout.source}: layout is {_by(layout.size)} (height x width), needed is {_by(size)}"
    larger = height >= size[0] and width >= size[1]
    smaller = height <= size[0] and width <= size[1] and layout.labels.void is not None
    ways = " or ".join(
        ["`--fit nearest` (resize)", *["`--fit crop`"] * larger, *["`--fit pad`"] * smaller]
    )
    if how == "nearest":
        rows, columns = (
            (2 * np.arange(new) + 1) * old // (2 * new)
            for new, old in zip(size, layout.size, strict=True)
        )
        fitted = array[rows[:, None], columns]
    elif how == "crop":
        if not larger:
            raise Mismatch(f"{sizes}: too small to crop; use {ways}")
        top, left = (height - size[0]) // 2, (width - size[1]) // 2
        fitted = array[top : top + size[0], left : left + size[1]]
    elif how == "pad":
        if height > size[0] or width > size[1]:
            raise Mismatch(f"{sizes}: too large to pad; use {ways}")
        if layout.labels.void is None:
            raise Mismatch(
                f"{sizes}: {layout.labels.name} has no void class to pad with; use {ways}"
            )
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        fitted = np.full(size, layout.labels.void, np.uint8)
        fitted[top : top + height, left : left + width] = array
    else:
        raise Mismatch(f"{sizes}; use {ways}")
    return LabelMap(fitted, layout.labels, layout.source, layout.encoding)


def convert(
    layout: LabelMap,
    labels: LabelSet,
    table: Mapping[str, str] | None = None,
    *,
    unknown: Literal["error", "void"] = "error",
) -> LabelMap:
    """The same layout in another label set, class by class.

    A class goes where `table` sends it (class name here -> there), else where its set's own map
    for `labels` does, else to the class of the same name; void goes to void.

    Raises:
        Mismatch: a class that occurs has no counterpart and `unknown` is 'error' (or there is no
            void); class and first pixel are named.
        BadInput: `table` names a class that does not exist.
    """
    before = layout.labels
    for here, there in (table or {}).items():
        for name, known in ((here, before), (there, labels)):
            if name not in known.names:
                raise BadInput(f"table: {name!r} is no class of {known.name}")
    renamed = {**before.maps.get(labels.name, {}), **(table or {})}
    channels = np.full(before.classes, UNKNOWN, np.uint8)
    for channel, name in enumerate(before.names):
        if renamed.get(name, name) in labels.names:
            channels[channel] = labels.names.index(renamed.get(name, name))
        elif labels.void is not None and (unknown == "void" or channel == before.void):
            channels[channel] = labels.void
    converted = channels[layout.array]
    if (lost := converted == UNKNOWN).any():
        row, column = first(lost)
        raise Mismatch(
            f"{layout.source}: class {before.names[layout.array[row, column]]!r} of {before.name} "
            f"at row {row}, column {column} has no counterpart in {labels.name}; map it with "
            "`crn-fast labels map --help` (--table), or use a model of its label set"
        )
    return LabelMap(converted, labels, layout.source, layout.encoding)


def write(layout: LabelMap, path: str | Path) -> None:
    """Write a palette PNG: the index is the channel, the palette the set's colours.

    For the built-in sets `read` takes it back as it is (for Cityscapes the channel is the train id,
    and the palette says so). The file appears whole or not at all.

    Raises:
        UsageError: `path` does not end in .png.
        ResourceError: the folder cannot be written, or the disk is full.
    """
    from PIL import Image

    if Path(path).suffix.lower() != ".png":
        error = UsageError(f"{path}: layouts are written as PNG; give a name that ends in .png")
        raise error.instead_of(str(path), *ending_in(path, ".png"))
    height, width = layout.size
    picture = Image.frombytes("P", (width, height), layout.array.tobytes())
    picture.putpalette([part for color in layout.labels.colors for part in color])

    def save(stream: IO[bytes]) -> None:
        picture.save(stream, "PNG")

    write_whole(path, save)


def colorize(layout: LabelMap) -> np.ndarray:
    """The layout painted in its set's colours: uint8 [H, W, 3]."""
    painted: np.ndarray = np.array(layout.labels.colors, np.uint8)[layout.array]
    return painted


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _stream_name(stream: BinaryIO) -> str:
    name = getattr(stream, "name", None)
    return name if isinstance(name, str) else "stream"
