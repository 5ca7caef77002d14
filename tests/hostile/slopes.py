"""What grows as a process works: samples of it, and straight lines laid through them.

The line is that of Theil and Sen: the median of the slopes between any two samples, which a step
hardly moves. Its limits are Sen's, from Kendall's test: of 20 runs of a process that keeps nothing,
19 have no slope between them. What they are apart is the noise floor of a run: no smaller leak can
be told.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hostile.campaign import Tally

Z = 1.96
"""Standard errors to either limit."""
MB = 2**20
SPARE = 8
"""Threads that a pool, which has a limit, may still add."""


@dataclass(frozen=True)
class Sample:
    done: int
    """Requests, or renders, so far."""
    seconds: float
    memory: dict[str, int]
    """Bytes, by what they are."""
    counts: dict[str, int]
    """Descriptors, threads, mappings."""


@dataclass(frozen=True)
class Line:
    slope: float
    low: float
    high: float


def private(pid: int | str = "self") -> int:
    """Bytes of a process that no file and no other process shares, written or swapped out."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    table = {name: int(rest.split()[0]) for name, _, rest in (ln.partition(":") for ln in lines)}
    return (table["Anonymous"] + table["Swap"]) * 1024


def line(x: np.ndarray, y: np.ndarray) -> Line:
    """Through samples y at x."""
    n = len(x)
    i, j = np.triu_indices(n, 1)
    slopes = np.sort((y[j] - y[i]) / (x[j] - x[i]))
    off = Z * np.sqrt(n * (n - 1) * (2 * n + 5) / 18)
    low, high = (int(np.clip((len(slopes) + d) / 2, 0, len(slopes) - 1)) for d in (-off, off))
    return Line(float(np.median(slopes)), float(slopes[low]), float(slopes[high]))


def judge(
    tally: Tally, samples: Sequence[Sample], what: str, promised: Callable[[float], float]
) -> dict[str, Line]:
    """A failure for each kind of memory that cannot be shown to be flat, and each count that grows.

    Args:
        tally: told what was found.
        samples: those after all pools and caches were filled.
        what: a 'request' or a 'render'.
        promised: the largest slope, in bytes, at so many a second. Memory whose name begins with
            'live' is held to it, other memory is told alone.

    Returns:
        the line of each kind of memory.
    """
    done = np.array([one.done for one in samples], float)
    rate = (samples[-1].done - samples[0].done) / (samples[-1].seconds - samples[0].seconds)
    allowed, an_hour = promised(rate), 3600 * rate / MB
    tally.figures["rate"] = f"{rate:.0f} {what}s a second"
    tally.figures["allowed"] = f"{allowed:.2f} bytes a {what}"
    lines = {}
    for name in samples[0].memory:
        found = lines[name] = line(done, np.array([one.memory[name] for one in samples], float))
        told = (
            f"{found.slope:+.2f} bytes a {what} ({found.low:+.2f} to {found.high:+.2f}), "
            f"{found.slope * an_hour:+.2f} MB/h at that rate "
            f"({found.low * an_hour:+.2f} to {found.high * an_hour:+.2f})"
        )
        tally.figures[f"{name} grow by"] = told
        if name.startswith("live") and found.high > allowed:
            tally.failures.append(f"{name}: {told}")
    for name in samples[0].counts:
        seen = [one.counts[name] for one in samples]
        tally.figures[name] = f"{min(seen)} to {max(seen)}"
        fifth = max(1, len(seen) // 5)
        spare = SPARE if name.startswith("threads") else 0
        if np.median(seen[-fifth:]) > np.median(seen[:fifth]) + spare:
            tally.failures.append(f"{name}: {tally.figures[name]}")
    return lines
