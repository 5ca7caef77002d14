"""The C++ head and to_uint8 against the reference."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the reference ops need torch")

import torch

from crn_fast.kernels import cpu, reference
from crn_fast.kernels.cpu.packing import pack_head
from ops.native_ops import ISAS, Made, poisoned_memory
from tolerance import assert_close


@settings(deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.integers(1, 70),
    images=st.integers(1, 64),
    size=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    isa=st.sampled_from(ISAS or [""]),
    threads=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_head_matches_the_reference_anywhere(
    n: int,
    channels: int,
    images: int,
    size: tuple[int, int],
    isa: str,
    threads: int,
    seed: int,
) -> None:
    made = Made(seed)
    features, plain = made.features(n, channels, *size)
    weight, bias = made.normal(3 * images, channels), made.normal(3 * images)
    packed = SimpleNamespace(**dict(zip(("weight", "bias"), pack_head(weight, bias), strict=True)))
    with poisoned_memory() as asked:
        found = cpu.head(features, packed, threads, isa)
    assert asked == [found.shape]
    weights = SimpleNamespace(
        weight=torch.from_numpy(weight).double(), bias=torch.from_numpy(bias).double()
    )
    assert_close(found, reference.head(plain, weights), 1e-5)


def test_to_uint8_clips_and_rounds_half_up() -> None:
    values = [-np.inf, -3.0, 0.49, 0.5, 1.5, 2.5, 254.49, 254.5, 300.0, np.inf, np.nan, -0.0]
    rgb = np.float32(values).reshape(1, 1, 2, 2, 3)
    expected = [0, 0, 0, 1, 2, 3, 254, 255, 255, 255, 0, 0]
    assert cpu.to_uint8(rgb).ravel().tolist() == expected


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_to_uint8_matches_the_reference(threads: int) -> None:
    rgb = np.random.default_rng(2).uniform(-20, 280, (2, 3, 97, 151, 3)).astype(np.float32)
    with poisoned_memory():
        found = cpu.to_uint8(rgb, threads)
    np.testing.assert_array_equal(found, reference.to_uint8(torch.from_numpy(rgb)).numpy())


GOOD, _ = Made().features(2, 16, 3, 4)
WEIGHT, BIAS = pack_head(Made().normal(6, 16), Made().normal(6))


@pytest.mark.parametrize(
    ("weight", "bias", "message"),
    [
        (WEIGHT, BIAS[:5], "bias has 5 values; expected three an image"),
        (WEIGHT[:, :8].copy(), BIAS, r"weight has shape \(1, 8, 16\); .* = \[1, 16, 16\]"),
        (WEIGHT.astype(np.float64), BIAS, "weight has dtype float64; expected float32"),
        (WEIGHT, BIAS.astype(np.int32), "bias has dtype int32; expected float32"),
    ],
)
def test_wrong_head_weights_are_refused(weight: np.ndarray, bias: np.ndarray, message: str) -> None:
    with pytest.raises(ValueError, match=f"head: {message}"):
        cpu.head(GOOD, SimpleNamespace(weight=weight, bias=bias))


def test_wrong_rgb_is_refused() -> None:
    with pytest.raises(ValueError, match=r"to_uint8: rgb has shape \(2, 3\); expected \[N, K,"):
        cpu.to_uint8(np.zeros((2, 3), np.float32))
    with pytest.raises(ValueError, match="to_uint8: rgb has dtype uint8; expected float32"):
        cpu.to_uint8(np.zeros((1, 1, 2, 2, 3), np.uint8))  # type: ignore[arg-type]
