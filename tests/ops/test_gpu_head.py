"""The Triton head against the reference: in the interpreter, or on a GPU."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from ops.gpu_ops import DEVICE, Head, Made, Poisoned, head, pad_last, reference

# isort: split

import torch

from tolerance import assert_close


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("n", "channels", "images", "size"),
    [(2, 7, 1, (5, 7)), (1, 40, 9, (3, 23)), (1, 1, 30, (1, 2))],
)
def test_matches_the_reference(
    n: int, channels: int, images: int, size: tuple[int, int], dtype: torch.dtype
) -> None:
    made, queue = Made(), Poisoned(DEVICE)
    features, plain = made.features(n, channels, *size, dtype)
    weight, bias = made.normal(3 * images, channels) / 4, made.normal(3 * images)
    order = torch.arange(3 * images).view(3, images).T.ravel()
    packed = Head(pad_last(weight[order]).to(DEVICE), bias[order].to(DEVICE))
    oracle = reference.head(plain, SimpleNamespace(weight=weight.double(), bias=bias.double()))
    found = head(queue, features, packed, torch.float32)
    assert_close(found, oracle, 1e-5)
    pictures = head(queue, features, packed, torch.uint8).cpu()
    assert pictures.dtype == torch.uint8
    assert torch.equal(pictures, reference.to_uint8(found.cpu()))
    assert 0 < pictures.float().mean() < 255


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning")
def test_clips_what_is_out_of_range() -> None:
    wanted = [-3.0, 0.4, 0.6, 254.4, 254.6, 300.0]
    raw = torch.tensor(wanted, dtype=torch.float64) / 127.5 - 1
    bent = torch.where(raw < 0, raw / 0.2, raw)  # the leaky ReLU turns it back
    values = torch.tensor([*bent, -torch.inf, torch.inf, torch.nan]).float().view(1, 3, 3, 1)
    features, _ = Made().features(1, 1, 3, 3, torch.float32)
    features = features._replace(raw=pad_last(values).to(DEVICE))
    features.scale[:, 0], features.shift[:, 0] = 1, 0
    weights = Head(pad_last(torch.ones(3, 1)).to(DEVICE), torch.zeros(3, device=DEVICE))
    found = head(Poisoned(DEVICE), features, weights, torch.uint8)
    expected = [0, 0, 1, 254, 255, 255, 0, 255, 0]
    assert found.cpu()[0, 0, ..., 0].ravel().tolist() == expected
