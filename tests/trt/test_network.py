"""The network definition, interpreted layer by layer, against the float64 oracle."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiny

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX to define a network")
pytest.importorskip("torch", reason="the oracle needs torch")

import tensorrt_rtx as trt
import torch

import trt_interpreter
from crn_fast import cascade, fp8
from crn_fast.kernels import reference
from crn_fast.spec import CascadeSpec
from crn_fast.trt import network as trt_network
from crn_fast.trt.flavour import Flavour, logger
from crn_fast.weights import arrange

SPECS = {
    "tiny": tiny.SPEC,
    "one stage": CascadeSpec(widths=(5,), base=(3, 4), classes=12),
    "one pixel": CascadeSpec(widths=(4, 6, 3), base=(1, 1), classes=12),
    "many stages": CascadeSpec(widths=(9, 8, 7, 6, 5), base=(2, 3), classes=12, images=4),
}
FLAVOUR = Flavour(trt, "tensorrt_rtx", trt.__version__)


def define(spec: CascadeSpec, precision: str, batch: int) -> tuple[Any, Any]:
    """A network and what must live as long."""
    builder = trt.Builder(logger(trt))
    network = FLAVOUR.create_network(builder)
    weights = arrange(spec, tensors(spec))
    arrays = trt_network.define(trt, network, spec, weights, precision, batch)
    return network, (builder, arrays)


def tensors(spec: CascadeSpec) -> dict[str, np.ndarray]:
    """Random weights for pictures that neither fade nor saturate."""
    made = dict(tiny.make_checkpoint(spec).tensors)
    made["head.weight"] = made["head.weight"] * np.float32(0.3)
    return made


def oracle(spec: CascadeSpec, labels: np.ndarray) -> np.ndarray:
    """The pictures in float64, neither clipped nor rounded."""
    weights = {n: torch.from_numpy(t).double() for n, t in tensors(spec).items()}
    found = cascade.synthesize(reference, spec, arrange(spec, weights), torch.from_numpy(labels))
    return found.numpy()


def interpret(spec: CascadeSpec, precision: str, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Labels of three layouts -> float pictures and uint8 pictures of the network."""
    network, _alive = define(spec, precision, batch)
    labels = tiny.labels_array(3, spec)
    values = trt_interpreter.run(trt, network, {trt_network.LABELS: labels})
    (images,) = (v for name, v in values.items() if name.startswith("head.images"))
    return images, values[trt_network.PICTURES]


@pytest.mark.parametrize("batch", [3, -1])
@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("name", SPECS)
def test_is_the_network_of_the_oracle(name: str, upsampling: str, batch: int) -> None:
    spec = dataclasses.replace(SPECS[name], upsampling=upsampling)
    found, pictures = interpret(spec, "fp32", batch)
    expected = oracle(spec, tiny.labels_array(3, spec))
    assert found.shape == pictures.shape == (3, spec.images, *spec.size, 3)
    assert expected.std() > 10
    assert np.abs(found - expected).max() < 0.02
    assert pictures.dtype == np.uint8
    assert np.abs(pictures - expected.clip(0, 255)).max() < 0.52


def test_half_precision_stays_near_the_oracle() -> None:
    found, _ = interpret(tiny.SPEC, "fp16", 3)
    expected = oracle(tiny.SPEC, tiny.labels_array(3))
    assert 0.01 < np.abs(found - expected).max() < 1.5


def test_fp8_is_near_the_oracle_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As near as random weights allow, and further off than half precision."""
    monkeypatch.setenv(fp8.VARIABLE, "0,1,2")
    found, _ = interpret(tiny.SPEC, "fp8", 3)
    expected = oracle(tiny.SPEC, tiny.labels_array(3))
    error = np.abs(found - expected)
    assert 2 < error.max() < 40 and error.std() < 0.1 * expected.std()
    # The first convolution has no features, and is not quantised: two tensors of each other are.
    network, _alive = define(tiny.SPEC, "fp8", 1)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    narrow = [layer for layer in layers if layer.type == trt.LayerType.QUANTIZE]
    assert len(narrow) == 2 * (2 * len(tiny.SPEC.widths) - 1)
    assert {layer.get_output(0).dtype for layer in narrow} == {trt.fp8}


def test_the_interpreter_rounds_as_torch_does() -> None:
    values = np.random.default_rng(0).normal(0, 30, 9999).astype(np.float32)
    values = np.concatenate([values, values * 2e-5, np.arange(-448, 449, dtype=np.float32)])
    layer: Any = SimpleNamespace(get_output=lambda _: SimpleNamespace(dtype=trt.fp8))
    found = trt_interpreter.quantize(layer, values, np.array(1, np.float32))
    expected = torch.from_numpy(values).to(torch.float8_e4m3fn).double().numpy()
    np.testing.assert_array_equal(found, expected)
    loud = trt_interpreter.quantize(layer, np.array([1e9, -1e9]), np.array(1, np.float32))
    assert loud.tolist() == [448, -448]


@pytest.mark.parametrize("precision", ["fp16", "bf16", "fp32"])
def test_statistics_are_float32_and_never_the_normalisation_layer(precision: str) -> None:
    network, _alive = define(tiny.SPEC, precision, 1)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    reductions = [layer for layer in layers if layer.type == trt.LayerType.REDUCE]
    assert len(reductions) == 2 * 2 * len(tiny.SPEC.widths)
    for layer in reductions:
        assert layer.get_input(0).dtype == layer.get_output(0).dtype == trt.float32
    assert not [layer.name for layer in layers if layer.type == trt.LayerType.NORMALIZATION]
    convolutions = [layer for layer in layers if layer.type == trt.LayerType.CONVOLUTION]
    storage = {"fp16": trt.float16, "bf16": trt.bfloat16, "fp32": trt.float32}[precision]
    assert {layer.get_input(0).dtype for layer in convolutions[:-1]} == {storage}


def test_layers_are_named_by_what_they_compute() -> None:
    network, _alive = define(tiny.SPEC, "fp16", 1)
    names = [network.get_layer(i).name for i in range(network.num_layers)]
    assert len(set(names)) == len(names)
    for stem in ("label_pyramid.one_hot", "stages.2.conv1.upsample", "stages.0.conv2.convolution"):
        assert any(name.startswith(f"{stem}.") for name in names), stem
    assert (network.get_input(0).name, network.get_input(0).dtype) == ("labels", trt.uint8)
    assert (network.get_output(0).name, network.get_output(0).dtype) == ("pictures", trt.uint8)


def wrong_norm(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instance norm: the mean of each channel by itself."""

    def mean(self: Any, x: Any, name: str) -> Any:
        layer = self.network.add_reduce(x, trt.ReduceOperation.AVG, 0b100, True)
        return self._add(name, layer).get_output(0)

    def reshape(self: Any, x: Any, shape: tuple[int, ...]) -> Any:
        layer = self.network.add_shuffle(x)
        layer.reshape_dims = (0, x.shape[1], 1, 1) if shape == (0, 1, 1, 1) else shape
        return self._add("reshape", layer).get_output(0)

    monkeypatch.setattr(trt_network.TensorRTOps, "_mean", mean)
    monkeypatch.setattr(trt_network.TensorRTOps, "_reshape", reshape)


def wrong_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt_network, "SLOPE", 0.21)


def wrong_order(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layout before the features."""
    right = trt.INetworkDefinition.add_concatenation
    monkeypatch.setattr(
        trt.INetworkDefinition, "add_concatenation", lambda self, x: right(self, x[::-1])
    )


@pytest.mark.parametrize("fault", [wrong_norm, wrong_slope, wrong_order])
def test_a_wrong_network_fails(fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    # As many channels as classes, so that a swapped concatenation still fits.
    spec = CascadeSpec(widths=(12, 12, 12), base=(3, 5), classes=12)
    expected = oracle(spec, tiny.labels_array(3, spec))
    assert np.abs(interpret(spec, "fp32", 3)[0] - expected).max() < 0.02
    fault(monkeypatch)
    assert np.abs(interpret(spec, "fp32", 3)[0] - expected).max() > 1


def test_bfloat16_rounds_to_nearest_even() -> None:
    values = np.random.default_rng(0).normal(0, 3, 999).astype(np.float32)
    values[:3] = 1 + 2**-8, 1 + 3 * 2**-8, 2.5
    found = (trt_network.to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    expected = torch.from_numpy(values).bfloat16().float().numpy()
    np.testing.assert_array_equal(found, expected)
