"""What many takings of one time come to: median and spread. How they are taken is `pairs`'s."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from crn_fast.measure.gate import Error, Passed

NOISY = 0.10
"""A spread above this share of the median is noise that a comparison must not hide."""


@dataclass(frozen=True)
class Spread:
    """Of seconds, or of ratios."""

    median: float
    p10: float
    p90: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Percentiles by linear interpolation; of one value, that value."""
        if len(values) == 1:
            return cls(values[0], values[0], values[0], 1)
        tenths = statistics.quantiles(values, n=10, method="inclusive")
        return cls(statistics.median(values), tenths[0], tenths[-1], len(values))

    @property
    def noisy(self) -> bool:
        """Too wide, or from too few, to tell a tenth."""
        return self.n < 3 or self.p90 - self.p10 > NOISY * self.median


class Timing:
    """The seconds that something took, round by round. Only what passed the gate has one."""

    error: Error
    """What the gate found."""

    def __init__(self, name: str, settings: str, passed: Passed, seconds: Sequence[float]) -> None:
        if not isinstance(passed, Passed):
            raise TypeError(f"{name}: a time needs the gate's Passed, not {passed!r}")
        self.name, self.settings, self.error = name, settings, passed.error
        self.seconds = tuple(seconds)

    @property
    def spread(self) -> Spread:
        return Spread.of(self.seconds)
