"""The reference ops against independent formulas in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

torch = pytest.importorskip("torch", reason="the reference ops need torch")

from crn_fast.kernels import reference  # noqa: E402
from tolerance import assert_close  # noqa: E402


def features(n: int, channels: int, height: int, width: int) -> reference.Features:
    generator = torch.Generator().manual_seed(3)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return reference.Features(
        normal(n, channels, height, width), normal(n, channels), normal(n, channels)
    )


def test_label_pyramid_is_the_share_of_each_class() -> None:
    labels = torch.randint(0, 4, (2, 12, 20), dtype=torch.uint8)
    pyramid = reference.label_pyramid(labels, 4, 3)
    assert [tuple(level.shape) for level in pyramid] == [(2, 4, 3, 5), (2, 4, 6, 10), (2, 12, 20)]
    assert torch.equal(pyramid[-1], labels)
    for level, block in zip(pyramid[:-1], (4, 2), strict=True):
        for k in range(4):
            blocks = (labels == k).unfold(1, block, block).unfold(2, block, block)
            assert torch.equal(level[:, k], blocks.float().mean((-1, -2)))


def test_conv3x3_in_strips_equals_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.randn(2, 3, 11, 7, dtype=torch.float64)
    weight = torch.randn(4, 3, 3, 3, dtype=torch.float64)
    whole = torch.nn.functional.conv2d(x, weight, padding=1)
    for rows in (1, 2, 4, 10):
        monkeypatch.setattr(reference, "UNFOLD_BYTES", rows * 9 * 3 * 7 * 8)
        assert_close(reference.conv3x3(x, weight), whole, 1e-13)


def test_conv_takes_statistics_over_the_whole_sample() -> None:
    given = features(2, 3, 5, 7)
    weights = SimpleNamespace(
        weight=torch.randn(4, 3, 3, 3, dtype=torch.float64),
        gamma=torch.randn(4, dtype=torch.float64),
        beta=torch.randn(4, dtype=torch.float64),
    )
    found = reference.conv(given, weights)
    for n in range(2):
        raw = found.raw[n]
        deviation = (raw - raw.mean()).square().mean().sqrt()
        normal = (raw - raw.mean()) / deviation
        expected = normal * weights.gamma[:, None, None] + weights.beta[:, None, None]
        pending = raw * found.scale[n, :, None, None] + found.shift[n, :, None, None]
        assert_close(pending, expected, 1e-12)


def test_zero_padding_applies_after_the_norm() -> None:
    given = features(1, 1, 4, 4)._replace(shift=torch.full((1, 1), 100.0, dtype=torch.float64))
    ones = SimpleNamespace(
        weight=torch.ones(1, 1, 3, 3, dtype=torch.float64),
        gamma=torch.ones(1, dtype=torch.float64),
        beta=torch.zeros(1, dtype=torch.float64),
    )
    raw = reference.conv(given, ones).raw[0, 0]
    active = reference.activate(given)[0, 0]
    torch.testing.assert_close(raw[0, 0], active[:2, :2].sum())
    torch.testing.assert_close(raw[1, 0], active[:3, :2].sum())


def test_head_orders_images_as_the_authors() -> None:
    given = features(2, 5, 3, 4)
    weights = SimpleNamespace(
        weight=torch.randn(6, 5, dtype=torch.float64), bias=torch.randn(6, dtype=torch.float64)
    )
    found = reference.head(given, weights)
    assert found.shape == (2, 2, 3, 4, 3)
    active = reference.activate(given)
    for k in range(2):
        for colour, channel in enumerate((k, 2 + k, 4 + k)):
            y = torch.einsum("c,nchw->nhw", weights.weight[channel], active) + weights.bias[channel]
            assert_close(found[:, k, :, :, colour], (y + 1) / 2 * 255, 1e-12)


def test_to_uint8_clips_and_rounds_half_up() -> None:
    rgb = torch.tensor([-3.0, 0.49, 0.5, 1.5, 2.5, 254.49, 254.5, 300.0])
    assert reference.to_uint8(rgb).tolist() == [0, 0, 1, 2, 3, 254, 255, 255]
