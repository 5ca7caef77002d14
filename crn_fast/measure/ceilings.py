"""What this machine can do at best, measured: float32 matrix products, and copying memory.

A share of a ceiling is only as honest as the ceiling: the product is the best of several libraries,
ours among them, each measured in the same run as what is compared with it. In a process of its own,
as most libraries read their number of threads once, when they load.

    python -m crn_fast.measure.ceilings 2
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from crn_fast.errors import Unavailable

SIDE = 1536
"""Of the square matrices: 9.4 MB each, more than private caches hold."""
COPY_BYTES = 1 << 28
"""Copied from one buffer to another: far more than any cache holds."""
TRIES = 5
THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


@dataclass(frozen=True)
class Ceilings:
    products: Mapping[str, float]
    """Library -> GFLOP/s of its float32 matrix product, best of several runs."""
    copy: float
    """GB/s of a copy, bytes read and written together, best of several runs."""
    threads: int

    @property
    def product(self) -> float:
        """The best of `products`, GFLOP/s."""
        return max(self.products.values())


def measure(threads: int) -> Ceilings:
    """Measure the ceilings of `threads` threads; takes a few seconds.

    Raises:
        Unavailable: the process that measures failed.
    """
    environment = {**os.environ, **environment_of(threads)}
    # -P: not the folder crn_fast/ that may lie in the working folder.
    command = [sys.executable, "-P", "-m", "crn_fast.measure.ceilings", str(threads)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    if result.returncode:
        raise Unavailable(f"ceilings: {' '.join(command)}: {result.stderr.strip()[-300:]}")
    return Ceilings(**json.loads(result.stdout))


def environment_of(threads: int) -> dict[str, str]:
    """The environment variables that hold libraries to a number of threads."""
    return dict.fromkeys(THREAD_VARIABLES, str(threads))


def _products(threads: int) -> dict[str, float]:
    makers = {"numpy": _numpy, "torch": _torch, "native": _native}
    found = {}
    for name, make in makers.items():
        try:
            run, operations = make(threads)
        except ImportError:
            continue
        found[name] = operations / _best(run) / 1e9
    return found


def _numpy(threads: int) -> tuple[Callable[[], object], float]:
    a, b = _matrices()
    out = np.empty_like(a)
    return lambda: np.matmul(a, b, out=out), 2.0 * SIDE**3


def _torch(threads: int) -> tuple[Callable[[], object], float]:
    import torch

    torch.set_num_threads(threads)
    a, b = map(torch.from_numpy, _matrices())
    out = torch.empty_like(a)
    return lambda: torch.mm(a, b, out=out), 2.0 * SIDE**3


def _native(threads: int) -> tuple[Callable[[], object], float]:
    """Our product as the direct convolution of 512 channels over 32x64 pixels: nine products."""
    from types import SimpleNamespace

    from crn_fast.kernels import cpu
    from crn_fast.kernels.cpu.packing import pack_convolution

    channels, height, width = 512, 32, 64
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((channels, channels, 3, 3), np.float32)
    ones = np.ones(channels, np.float32)
    weights = SimpleNamespace(
        weight=pack_convolution(plain, channels, 1, False), gamma=ones, beta=ones
    )
    raw = rng.standard_normal((1, height, width, channels), np.float32)
    features = cpu.Features(raw, ones[None], ones[None])
    operations = 2.0 * 9 * channels * channels * height * width
    return lambda: cpu.conv(features, weights, threads), operations


def _matrices() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)  # not zeros: they draw less power, and run faster
    a, b = (rng.standard_normal((SIDE, SIDE), np.float32) for _ in range(2))
    return a, b


def _copy(threads: int) -> float:
    source = np.ones(COPY_BYTES, np.uint8)
    target = np.zeros_like(source)  # written, so that its pages are there
    parts = list(zip(np.array_split(source, threads), np.array_split(target, threads), strict=True))
    with ThreadPoolExecutor(threads) as pool:
        seconds = _best(lambda: list(pool.map(lambda p: np.copyto(p[1], p[0]), parts)))
    return 2 * COPY_BYTES / seconds / 1e9


def _best(run: Callable[[], object]) -> float:
    """Seconds of the fastest of several runs: a ceiling is what is reached at all."""
    run()
    seconds = []
    for _ in range(TRIES):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    return min(seconds)


if __name__ == "__main__":
    count = int(sys.argv[1])
    print(json.dumps({"products": _products(count), "copy": _copy(count), "threads": count}))
