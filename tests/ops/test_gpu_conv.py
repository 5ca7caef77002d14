"""The Triton conv against the reference in float64: in the interpreter, or on a GPU."""

from __future__ import annotations

import dataclasses

import pytest

from ops.gpu_ops import (
    BF16,
    BOUNDS,
    DEVICE,
    Features,
    Made,
    Poisoned,
    Tile,
    activated,
    apply,
    as_reference,
    assert_features,
    conv,
    packing,
    reference,
)

# isort: split

import torch
import torch.nn.functional as F

from tolerance import assert_close

BOX = Tile("apply", rows=8, wide=16, outputs=32, depth=16, warps=4, stages=2)
FORMS = {
    "pointers": BOX,
    "boxes": dataclasses.replace(BOX, tma=True),
    "small boxes": dataclasses.replace(BOX, tma=True, rows=4, wide=8, outputs=16),
    "small pointers": dataclasses.replace(BOX, rows=4, wide=8, outputs=16),
    "split boxes": dataclasses.replace(BOX, tma=True, splits=4),
    "split pointers": dataclasses.replace(BOX, splits=5),
    "on load": dataclasses.replace(BOX, form="on_load"),
}
SIZES = [(1, 1, 3, 1, 1), (2, 20, 18, 5, 7), (1, 33, 9, 9, 3)]
"""N, channels in and out, height, width."""


def compare(
    size: tuple[int, int, int, int, int], tile: Tile, dtype: torch.dtype, tf32: bool = False
) -> None:
    n, inputs, outputs, height, width = size
    made, queue = Made(), Poisoned(DEVICE)
    features, plain = made.features(n, inputs, height, width, dtype)
    weights, oracle = made.weights(inputs, 0, outputs, dtype)
    found = conv(queue, features, weights, tile, tf32)
    bound = 3e-3 if tf32 else BOUNDS[dtype]
    assert_features(found, reference.conv(plain, oracle), bound, queue)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", SIZES)
def test_matches_the_reference(size: tuple[int, int, int, int, int], form: str) -> None:
    compare(size, FORMS[form], torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, BF16])
@pytest.mark.parametrize("form", ["pointers", "boxes", "split boxes", "on load"])
def test_matches_the_reference_in_half_precision(form: str, dtype: torch.dtype) -> None:
    compare((2, 20, 18, 5, 7), FORMS[form], dtype)


def test_tf32_is_close() -> None:
    compare((2, 20, 18, 5, 7), BOX, torch.float32, tf32=True)


@pytest.mark.parametrize("tma", [False, True])
def test_fp8_is_exact_but_for_the_sum(tma: bool) -> None:
    """Values that are fp8 already: what remains is float32 rounding and the fp16 result."""
    made, queue = Made(), Poisoned(DEVICE)
    tile = dataclasses.replace(BOX, depth=32, tma=tma)
    x = made.normal(2, 5, 7, 32).to(torch.float8_e4m3fn)
    weights, oracle = made.weights(20, 0, 18, torch.float32)
    taps, worth = packing.quantise(weights.weight.cpu())
    x[..., 20:] = torch.zeros((), dtype=torch.float8_e4m3fn)
    packed = weights._replace(weight=taps.to(DEVICE), channel_scale=worth.to(DEVICE))
    found = activated(queue, x.to(DEVICE), None, packed, tile, (2, 5, 7), False)
    exact = taps.double() * worth.double()[:, None]
    weight = exact[:, :18, :20].view(3, 3, 18, 20).permute(2, 3, 0, 1)
    raw = F.conv2d(x[..., :20].double().permute(0, 3, 1, 2), weight, padding=1)
    assert_close(as_reference(found, 18).raw, raw, BOUNDS[torch.float16])
    assert_close(weight, oracle.weight, 0.2)


def test_the_apply_pass_quantises() -> None:
    features, plain = Made().features(1, 20, 3, 5, torch.float16)
    found = apply(Poisoned(DEVICE), features, torch.float8_e4m3fn, "none", quantum=2.0)
    exact = reference.activate(plain).permute(0, 2, 3, 1) * 2
    error = (found.cpu()[..., :20].double() - exact).abs()
    rounded = exact.to(torch.float8_e4m3fn).double()
    # Where rounding carries into the exponent, the interpreter forgets the carry.
    sound = (rounded.abs().log2() % 1 > 0) | (rounded.abs() < exact.abs()) | (DEVICE == "cuda")
    assert sound.double().mean() > 0.8
    assert (error <= exact.abs() / 8 + 2**-6)[sound].all()
    loud = features._replace(scale=features.scale * 1e4)
    found = apply(Poisoned(DEVICE), loud, torch.float8_e4m3fn, "none", quantum=2.0).cpu().float()
    assert found.abs().max() == 448


def test_zero_padding_comes_after_the_norm() -> None:
    """The ruler sees it: padding before the norm is another result."""
    made = Made()
    features, plain = made.features(1, 20, 5, 7, torch.float32)
    weights, oracle = made.weights(20, 0, 18, torch.float32)
    found = conv(Poisoned(DEVICE), features, weights, BOX)
    ring = reference.Features(F.pad(plain.raw, (1, 1, 1, 1)), plain.scale, plain.shift)
    wrong = reference.conv(ring, oracle).raw[:, :, 1:-1, 1:-1]
    with pytest.raises(AssertionError, match="of the spread"):
        assert_close(as_reference(found, 18).raw, wrong, 0.1)


@pytest.mark.parametrize("form", ["boxes", "split boxes", "on load"])
def test_a_large_mean_does_not_spoil_the_variance(form: str) -> None:
    """E[x^2] - E[x]^2 in float32 would lose all digits here."""
    made = Made()
    features, _ = made.features(1, 16, 12, 20, torch.float32)
    features.shift[...] = 1000
    weights, oracle = made.weights(16, 0, 1, torch.float32)
    middle = torch.zeros(1, 16, 3, 3)
    middle[0, :, 1, 1] = 1
    weights = weights._replace(weight=packing.by_taps(middle).to(DEVICE))
    oracle.weight = middle.double()
    found = conv(Poisoned(DEVICE), features, weights, FORMS[form])
    expected = reference.conv(as_reference(features, 16), oracle)
    torch.testing.assert_close(found.scale.cpu()[:, :1].double(), expected.scale, rtol=1e-4, atol=0)


def test_the_same_bits_at_every_run() -> None:
    made = Made()
    features, _ = made.features(1, 20, 5, 7, torch.float16)
    weights, _ = made.weights(20, 0, 18, torch.float16)
    for form in ("small boxes", "split boxes"):
        first, second = (conv(Poisoned(DEVICE), features, weights, FORMS[form]) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_wrong_forms_are_refused() -> None:
    made = Made()
    features, _ = made.features(1, 4, 3, 3, torch.float32)
    weights, _ = made.weights(4, 0, 4, torch.float32)
    with pytest.raises(ValueError, match="the form is 'fold'; expected apply or on_load"):
        conv(Poisoned(DEVICE), features, weights, dataclasses.replace(BOX, form="fold"))
    fp8 = weights._replace(channel_scale=weights.gamma)
    with pytest.raises(ValueError, match="fp8 need the form apply"):
        conv(Poisoned(DEVICE), features, fp8, FORMS["on load"])
    huge = Features(torch.empty(1, 1 << 14, 1 << 14, 16, device="meta"), *features[1:])
    with pytest.raises(ValueError, match="fewer than 2\\*\\*31"):
        conv(Poisoned("meta"), huge, weights, BOX)
