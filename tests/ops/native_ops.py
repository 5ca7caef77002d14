"""Made-up inputs for the C++ ops, and the same for their oracle, the reference ops in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from crn_fast.kernels import cpu, reference
from crn_fast.kernels.cpu.packing import pack_convolution, padded
from tolerance import assert_close

BOUNDS = {1: 1e-5, 4: 5e-5, 6: 2e-4}
"""Side of a tile -> largest error of a raw output, relative to the outputs' spread."""
ISAS = cpu.instruction_sets() if cpu.available() is None else []


class Made:
    """Random values, the same for the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)

    def normal(self, *shape: int) -> np.ndarray:
        return self.rng.normal(0.1, 1, shape).astype(np.float32)

    def features(
        self, n: int, channels: int, height: int, width: int
    ) -> tuple[cpu.Features, reference.Features]:
        """Features as the C++ ops take them, and as the reference ops do."""
        raw, scale, shift = (
            np.zeros((*shape, padded(channels)), np.float32)
            for shape in ((n, height, width), (n,), (n,))
        )
        raw[..., :channels] = self.normal(n, height, width, channels)
        scale[:, :channels] = self.normal(n, channels)
        shift[:, :channels] = self.normal(n, channels)
        made = cpu.Features(raw, scale, shift)
        return made, as_reference(made, channels)

    def soft(self, n: int, classes: int, height: int, width: int) -> np.ndarray:
        return self.rng.random((n, classes, height, width), dtype=np.float32)

    def ids(self, n: int, classes: int, height: int, width: int) -> np.ndarray:
        """Ids of which some regions are of one class, as in layouts."""
        ids = self.rng.integers(0, classes, (n, height, width), dtype=np.uint8)
        ids[:, : height * 2 // 3, width // 4 :] = classes - 1
        return ids

    def weights(
        self, features: int, classes: int, outputs: int, tile: int, ids: bool = False
    ) -> tuple[Any, Any]:
        """A convolution's weights, packed and as the reference ops take them."""
        weight = self.normal(outputs, features + classes, 3, 3)
        gamma, beta = self.normal(outputs), self.normal(outputs)
        packed = pack_convolution(weight, features, tile, ids)
        plain = (torch.from_numpy(x).double() for x in (weight, gamma, beta))
        return (
            SimpleNamespace(weight=packed, gamma=gamma, beta=beta),
            SimpleNamespace(**dict(zip(("weight", "gamma", "beta"), plain, strict=True))),
        )


def as_reference(features: cpu.Features, channels: int) -> reference.Features:
    raw = np.ascontiguousarray(features.raw[..., :channels].transpose(0, 3, 1, 2))
    pending = (np.ascontiguousarray(x[:, :channels]) for x in features[1:])
    return reference.Features(*(torch.from_numpy(x).double() for x in (raw, *pending)))


def assert_features(found: cpu.Features, oracle: reference.Features, tile: int) -> None:
    """Raw outputs, scale and shift are the oracle's; the padding is zero."""
    channels = oracle.raw.shape[1]
    plain = as_reference(found, channels)
    assert_close(plain.raw, oracle.raw, BOUNDS[tile])
    for pending, expected in zip(plain[1:], oracle[1:], strict=True):
        np.testing.assert_allclose(pending, expected, rtol=1e-4, atol=1e-5 * expected.abs().max())
    for padded_array in found:
        assert padded_array.flags.c_contiguous and padded_array.dtype == np.float32
        assert not padded_array[..., channels:].any()


def assert_same_bits(found: cpu.Features, expected: cpu.Features) -> None:
    for a, b in zip(found, expected, strict=True):
        assert a.tobytes() == b.tobytes()


@contextmanager
def poisoned_memory() -> Iterator[list[tuple[int, ...]]]:
    """Inside, numpy.empty gives memory full of NaN (or 255), and lists the shapes asked for."""
    asked: list[tuple[int, ...]] = []
    true_empty = np.empty

    def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
        asked.append(tuple(shape))
        memory: np.ndarray = true_empty(shape, dtype)
        memory.fill(np.nan if dtype == "float32" else 255)
        return memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", empty)
        yield asked
