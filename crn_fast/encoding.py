"""What the values of a picture mean in a label set: the encodings of layouts.

A file can spell classes in three ways: `ids` (a grey value or palette index is the data set's id),
`train-ids` (Cityscapes' second numbering), `color`. A *reading* is the picture's channels under one
of them. This module makes the readings, chooses between them and explains what cannot be read.

The rules of 'auto', in order:

- where every index of a palette has a known colour, an index reading that agrees with the colours
  is right (a plain grey ramp is no such palette);
- a name ending in `_labelIds` or `_labelTrainIds` decides, as Cityscapes meant it;
- an encoding in which every pixel is known beats those with unknown values;
- two readings that are left and differ in any pixel are refused, never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from crn_fast.errors import BadInput
from crn_fast.palette import BUILTIN, LabelSet, label_set
from crn_fast.png import Pixels

UNKNOWN = 255
"""Marks a pixel without a channel; channels end at 254."""

_PHOTO_COLORS = 256
"""More distinct unknown colours than this are no slip of the brush."""
_PHOTO_GREYS = 60
"""The same for grey levels."""
_GREY = np.uint32(0x010101)
"""Times a grey level: its packed colour."""


def readings_of(pixels: Pixels, labels: LabelSet) -> dict[str, np.ndarray]:
    """Encoding -> channels uint8 [H, W] (`UNKNOWN` where there is none), for each that applies."""
    found: dict[str, np.ndarray] = {}
    if pixels.values is not None:
        found["ids"] = _id_table(labels.ids)[pixels.values]
        if labels.train_ids is not None:
            found["train-ids"] = _id_table(labels.train_ids)[pixels.values]
    if pixels.colors is not None:
        found["color"] = _color_table(labels)[pixels.colors]
    return found


@lru_cache(maxsize=2)
def _color_table(labels: LabelSet) -> np.ndarray:
    """Packed colour -> channel. Kept, as to make its 16 MB takes longer than to read a layout."""
    table = np.full(1 << 24, UNKNOWN, np.uint8)
    for (red, green, blue), channel in labels.color_channels.items():
        table[red | green << 8 | blue << 16] = channel
    return table


def with_grey(pixels: Pixels) -> Pixels:
    """An RGB picture whose three channels are equal, as the grey one that it was; else as it is."""
    if pixels.values is not None or pixels.colors is None:
        return pixels
    grey = pixels.colors & 0xFF
    if not np.array_equal(pixels.colors, grey * _GREY):
        return pixels
    return replace(pixels, values=grey.astype(np.uint8))


def _id_table(ids: Mapping[int, int]) -> np.ndarray:
    table = np.full(1 << 16, UNKNOWN, np.uint8)
    for value, channel in ids.items():
        if value >= 0:
            table[value] = channel
    return table


def decide(
    readings: dict[str, np.ndarray], pixels: Pixels, labels: LabelSet, name: str, unknown: str
) -> str:
    """The encoding that 'auto' stands for; see the module's docstring."""
    if "ids" not in readings:
        return "color"
    sound = [encoding for encoding, found in readings.items() if not (found == UNKNOWN).any()]
    if "color" in sound and _is_grey_ramp(pixels):
        sound.remove("color")
    if "color" in sound:
        for encoding in sound[:-1]:
            if np.array_equal(readings[encoding], readings["color"]):
                return encoding
    if "train-ids" in readings:
        for ending, encoding in (("_labelIds", "ids"), ("_labelTrainIds", "train-ids")):
            if Path(name).stem.endswith(ending):
                return encoding
        if not sound and unknown != "error":
            raise BadInput(
                f"{name}: has values that are neither ids nor train ids of {labels.name}, so "
                "auto cannot tell which it holds; use `--encoding ids` or `--encoding train-ids`"
            )
    if not sound:
        return "ids"
    chosen = sound[0]
    for other in sound[1:]:
        if (differ := readings[chosen] != readings[other]).any():
            assert pixels.values is not None
            classes = (labels.names[readings[e][differ][0]] for e in (chosen, other))
            raise BadInput(
                f"{name}: value {at_first(pixels.values, differ)} is {next(classes)!r} by {chosen} "
                f"but {next(classes)!r} by {other}, and every pixel is known in both; "
                f"say which with `--encoding {chosen}` or `--encoding {other}`"
            )
    return chosen


def _is_grey_ramp(pixels: Pixels) -> bool:
    """Whether the palette only repeats the index, as when grey was saved as palette."""
    if pixels.values is None or pixels.colors is None:
        return False
    return np.array_equal(pixels.values * _GREY, pixels.colors)


def nearest_channels(colors: np.ndarray, labels: LabelSet) -> np.ndarray:
    """Packed colours uint32 [n] -> channels uint8 [n], by squared RGB distance."""
    known = np.array(list(labels.color_channels), np.int32)
    channels = np.array(list(labels.color_channels.values()), np.uint8)
    distinct, back = np.unique(colors, return_inverse=True)
    found = np.empty(len(distinct), np.uint8)
    for start in range(0, len(distinct), 1 << 14):
        block = distinct[start : start + (1 << 14), None]
        rgb = np.concatenate([block & 0xFF, block >> 8 & 0xFF, block >> 16], 1).astype(np.int32)
        # |a - b|^2 without |a|^2, which is the same for every b.
        distance = (known**2).sum(1) - 2 * (rgb @ known.T)
        found[start : start + len(block)] = channels[distance.argmin(1)]
    return found[back]


def explain_color(pixels: Pixels, strange: np.ndarray, labels: LabelSet, name: str) -> str:
    """The message for a picture that has colours (where `strange`) that are no class's."""
    assert pixels.colors is not None
    colors = pixels.colors[strange]
    rgb = [int(colors[0]) >> shift & 0xFF for shift in (0, 8, 16)]
    closest = labels.names[nearest_channels(colors[:1], labels)[0]]
    row, column = first(strange)
    others = len(np.unique(colors)) - 1
    message = (
        f"{name}: colour {rgb} at row {row}, column {column} is no colour of {labels.name} "
        f"(nearest is {closest!r}{f'; {others} more are unknown' if others else ''})"
    )
    if others >= _PHOTO_COLORS:
        return message + (
            "; this looks like a photograph, or a layout that went through JPEG or smooth resizing;"
            " give the layout itself, or add `--unknown nearest` if it is one"
        )
    hints = _other_sets(pixels, labels)
    if pixels.values is None and with_grey(pixels).values is not None:
        hints.append("it is grey: `--encoding ids` reads the grey level as the id")
    hints.append("`--unknown nearest` takes the class of the nearest colour")
    return f"{message}; {'; '.join(hints)}"


def explain_id(
    readings: dict[str, np.ndarray], chosen: str, pixels: Pixels, labels: LabelSet, name: str
) -> str:
    """The message for a picture that has values unknown in the encoding `chosen`."""
    assert pixels.values is not None
    values, strange = pixels.values, readings[chosen] == UNKNOWN
    ids = labels.ids if chosen == "ids" else labels.train_ids or {}
    message = (
        f"{name}: value {at_first(values, strange)} is none of the {chosen} of {labels.name} "
        f"({_ranges(ids)})"
    )
    instances = int(values.max()) // 1000 in set(ids) - {0}
    if not instances and len(np.unique(values[strange])) > _PHOTO_GREYS:
        return message + "; this looks like a photograph or a depth map; give the layout itself"
    hints = [
        f"`--encoding {other}` fits every pixel"
        for other, found in readings.items()
        if other != chosen and not (found == UNKNOWN).any()
    ]
    if instances or name.endswith("_instanceIds.png"):
        hints.append("it looks like instance ids: give the file of label ids")
    hints += _other_sets(pixels, labels)
    if labels.void is not None:
        # Where other values could be train ids, 'auto' would not know which are unknown.
        which = f"--encoding {chosen} " * ("train-ids" in readings)
        void = labels.names[labels.void]
        hints.append(f"`{which}--unknown void` reads unknown values as {void!r}")
    return f"{message}; {'; '.join(hints or ['correct the file, or name its label set'])}"


def _other_sets(pixels: Pixels, labels: LabelSet) -> list[str]:
    """A hint for the first built-in set in which every pixel is known."""
    values, colors = (
        None if part is None else set(np.unique(part).tolist())
        for part in (pixels.values, pixels.colors)
    )

    def fits(other: LabelSet) -> bool:
        ids = [other.ids.keys(), (other.train_ids or {}).keys()]
        if values is not None and any(values <= known for known in ids):
            return True
        return colors is not None and colors <= {
            red | green << 8 | blue << 16 for red, green, blue in other.color_channels
        }

    return [
        f"every pixel fits {other}: try `--labels {other}`"
        for other in BUILTIN
        if other != labels.name and fits(label_set(other))
    ][:1]


def first(mask: np.ndarray) -> tuple[int, int]:
    """Row and column of the first pixel of a mask."""
    row, column = np.unravel_index(np.argmax(mask), mask.shape)
    return int(row), int(column)


def at_first(values: np.ndarray, mask: np.ndarray) -> str:
    """'77 at row 3, column 5': the first of `values` that is in `mask`."""
    row, column = first(mask)
    return f"{values[row, column]} at row {row}, column {column}"


def _ranges(values: Mapping[int, int]) -> str:
    """Sorted integers as '0..18, 255', cut after eight pieces."""
    pieces: list[list[int]] = []
    for value in sorted(values):
        if pieces and value == pieces[-1][1] + 1:
            pieces[-1][1] = value
        else:
            pieces.append([value, value])
    shown = [f"{low}..{high}" if low < high else str(low) for low, high in pieces[:8]]
    return ", ".join(shown) + (", ..." if len(pieces) > 8 else "")
