"""Specs: the authors' networks to the last weight, and what is refused."""

import pytest

from crn_fast.errors import BadInput
from crn_fast.spec import PRESETS, CascadeSpec


@pytest.mark.parametrize(
    ("preset", "size", "parameters", "gmacs"),
    [
        ("256p", (256, 512), 97_875_483, 1_075),
        ("512p", (512, 1024), 98_622_851, 1_472),
        ("1024p", (1024, 2048), 98_674_531, 1_581),
    ],
)
def test_the_authors_networks(
    preset: str, size: tuple[int, int], parameters: int, gmacs: int
) -> None:
    spec = PRESETS[preset]
    assert spec.size == size
    assert spec.parameters() == parameters
    assert round(spec.flops() / 2e9) == gmacs
    assert spec.bytes() == 4 * parameters


def test_small_presets_have_the_same_sizes_and_a_few_million_weights() -> None:
    for name in ("256p", "512p", "1024p"):
        small = PRESETS[f"{name}-small"]
        assert small.size == PRESETS[name].size
        assert 2e6 < small.parameters() < 8e6


def test_flops_count_every_convolution() -> None:
    spec = CascadeSpec(widths=(5, 3), base=(2, 3), classes=4, images=2)
    first = 9 * (4 * 5 + 5 * 5) * 2 * 3
    second = 9 * ((5 + 4) * 3 + 3 * 3) * 4 * 6
    head = 3 * 6 * 4 * 6
    assert spec.flops() == 2 * (first + second + head)


def test_tensor_names_and_shapes() -> None:
    spec = CascadeSpec(widths=(5, 3), classes=4, images=2)
    assert spec.tensors() == {
        "stages.0.conv1.weight": (5, 4, 3, 3),
        "stages.0.conv1.gamma": (5,),
        "stages.0.conv1.beta": (5,),
        "stages.0.conv2.weight": (5, 5, 3, 3),
        "stages.0.conv2.gamma": (5,),
        "stages.0.conv2.beta": (5,),
        "stages.1.conv1.weight": (3, 9, 3, 3),
        "stages.1.conv1.gamma": (3,),
        "stages.1.conv1.beta": (3,),
        "stages.1.conv2.weight": (3, 3, 3, 3),
        "stages.1.conv2.gamma": (3,),
        "stages.1.conv2.beta": (3,),
        "head.weight": (6, 3),
        "head.bias": (6,),
    }


@pytest.mark.parametrize("name", PRESETS)
def test_json_round_trip(name: str) -> None:
    assert CascadeSpec.from_json(PRESETS[name].to_json()) == PRESETS[name]


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "widths"),
        ({"widths": []}, "number of stages"),
        ({"widths": [0]}, r"widths\[0\] is 0"),
        ({"widths": [True]}, r"widths\[0\] is True"),
        ({"widths": [8.5]}, r"widths\[0\] is 8.5"),
        ({"widths": "88"}, "widths is '88'"),
        ({"widths": [8], "base": [4]}, "base is"),
        ({"widths": [8], "base": [4, -8]}, "base width is -8"),
        ({"widths": [8], "classes": 256}, "classes is 256"),
        ({"widths": [8], "images": 0}, "images is 0"),
        ({"widths": [8], "upsampling": "cubic"}, "upsampling is 'cubic'"),
        ({"widths": [8], "depth": 3}, "unknown field 'depth'"),
        ([8], "expected a table"),
    ],
)
def test_what_is_out_of_range_is_named(fields: object, named: str) -> None:
    with pytest.raises(BadInput, match=named):
        CascadeSpec.from_dict(fields)


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "null", "1"])
def test_broken_json_is_refused(text: str) -> None:
    with pytest.raises(BadInput):
        CascadeSpec.from_json(text)
