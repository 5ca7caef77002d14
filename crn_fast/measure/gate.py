"""The correctness gate: nothing has a time before its result was compared with an oracle.

A `Passed` is the proof, and making one is the comparison: there is no other way to get it, and all
that carries a time (`timer.Timing`, `rows.Row`) asks for it. What is timed is a `Subject`; what
is timed after it passed, a `Checked`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from crn_fast.errors import CheckFailed

ROUNDING = 0.5
"""Half a grey level: how far rounding alone takes a uint8 result from its oracle."""
SLACK = 1e-6
"""What float64 leaves of a difference that is exactly half a level."""
CHUNK = 1 << 22
"""Values compared at a time, so that a large oracle is not held twice."""


@dataclass(frozen=True)
class Error:
    """How far a result lies from its oracle."""

    largest: float
    """Largest absolute difference, in the result's own units (grey levels for pictures)."""
    relative: float
    """Root of the mean squared difference, over the oracle's standard deviation."""
    psnr: float | None
    """Decibels, over a range of 255; None where there is none: features, or no difference."""
    against: str
    """The oracle, for people: 'float64'."""


class Passed:
    """Proof that a result lies within `limit` of its oracle. Making one is the check.

    Args:
        name: of what made the result, for the message.
        found: the result; a uint8 one is compared with the oracle clipped to 0..255, and half a
            level more is allowed.
        expected: the oracle, before rounding, of the same shape.
        limit: largest absolute difference that is allowed.
        against: what the oracle is, for people.
        pictures: whether the values are grey levels, so that a PSNR means something.

    Raises:
        CheckFailed: another shape, a difference above the limit or that is no number, or an
            oracle that varies too little for this limit to tell anything.
    """

    def __init__(
        self,
        name: str,
        found: np.ndarray,
        expected: np.ndarray,
        limit: float,
        against: str,
        pictures: bool = True,
    ) -> None:
        if found.shape != expected.shape:
            raise CheckFailed(
                f"{name}: the result has shape {found.shape}; expected {expected.shape}, as "
                f"{against} gives: no time is taken"
            )
        rounded = found.dtype == np.uint8
        largest, squares, spread = _differences(found, expected, rounded)
        if not limit < spread:
            raise CheckFailed(
                f"{name}: {against} varies by {spread:.3g}, so a limit of {limit:.3g} would pass "
                "anything: give weights and a layout that make a picture"
            )
        if not largest <= limit + (ROUNDING + SLACK if rounded else 0.0):
            raise CheckFailed(
                f"{name}: differs from {against} by up to {largest:.4g}; allowed are {limit:.4g}"
                f"{', and 0.5 for rounding' if rounded else ''}: no time is taken"
            )
        psnr = 10 * math.log10(255**2 / squares) if pictures and squares > 0 else None
        self.error = Error(largest, math.sqrt(squares) / spread, psnr, against)


def _differences(found: np.ndarray, expected: np.ndarray, clip: bool) -> tuple[float, float, float]:
    """Largest absolute and mean squared difference, and the oracle's standard deviation."""
    ours, oracle = found.reshape(-1), expected.reshape(-1)
    largest, squares, deviation = 0.0, 0.0, 0.0
    mean = float(np.mean(oracle, dtype=np.float64)) if oracle.size else 0.0
    for start in range(0, oracle.size, CHUNK):
        b = oracle[start : start + CHUNK].astype(np.float64)
        deviation += float(np.square(b - mean).sum())
        difference = ours[start : start + CHUNK] - (b.clip(0, 255) if clip else b)
        # Not max(): Python's loses a NaN that comes second.
        largest = float(np.maximum(largest, np.abs(difference).max()))
        squares += float(np.square(difference).sum())
    count = max(1, oracle.size)
    return largest, squares / count, math.sqrt(deviation / count)


@dataclass(frozen=True)
class Subject:
    """Something to be timed."""

    name: str
    run: Callable[[], Any]
    """What the clock is around. Its result is complete when it returns: a GPU is waited for."""
    settings: str = ""
    """How it was set up, for people: 'torch 2.13, channels_last, 2 threads'."""
    exact: Callable[[], Any] | None = None
    """The same result before it is rounded, for the check alone; None: `run` rounds nothing."""
    fetch: Callable[[Any], np.ndarray] = np.asarray
    """What these return -> an array, off the clock: copies from a GPU, decodes a file."""


class Checked:
    """A subject that has passed the gate, and may be timed.

    Args:
        subject: it runs once here; `exact`, too.
        expected, limit, against, pictures: as of `Passed`.
        result: of a run that was made already; None: it is made here.
        clock: seconds, never going back.

    Raises:
        CheckFailed: as of `Passed`.
    """

    def __init__(
        self,
        subject: Subject,
        expected: np.ndarray,
        limit: float,
        against: str,
        *,
        pictures: bool = True,
        result: Any = None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.subject, self.name, self.settings = subject, subject.name, subject.settings
        self._expected, self._limit, self._against = expected, limit, against
        self._pictures, self._clock = pictures, clock
        self._last = subject.run() if result is None else result
        self.passed = self.confirm()
        if subject.exact:
            self.passed = self._check(subject.exact())

    def __call__(self) -> Any:
        """Run it: what `pytest-benchmark` is given."""
        self._last = self.subject.run()
        return self._last

    def seconds(self, burst: float = 0.0) -> float:
        """Run it, again until `burst` seconds are over, and say how long a run took on average."""
        start, runs = self._clock(), 0
        while True:
            self._last = self.subject.run()
            runs, taken = runs + 1, self._clock() - start
            if taken >= burst:
                return taken / runs

    def confirm(self) -> Passed:
        """Check the result of the last run: fast and wrong after the first is wrong.

        Raises:
            CheckFailed: as of `Passed`.
        """
        return self._check(self._last)

    def _check(self, found: Any) -> Passed:
        array = self.subject.fetch(found)
        expected, limit = self._expected, self._limit
        return Passed(self.name, array, expected, limit, self._against, self._pictures)
