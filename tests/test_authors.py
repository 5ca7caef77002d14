"""Oracle: a checkpoint that TensorFlow wrote, and the layouts' definitions, element by element."""

from __future__ import annotations

import os
import shutil
from math import prod
from pathlib import Path

import numpy as np
import pytest

from crn_fast import authors
from crn_fast.errors import BadInput
from crn_fast.spec import PRESETS, CascadeSpec

TINY = Path(__file__).parent / "data" / "tf_tiny"
SPEC = CascadeSpec(widths=(6, 5, 4), base=(4, 8), classes=3, images=2)
Shapes = dict[str, tuple[int, ...]]


def test_reads_spec_tensors_and_what_it_ignored() -> None:
    spec, tensors, ignored = authors.read(TINY)
    assert spec == SPEC
    assert {name: tensor.shape for name, tensor in tensors.items()} == SPEC.tensors()
    assert list(tensors) == list(SPEC.tensors())
    for tensor in tensors.values():
        assert tensor.dtype == np.float32 and tensor.flags.c_contiguous
    assert len(ignored) == 2 * len(tensors) + 2
    assert {"beta1_power", "g_4_conv1/weights/Adam", "g_16_conv100/biases/Adam_1"} < set(ignored)


def test_values_element_by_element() -> None:
    _, tensors, _ = authors.read(TINY)
    with np.load(TINY / "values.npz") as values:
        for i, height in enumerate((4, 8, 16)):
            for conv in ("conv1", "conv2"):
                ours, theirs = f"stages.{i}.{conv}", f"g_{height}_{conv}"
                weights = values[f"{theirs}/weights"]
                for y, x, c_in, c_out in np.ndindex(weights.shape):
                    value = tensors[f"{ours}.weight"][c_out, c_in, y, x]
                    assert value == weights[y, x, c_in, c_out]
                for leaf in ("gamma", "beta"):
                    expected = values[f"{theirs}/LayerNorm/{leaf}"]
                    np.testing.assert_array_equal(tensors[f"{ours}.{leaf}"], expected)
        head = values["g_16_conv100/weights"]
        for _, _, c_in, c_out in np.ndindex(head.shape):
            assert tensors["head.weight"][c_out, c_in] == head[0, 0, c_in, c_out]
        np.testing.assert_array_equal(tensors["head.bias"], values["g_16_conv100/biases"])


def test_base_width_can_be_told() -> None:
    spec, _, _ = authors.read(TINY, base_width=6)
    assert spec.base == (4, 6) and spec.size == (16, 24)


def test_file_name_tells_nothing(tmp_path: Path) -> None:
    for suffix in (".index", ".data-00000-of-00001"):
        shutil.copy(TINY / f"model.ckpt{suffix}", tmp_path / f"result_1024p.ckpt{suffix}")
    assert authors.read(tmp_path / "result_1024p.ckpt")[0] == SPEC


@pytest.mark.parametrize(
    ("preset", "count", "parameters"),
    [("256p", 44, 97_875_483), ("512p", 50, 98_622_851), ("1024p", 56, 98_674_531)],
)
def test_presets_from_names_and_shapes(preset: str, count: int, parameters: int) -> None:
    shapes = authors.variables(PRESETS[preset])
    assert len(shapes) == count
    assert sum(map(prod, shapes.values())) == parameters
    assert authors.derive_spec(dict(reversed(shapes.items()))) == PRESETS[preset]


def test_names_and_shapes_of_the_last_module() -> None:
    shapes = authors.variables(PRESETS["256p"])
    assert {name: shape for name, shape in shapes.items() if name.startswith("g_256_")} == {
        "g_256_conv1/weights": (3, 3, 532, 512),
        "g_256_conv1/LayerNorm/gamma": (512,),
        "g_256_conv1/LayerNorm/beta": (512,),
        "g_256_conv2/weights": (3, 3, 512, 512),
        "g_256_conv2/LayerNorm/gamma": (512,),
        "g_256_conv2/LayerNorm/beta": (512,),
        "g_256_conv100/weights": (1, 1, 512, 27),
        "g_256_conv100/biases": (27,),
    }


def changed(**changes: tuple[int, ...] | None) -> Shapes:
    """The tiny network's variables, some of another shape or, for None, left out."""
    shapes = authors.variables(SPEC) | {name.replace("__", "/"): s for name, s in changes.items()}
    return {name: shape for name, shape in shapes.items() if shape is not None}


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"holds no variable such as g_4_conv1/weights.*found none"),
        ({f"vgg/conv{i}": (3,) for i in range(5)}, r"found vgg/conv0, .*\.\.\. \(5 in all\)"),
        (changed(g_8_conv1__weights=None), r"missing variables: g_8_conv1/weights \(1 in all\)"),
        (changed(g_16_conv100__weights=None), r"missing variables: g_16_conv100/weights"),
        (changed(g_16_conv100__biases=None), r"missing variables: g_16_conv100/biases \(1 in"),
        (changed(g_4_conv2__LayerNorm__beta=None), r"missing .*g_4_conv2/LayerNorm/beta \(1 in"),
        (changed(g_4_conv3__weights=(1,)), r"unexpected variables: g_4_conv3/weights \(1 in all"),
        (changed(g_8_conv100__biases=(6,)), r"unexpected variables: g_8_conv100/biases"),
        (changed(g_4_conv1__biases=(6,)), r"unexpected variables: g_4_conv1/biases"),
        (changed(g_12_conv1__weights=(3, 3, 8, 5)), r"unexpected variables: g_12_conv1/weights"),
        (changed(g_64_conv1__weights=(3, 3, 7, 4)), r"missing variables: g_32_conv1/weights"),
        (changed(g_8_conv2__weights=(3, 3, 5, 6)), r"another shape .*\(3, 3, 5, 6\) instead of"),
        (changed(g_8_conv1__weights=(5, 5, 9, 5)), r"g_8_conv1/weights \(5, 5, 9, 5\) instead"),
        (changed(g_8_conv1__weights=(45, 9)), r"without four dimensions: g_8_conv1/weights \(45"),
        (changed(g_16_conv100__weights=(1, 1, 4, 7)), r"g_16_conv100/weights \(1, 1, 4, 7\)"),
        (changed(g_16_conv100__weights=(1, 1, 4, 2)), r"images is 0"),
        (changed(g_16_conv1__weights=(3, 3, 8, 1 << 40)), r"widths\[2\] is 1099511627776"),
        (changed(**{"bad\n\x1b[31m": (1,)}), r"unexpected variables: 'bad\\n\\x1b\[31m'"),
    ],
)
def test_variables_of_no_whole_network(shapes: Shapes, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        authors.derive_spec(shapes)
    assert "\n" not in str(caught.value)


def test_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone\.index: no such file"):
        authors.read(tmp_path / "gone")
    with pytest.raises(BadInput, match=r"model\.ckpt\.index: spec: base width is 0"):
        authors.read(TINY, base_width=0)


def test_authors_released_checkpoints() -> None:
    """Every name and shape of the four checkpoints that the authors gave out."""
    if "CRN_FAST_DATA" not in os.environ:
        pytest.skip("CRN_FAST_DATA names no data folder")
    listing = Path(os.environ["CRN_FAST_DATA"], "crn_official", "crn_ckpt_shapes.txt")
    if not listing.is_file():
        pytest.skip(f"{listing} is not there")
    networks: dict[str, Shapes] = {}
    for line in listing.read_text().splitlines():
        words = line.split(maxsplit=2)
        if words[0] == "==":
            networks[words[1]] = {}
            continue
        name, _, shape = line.strip().partition(" ")
        if not name.endswith(("/Adam", "/Adam_1", "_power")):
            dims = shape.strip("[]").replace(",", " ").split()
            list(networks.values())[-1][name] = tuple(map(int, dims))
    presets = {**PRESETS, "GTA": PRESETS["256p"]}
    assert sorted(networks) == ["1024p", "256p", "512p", "GTA"]
    for network, shapes in networks.items():
        assert authors.variables(presets[network]) == shapes
        assert authors.derive_spec(shapes) == presets[network]
