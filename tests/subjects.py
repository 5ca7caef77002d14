"""Subjects to be timed: on a clock that only they move, and for child processes to import."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import numpy as np

from crn_fast.measure.gate import Checked, Subject

ORACLE = np.random.default_rng(0).uniform(0, 255, (4, 5))


class Clock:
    """Seconds; whoever runs moves it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now


def checked(name: str, clock: Clock, seconds: Iterator[float]) -> Checked:
    """A subject that takes the next of `seconds` at every run after the gate's."""
    gated = False

    def run() -> np.ndarray:
        nonlocal gated
        if gated:
            clock.order.append(name)
            clock.now += next(seconds)
        gated = True
        return ORACLE

    return Checked(Subject(name, run), ORACLE, 1.0, "float64", clock=clock)


def sleeper(offset: float = 0.0, seconds: float = 0.0) -> Subject:
    """Off by `offset`, after `seconds`."""

    def run() -> np.ndarray:
        time.sleep(seconds)
        return ORACLE + offset

    return Subject("sleeper", run, f"CRN_TEST is {os.environ.get('CRN_TEST')}")


def broken() -> Subject:
    raise ValueError("no such\nlibrary")


def killed() -> Subject:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def turning() -> Subject:
    """Right for the two runs before it is timed, and wrong from then on."""
    results = iter([ORACLE, ORACLE])
    return Subject("turning", lambda: next(results, np.zeros_like(ORACLE)))
