"""How fast a run goes, what it waits for, and how much of the device it uses."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

SIDES = {"cpu": 512, "cuda": 4096}
"""Of the matrices whose product is timed: large enough to be bound by arithmetic."""
REPEATS = 5


@dataclass(frozen=True)
class Speed:
    """Since the reading before, saving and sampling left out; of all processes together."""

    images_per_second: float
    data_wait: float
    """Share of the time spent waiting for data, in this process."""
    tflops: float
    """Operations of the network, forward and backward, 10^12 a second; those of the loss and of
    what `training.recompute` does again are not counted."""
    peak_tflops: float
    """What the devices can do: by the recipe, or else what a matrix product reached."""
    utilisation: float
    """`tflops` / `peak_tflops`: model FLOP utilisation."""
    memory_gb: float
    """Highest so far: of the GPU where there is one, else of this process."""


class Meter:
    """A clock for one process.

    Args:
        flops: operations of the network for one layout, forward only.
        peak_tflops: of all devices together.
    """

    def __init__(self, flops: int, peak_tflops: float) -> None:
        self.flops, self.peak_tflops = flops, peak_tflops
        self._restart()

    def _restart(self) -> None:
        self.since, self.images, self.waited = time.perf_counter(), 0, 0.0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in here is spent waiting for data."""
        before = time.perf_counter()
        yield
        self.waited += time.perf_counter() - before

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time in here does not count."""
        before = time.perf_counter()
        yield
        self.since += time.perf_counter() - before

    def read(self) -> Speed:
        """The speed since the last reading, `images` having been added to on the way."""
        elapsed = max(time.perf_counter() - self.since, 1e-9)
        speed = self.images / elapsed
        # The backward pass costs two forward ones: by the weights, and by the features.
        tflops = 3 * self.flops * speed / 1e12
        used = tflops / self.peak_tflops
        found = Speed(speed, self.waited / elapsed, tflops, self.peak_tflops, used, memory_gb())
        self._restart()
        return found


def matmul_tflops(device: str, precision: str) -> float:
    """What the product of two square matrices reaches on a device: 10^12 operations a second.

    A ceiling that programs do reach, below what a data sheet promises. The best of a few.

    Args:
        device: a torch device; a CPU with torch's number of threads.
        precision: 'fp32', 'tf32' or 'bf16'.
    """
    kind = torch.device(device).type
    side = SIDES[kind]
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    generator = torch.Generator(device).manual_seed(0)  # the run's own numbers stay as they are
    a, b = (torch.randn(side, side, device=device, generator=generator).to(dtype) for _ in "ab")
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    times = []
    for _ in range(1 + REPEATS):  # the first warms up
        since = time.perf_counter()
        a @ b
        if kind == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - since)
    torch.backends.cuda.matmul.allow_tf32 = before
    if kind == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    return 2 * side**3 / min(times[1:]) / 1e12


def memory_gb() -> float:
    """Highest use so far in 10^9 bytes: of the GPU where there is one, else of this process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    try:
        import resource
    except ImportError:  # Windows
        return math.nan
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e9 if sys.platform == "darwin" else peak / 1e6
