"""What every picture measure sees of a pair, and what it answers. No measure is here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np


class Views(NamedTuple):
    """A pair at its common size [h, w]: the photo's pixels, at most the network's."""

    photo: np.ndarray
    """uint8 RGB [h, w, 3]"""
    pictures: np.ndarray
    """uint8 RGB [K, h, w, 3]: what the network made of the layout, reduced to the photo's size"""
    baseline: np.ndarray
    """uint8 RGB [h, w, 3]: the layout in the mean colour of each class"""
    labels: np.ndarray
    """uint8 [h, w]: the channel of each pixel"""


@dataclass(frozen=True)
class Row:
    """One figure beside its baseline; None where a column has no such figure."""

    measure: str
    model: float | None
    baseline: float | None
    photos: float | None = None
    """The same of the real photos: what pictures that look like photos would reach."""
    better: Literal["higher", "lower", ""] = ""


Values = Mapping[str, Mapping[str, float]]
"""Measure -> column -> the value of one pair."""


class Measure(Protocol):
    """Sees one pair after another, in constant memory."""

    def add(self, views: Views) -> Values:
        """Take a pair into account.

        Returns:
            Its own values, where the measure is defined for a single pair.
        """
        ...

    def rows(self) -> list[Row]:
        """The figures over all pairs so far."""
        ...

    def notes(self) -> list[str]:
        """What a reader must know to read the figures."""
        ...


class Mean:
    """The mean of numbers that come one by one; nan before the first."""

    def __init__(self) -> None:
        self.total, self.count = 0.0, 0

    def add(self, value: float) -> None:
        self.total, self.count = self.total + value, self.count + 1

    @property
    def value(self) -> float:
        return self.total / self.count if self.count else math.nan
