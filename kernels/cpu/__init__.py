"""The ops in C++, for CPUs: typed Python over the compiled module, which loads on first use.

A pure-Python install has no compiled module. This package then still imports, `available` says why
its functions cannot run, and calling one raises ImportError with the same words.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from crn_fast.kernels.cpu.threads import usable_cpus

ISA_VARIABLE = "CRN_FAST_ISA"
"""Environment variable that forces an instruction set: one of `instruction_sets`."""


class Features(NamedTuple):
    """The features are leaky_relu(raw * scale + shift)."""

    raw: NDArray[np.float32]
    """[N, H, W, C], convolution output; C padded to a multiple of 16 by zeros"""
    scale: NDArray[np.float32]
    """[N, C], the pending norm; 0 in the padding"""
    shift: NDArray[np.float32]
    """[N, C], as `scale`"""


def available() -> str | None:
    """None if the compiled module loads; otherwise the reason, and how to get it."""
    try:
        load()
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
    maps: list[NDArray[np.float32]] = load().label_pyramid(
        labels, classes, levels, threads or usable_cpus()
    )
    return maps


def refine(
    features: Features | None,
    layout: NDArray[Any],
    weights: Any,
    upsampling: str,
    threads: int = 0,
    isa: str = "",
    out: NDArray[np.float32] | None = None,
) -> Features:
    """Norm and leaky ReLU, bilinear x2, concatenate the layout, 3x3 convolution.

    Args:
        features: of the stage before, at half the layout's size; None at the first stage.
        layout: float32 [N, classes, H, W], or uint8 ids [N, H, W] below `classes`.
        weights: `weight` as `packing.pack_convolution` gives, `gamma` and `beta` float32 [C_out].
        upsampling: 'align_corners' or 'half_pixel'.
        threads: threads to use; 0 means all CPUs that this process may use.
        isa: one of `instruction_sets`; '' for $CRN_FAST_ISA, or the best.
        out: memory [floats] that becomes the raw output, none of it an argument's; None for new.

    Returns:
        The features of this convolution: the same bits whatever the number of threads.

    Raises:
        ValueError: an argument has the wrong dtype, shape, strides or range; the message names
            what came and what was expected.
        MemoryError: there is no room for the output or the scratch memory.
        ImportError: the compiled module is not installed or does not load.
    """
    return _convolve(features, layout, weights, upsampling, threads, isa, out)


def conv(
    features: Features,
    weights: Any,
    threads: int = 0,
    isa: str = "",
    out: NDArray[np.float32] | None = None,
) -> Features:
    """Norm and leaky ReLU, 3x3 convolution. Arguments, result and errors as of `refine`."""
    return _convolve(features, None, weights, None, threads, isa, out)


def head(features: Features, weights: Any, threads: int = 0, isa: str = "") -> NDArray[np.float32]:
    """Norm and leaky ReLU, 1x1 convolution, from -1..1 to 0..255.

    Args:
        features: of the last stage.
        weights: `weight` and `bias` as `packing.pack_head` gives.
        threads: as in `refine`.
        isa: as in `refine`.

    Returns:
        RGB float32 [N, K, H, W, 3] around 0..255, unclipped.

    Raises:
        ValueError, MemoryError, ImportError: as in `refine`.
    """
    rgb: NDArray[np.float32] = load().head(
        *features, weights.weight, weights.bias, threads or usable_cpus(), _isa(isa)
    )
    return rgb


def to_uint8(rgb: NDArray[np.float32], threads: int = 0) -> NDArray[np.uint8]:
    """Clip float32 [N, K, H, W, 3] to 0..255 and round half up -> uint8. Errors as in `refine`."""
    pictures: NDArray[np.uint8] = load().to_uint8(rgb, threads or usable_cpus())
    return pictures


def instruction_sets() -> list[str]:
    """The instruction sets that this CPU runs and the ops are compiled for, best first."""
    names: list[str] = load().instruction_sets()
    return names


def _convolve(
    features: Features | None,
    layout: NDArray[Any] | None,
    weights: Any,
    upsampling: str | None,
    threads: int,
    isa: str,
    out: NDArray[np.float32] | None,
) -> Features:
    arrays = load().convolve(
        *(features or (None, None, None)),
        layout,
        weights.weight.weight,
        weights.weight.table,
        weights.gamma,
        weights.beta,
        upsampling,
        threads or usable_cpus(),
        _isa(isa),
        out,
    )
    return Features(*arrays)


def _isa(asked: str) -> str:
    return asked or os.environ.get(ISA_VARIABLE, "")


def load() -> ModuleType:
    """The compiled module. ImportError, with the way to it, where it does not load."""
    try:
        return import_module("crn_fast.kernels.cpu._native")
    except ImportError as error:
        raise ImportError(
            f"the compiled module of crn_fast does not load ({error}); to build it, install a C++17"
            " compiler and run `pip install --no-deps --force-reinstall .` in the source tree"
        ) from error
