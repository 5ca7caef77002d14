"""The ops in C++, for CPUs: typed Python over the compiled module, which loads on first use.

A pure-Python install has no compiled module. This package then still imports, `available` says why
its functions cannot run, and calling one raises ImportError with the same words.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

from crn_fast.kernels.cpu.threads import usable_cpus


def available() -> str | None:
    """None if the compiled module loads; otherwise the reason, and how to get it."""
    try:
        _load()
    except ImportError as error:
        return str(error)
    return None


def label_pyramid(
    labels: NDArray[np.uint8], classes: int, levels: int, threads: int = 0
) -> list[NDArray[np.float32]]:
    """The layout at every level below full size, coarse to fine.

    Args:
        labels: uint8 [N, H, W], C-contiguous, every id < `classes`; H and W divisible by 2**levels.
        classes: number of classes, 1 to 255.
        levels: number of levels below full size, 0 to 12; 0 gives an empty list.
        threads: threads to use; 0 means all CPUs that this process may use.

    Returns:
        For l = levels .. 1 a float32 array [N, classes, H >> l, W >> l]: the share, 0 to 1, of each
        block of 2**l x 2**l labels that has the class. Exact, whatever the number of threads.

    Raises:
        ValueError: an argument has the wrong dtype, shape, strides or range, or a label is not
            below `classes`; the message names what came and what was expected.
        ImportError: the compiled module is not installed or does not load.
    """
    maps: list[NDArray[np.float32]] = _load().label_pyramid(
        labels, classes, levels, threads or usable_cpus()
    )
    return maps


def _load() -> ModuleType:
    try:
        return import_module("crn_fast.kernels.cpu._native")
    except ImportError as error:
        raise ImportError(
            f"the compiled module of crn_fast does not load ({error}); to build it, install a C++17"
            " compiler and run `pip install --no-deps --force-reinstall .` in the source tree"
        ) from error
