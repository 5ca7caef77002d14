"""The Triton refine against the reference in float64: in the interpreter, or on a GPU."""

from __future__ import annotations

import dataclasses

import pytest

from ops.gpu_ops import (
    BF16,
    BOUNDS,
    DEVICE,
    Made,
    Poisoned,
    Tile,
    apply,
    as_reference,
    assert_features,
    packing,
    reference,
    refine,
)

# isort: split

import torch

from tolerance import assert_close

BOX = Tile("apply", rows=8, wide=16, outputs=32, depth=32, warps=4, stages=2, tma=True)
SMALL = dataclasses.replace(BOX, rows=4, wide=8, outputs=16, depth=16)
FORMS = {
    "boxes": BOX,
    "small pointers": dataclasses.replace(SMALL, tma=False),
    "split boxes": dataclasses.replace(BOX, depth=16, splits=4),
    "on load": dataclasses.replace(BOX, form="on_load"),
    "folded boxes": dataclasses.replace(BOX, form="fold", outputs=128),
    "folded small pointers": dataclasses.replace(SMALL, form="fold", tma=False, outputs=64),
}


def compare(
    n: int,
    channels: tuple[int, int, int],
    size: tuple[int, int],
    ids: bool,
    upsampling: str,
    form: str,
    dtype: torch.dtype,
) -> None:
    """`channels`: features (0 for none), classes, outputs. `size`: of the features, or the layout
    where there are none.
    """
    inputs, classes, outputs = channels
    made, queue = Made(), Poisoned(DEVICE)
    height, width = (2 * size[0], 2 * size[1]) if inputs else size
    features, plain = made.features(n, inputs, *size, dtype) if inputs else (None, None)
    layout, soft = made.layout(n, classes, height, width, None if ids else dtype)
    weights, oracle = made.weights(inputs, classes, outputs, dtype)
    found = refine(queue, features, layout, weights, upsampling, FORMS[form])
    expected = reference.refine(plain, soft, oracle, upsampling)
    assert_features(found, expected, BOUNDS[dtype], queue)


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
def test_matches_the_reference(upsampling: str, form: str, ids: bool) -> None:
    if form.startswith("folded") and upsampling != "half_pixel":
        pytest.skip("only half-pixel upsampling folds")
    compare(1, (20, 6, 18), (3, 5), ids, upsampling, form, torch.float32)


@pytest.mark.parametrize(
    ("n", "channels", "size", "form"),
    [
        (2, (7, 5, 9), (1, 1), "boxes"),
        (2, (7, 5, 9), (1, 1), "on load"),
        (2, (7, 5, 9), (1, 1), "folded boxes"),
        (2, (33, 40, 4), (1, 4), "boxes"),
        (2, (3, 255, 4), (2, 1), "split boxes"),
        (2, (0, 6, 5), (3, 7), "boxes"),
        (1, (0, 6, 5), (3, 7), "small pointers"),
    ],
)
def test_odd_sizes(
    n: int, channels: tuple[int, int, int], size: tuple[int, int], form: str
) -> None:
    compare(n, channels, size, True, "half_pixel", form, torch.float32)
    if "fold" not in form:
        compare(n, channels, size, False, "align_corners", form, torch.float32)


@pytest.mark.parametrize("dtype", [torch.float16, BF16])
@pytest.mark.parametrize("form", ["boxes", "split boxes", "on load", "folded boxes"])
def test_matches_the_reference_in_half_precision(form: str, dtype: torch.dtype) -> None:
    compare(1, (20, 6, 18), (3, 5), form == "boxes", "half_pixel", form, dtype)


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
def test_sources_are_exact_in_the_last_column(upsampling: str) -> None:
    """float32 coordinates would be off by 1e-4 of a pixel there."""
    features, plain = Made().features(1, 1, 1, 1024, torch.float32)
    found = apply(Poisoned(DEVICE), features, torch.float32, upsampling)
    expected = torch.nn.functional.interpolate(
        reference.activate(plain),
        scale_factor=2,
        mode="bilinear",
        align_corners=upsampling == "align_corners",
    )
    assert_close(found.cpu()[..., :1].permute(0, 3, 1, 2), expected, 1e-6)


def test_unknown_ids_count_for_nothing() -> None:
    """They are refused on the host; on the device they must not reach out of any array."""
    made = Made()
    features, plain = made.features(1, 20, 2, 3, torch.float32)
    weights, oracle = made.weights(20, 6, 18, torch.float32)
    ids = torch.full((1, 4, 6), 255, dtype=torch.uint8)
    ids[:, 0, 0], ids[:, 3, 5], ids[:, 2, 2] = 6, 17, 1
    found = refine(Poisoned(DEVICE), features, ids.to(DEVICE), weights, "half_pixel", BOX)
    soft = torch.zeros(1, 6, 4, 6, dtype=torch.float64)
    soft[:, 1, 2, 2] = 1
    expected = reference.refine(plain, soft, oracle, "half_pixel")
    assert_features(found, expected, BOUNDS[torch.float32])


def test_the_layout_stays_fp16_beside_fp8_features() -> None:
    made = Made()
    features, plain = made.features(1, 20, 3, 5, torch.float16)
    weights, oracle = made.weights(20, 6, 18, torch.float16)
    taps, worth = packing.quantise(weights.weight.cpu().float())
    weights = weights._replace(
        weight=taps.to(DEVICE), channel_scale=(worth / 8).to(DEVICE), quantum=8.0
    )
    layout, soft = made.layout(1, 6, 6, 10, None)
    found = refine(Poisoned(DEVICE), features, layout, weights, "half_pixel", BOX)
    # Truncated features lose up to an eighth of their size in the interpreter.
    raw = reference.refine(plain, soft, oracle, "half_pixel").raw
    assert_close(as_reference(found, 18).raw, raw, 0.3)
    features.scale.zero_()
    features.shift.zero_()
    found = refine(Poisoned(DEVICE), features, layout, weights, "half_pixel", BOX)
    plain = as_reference(features, 20)
    assert_features(found, reference.refine(plain, soft, oracle, "half_pixel"), 3e-3)


def test_wrong_forms_are_refused() -> None:
    made = Made()
    features, _ = made.features(1, 4, 1, 1, torch.float32)
    weights, _ = made.weights(4, 3, 4, torch.float32)
    layout, _ = made.layout(1, 3, 2, 2, None)
    fold = FORMS["folded boxes"]
    for asked, given in (
        ("align_corners", weights),
        ("half_pixel", weights._replace(folded=None)),
    ):
        with pytest.raises(ValueError, match="fold needs half-pixel upsampling and folded weights"):
            refine(Poisoned(DEVICE), features, layout, given, asked, fold)
