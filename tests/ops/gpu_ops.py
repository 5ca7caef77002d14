"""Made-up inputs for the Triton ops, and the same for their oracle, the reference ops in float64.

Without a GPU the kernels run in Triton's interpreter, which has to be switched on before Triton is
first imported in a process. This module does that, and switches it off again for the processes that
tests start; so tests import the kernels from here.
"""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip("torch", reason="the reference ops need torch")

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    if "triton" in sys.modules and not hasattr(sys.modules["triton"], "_interpreted_by_tests"):
        raise RuntimeError("Triton was imported before its interpreter could be switched on")
    os.environ["TRITON_INTERPRET"] = "1"
try:
    triton = pytest.importorskip("triton", reason="the GPU ops need Triton")
    triton._interpreted_by_tests = True
    import triton.experimental.gluon  # which Triton itself imports at the first launch

    from crn_fast.kernels import reference
    from crn_fast.kernels.gpu import packing
    from crn_fast.kernels.gpu.apply import apply
    from crn_fast.kernels.gpu.apply_concat import apply_concat_kernel
    from crn_fast.kernels.gpu.conv import activated, conv
    from crn_fast.kernels.gpu.head import head
    from crn_fast.kernels.gpu.label_pyramid import label_pyramid
    from crn_fast.kernels.gpu.operands import Convolution, Features, Head, padded
    from crn_fast.kernels.gpu.queue import Queue
    from crn_fast.kernels.gpu.refine import refine
    from crn_fast.kernels.gpu.tuning import Tile
finally:
    if DEVICE == "cpu":
        del os.environ["TRITON_INTERPRET"]

from tolerance import assert_close

__all__ = [
    "Head",
    "Tile",
    "activated",
    "apply",
    "apply_concat_kernel",
    "conv",
    "head",
    "label_pyramid",
    "packing",
    "reference",
    "refine",
]

BF16 = pytest.param(
    torch.bfloat16,
    marks=pytest.mark.skipif(
        DEVICE == "cpu", reason="Triton's interpreter multiplies bfloat16 wrongly; needs a GPU"
    ),
)
BOUNDS = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 3e-2}
"""Type of weights and maps -> largest error of a raw output, relative to the outputs' spread."""


class Poisoned(Queue):
    """A queue whose memory is full of NaN, or of 255."""

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        tensor = super().take(shape, dtype)
        tensor.view(torch.uint8).fill_(0x7F) if dtype.itemsize == 1 else tensor.fill_(torch.nan)
        return tensor


class Made:
    """Random values, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.from_numpy(self.rng.normal(0.1, 1, shape)).to(dtype)

    def features(
        self, n: int, channels: int, height: int, width: int, dtype: torch.dtype
    ) -> tuple[Features, reference.Features]:
        """Features as the Triton ops take them, and as the reference ops do."""
        raw = self.normal(n, height, width, channels, dtype=dtype)
        scale, shift = self.normal(n, channels), self.normal(n, channels)
        made = Features(*(pad_last(x).to(DEVICE) for x in (raw, scale, shift)))
        return made, as_reference(made, channels)

    def weights(
        self, features: int, classes: int, outputs: int, dtype: torch.dtype
    ) -> tuple[Convolution, SimpleNamespace]:
        """A convolution's weights, packed and as the reference ops take them."""
        inputs = features + classes
        weight = (self.normal(outputs, inputs, 3, 3) / (9 * inputs) ** 0.5).to(dtype)
        gamma, beta = self.normal(outputs), self.normal(outputs)
        taps = packing.by_taps(weight[:, :features])
        layout = packing.by_taps(weight[:, features:]) if classes else None
        folded = packing.fold(taps, layout) if classes and features else None
        packed = Convolution(
            taps.to(DEVICE),
            None if layout is None else layout.to(DEVICE),
            packing.pad_channels(gamma).to(DEVICE),
            packing.pad_channels(beta).to(DEVICE),
            outputs,
            folded=None if folded is None else type(folded)(*(x.to(DEVICE) for x in folded)),
        )
        plain = SimpleNamespace(weight=weight.double(), gamma=gamma.double(), beta=beta.double())
        return packed, plain

    def layout(
        self, n: int, classes: int, height: int, width: int, dtype: torch.dtype | None
    ) -> tuple[Tensor, Tensor]:
        """A soft map of `dtype`, or ids for None; and the same for the reference ops."""
        if dtype is None:
            ids = torch.from_numpy(self.rng.integers(0, classes, (n, height, width), np.uint8))
            return ids.to(DEVICE), ids
        soft = torch.from_numpy(self.rng.random((n, height, width, classes))).to(dtype)
        return pad_last(soft).to(DEVICE), soft.permute(0, 3, 1, 2).double()


def pad_last(x: Tensor) -> Tensor:
    """The last axis padded to a multiple of 16: maps by garbage-free zeros, as kernels leave it."""
    return F.pad(x, (0, padded(x.shape[-1]) - x.shape[-1])).contiguous()


def as_reference(features: Features, channels: int) -> reference.Features:
    raw, scale, shift = (x.cpu()[..., :channels].double() for x in features)
    return reference.Features(raw.permute(0, 3, 1, 2), scale, shift)


def assert_features(
    found: Features, oracle: reference.Features, bound: float, queue: Queue | None = None
) -> None:
    """Raw outputs, scale and shift are the oracle's; the padding is zero; nothing else is taken."""
    channels = oracle.raw.shape[1]
    plain = as_reference(found, channels)
    assert_close(plain.raw, oracle.raw, bound)
    for pending, expected in zip(plain[1:], oracle[1:], strict=True):
        torch.testing.assert_close(
            pending, expected, rtol=bound * 5, atol=bound * float(expected.abs().max())
        )
    for tensor in found:
        assert not tensor[..., channels:].any()
    if queue is not None:
        queue.give(*found)
        assert queue.live == 0, "memory was not given back"
