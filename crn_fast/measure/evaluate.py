"""Judges an engine by pairs of photo and layout: renders each layout and asks every measure.

The photo is never enlarged: what the network makes is reduced to the photo's pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from crn_fast import image
from crn_fast.engine import Engine
from crn_fast.layout import LabelMap
from crn_fast.measure.views import Measure, Views


class Pair(NamedTuple):
    layout: LabelMap
    """At the network's size."""
    photo: np.ndarray
    """uint8 RGB [h, w, 3], the same window as the layout, at most the network's size."""
    labels: np.ndarray
    """uint8 [h, w]: the layout at the photo's pixels."""
    name: str


def evaluate(
    engine: Engine, pairs: Iterable[Pair], colors: np.ndarray, measures: Sequence[Measure]
) -> Iterator[dict[str, Any]]:
    """Show every pair to every measure, one pair at a time.

    Args:
        engine: what is judged.
        pairs: each is read when it is needed.
        colors: uint8 RGB [classes, 3], of the trivial baseline.
        measures: they hold the result.

    Yields:
        Each pair's name, size of comparison and own values.

    Raises:
        BadInput, Mismatch: a pair does not fit the network or a measure.
        ResourceError: out of memory.
    """
    for pair in pairs:
        size = pair.photo.shape[:2]
        pictures = engine.render(pair.layout)[0]
        views = Views(
            photo=pair.photo,
            pictures=np.stack([_reduce(picture, size) for picture in pictures]),
            # Painted at the network's size, so that both go the same way to the photo's.
            baseline=_reduce(colors[pair.layout.array], size),
            labels=pair.labels,
        )
        found: dict[str, Any] = {"name": pair.name, "size": list(size)}
        for measure in measures:
            found.update(measure.add(views))
        yield found


def _reduce(rgb: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    height, width = size
    return rgb if rgb.shape[:2] == size else image.resize(rgb, (height, width))
