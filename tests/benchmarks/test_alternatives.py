"""SPADE and pix2pixHD have the published sizes, and operations as counted by hand."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="the networks are torch's")
pytest.importorskip("alternatives", reason="benchmarks/ is not in the sdist")

import torch

import alternatives
from crn_fast.errors import UsageError

CITYSCAPES = 36
"""35 classes and the map of instances' edges, as both networks were published."""
SIZE = (256, 512)


def test_spade_has_the_published_parameters_and_products() -> None:
    # Li et al. 2020, https://github.com/mit-han-lab/gan-compression, table of released models:
    # GauGAN, Cityscapes, original: 93.0 million parameters, 281 billion products at 256x512.
    assert alternatives.parameters("spade", CITYSCAPES, SIZE) == pytest.approx(93.0e6, rel=1e-3)
    assert alternatives.flops("spade", CITYSCAPES, SIZE) / 2 == pytest.approx(281e9, rel=2e-3)


def products(outputs: int, inputs: int, side: int, pixels: int) -> int:
    return outputs * inputs * side * side * pixels


def by_hand(width: int, classes: int, pixels: int) -> tuple[int, int]:
    """Parameters and products of pix2pixHD's global generator up to its last features."""
    count, made = width * (classes * 49 + 1), products(width, classes, 7, pixels)
    for level in range(4):
        narrow, wide = width << level, width << (level + 1)
        small = pixels >> (2 * (level + 1))
        # Down reads 3x3 for each small pixel; up spreads each small pixel over 3x3.
        count += 2 * (narrow * wide * 9) + wide + narrow
        made += 2 * products(narrow, wide, 3, small)
    deep = width << 4
    count += 18 * (deep * deep * 9 + deep)
    made += 18 * products(deep, deep, 3, pixels >> 8)
    return count, made


def test_pix2pixhd_is_as_counted_by_hand() -> None:
    pixels = SIZE[0] * SIZE[1]
    count, made = by_hand(64, CITYSCAPES, pixels)
    count, made = count + 3 * (64 * 49 + 1), made + products(3, 64, 7, pixels)
    assert alternatives.parameters("pix2pixhd", CITYSCAPES, SIZE) == count
    assert alternatives.flops("pix2pixhd", CITYSCAPES, SIZE) == 2 * made


def test_the_local_enhancer_is_as_counted_by_hand() -> None:
    pixels = SIZE[0] * SIZE[1]
    count, made = by_hand(64, CITYSCAPES, pixels // 4)
    count += 32 * (CITYSCAPES * 49 + 1) + 2 * (32 * 64 * 9) + 64 + 32
    made += products(32, CITYSCAPES, 7, pixels) + 2 * products(32, 64, 3, pixels // 4)
    count += 6 * (64 * 64 * 9 + 64) + 3 * (32 * 49 + 1)
    made += 6 * products(64, 64, 3, pixels // 4) + products(3, 32, 7, pixels)
    assert alternatives.parameters("pix2pixhd_local", CITYSCAPES, SIZE) == count
    assert alternatives.flops("pix2pixhd_local", CITYSCAPES, SIZE) == 2 * made


@pytest.mark.parametrize("name", ["spade", "pix2pixhd_local"])  # the latter holds pix2pixhd
def test_a_layout_becomes_a_picture_of_its_size(name: str) -> None:
    torch.manual_seed(0)
    network = alternatives.NETWORKS[name](5, (64, 128)).eval()
    layout = torch.eye(5)[torch.randint(5, (1, 64, 128))].permute(0, 3, 1, 2)
    with torch.inference_mode():
        rgb = network(layout)
        other = network(layout.flip(1))
    assert rgb.shape == (1, 3, 64, 128)
    assert rgb.abs().max() <= 1 and rgb.std() > 1e-3
    assert not torch.equal(rgb, other)


@pytest.mark.parametrize("name", alternatives.NETWORKS)
def test_a_size_that_cannot_be_halved_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="256x500; expected multiples of"):
        alternatives.NETWORKS[name](5, (256, 500))
