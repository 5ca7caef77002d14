"""Every name that we use of TensorRT is in each version's package: recorded from the packages.

`versions.json` lists the public names of tensorrt_cu12_bindings 10.13.3 and 10.16.1 and of
tensorrt_cu13_bindings 11.4.0, imported beside empty libraries. Networks are defined by TensorRT-RTX
through a wrapper that knows those names only.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import tiny

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")

import tensorrt_rtx as trt

from crn_fast.trt import network
from crn_fast.trt.flavour import Flavour, logger
from crn_fast.weights import arrange

TABLES = json.loads((Path(__file__).parent / "versions.json").read_text())
EVERY = TABLES.pop("every version")
RUNTIME = {
    "Runtime": "deserialize_cuda_engine",
    "ICudaEngine": "get_tensor_name num_io_tensors get_tensor_shape get_tensor_dtype "
    "create_execution_context device_memory_size_v2",
    "IExecutionContext": "set_input_shape set_tensor_address execute_async_v3",
    "ITimingCache": "serialize",
}
"""What running a plan uses, which nothing here can do."""


def names(version: str, kind: str) -> set[str]:
    return set(f"{EVERY[kind]} {TABLES[version].get(kind, '')}".split())


class Restricted:
    """An object of TensorRT-RTX with the names of another version."""

    def __init__(self, own: Any, version: str, kind: str) -> None:
        vars(self).update(own=own, version=version, known=names(version, kind))

    def __getattr__(self, name: str) -> Any:
        assert name in self.known, f"{self.version} has no {name}"
        value = getattr(self.own, name)
        if hasattr(type(value), "__members__"):
            return value
        kind = name if self.own is trt else type(value).__name__
        if kind in EVERY and kind != "module":
            return Restricted(value, self.version, kind)
        if callable(value) and not isinstance(value, type):
            return lambda *given: wrapped(value(*map(plain, given)), self.version)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        assert name in self.known, f"{self.version} has no {name}"
        setattr(self.own, name, plain(value))

    def __call__(self, *given: Any) -> Any:
        return wrapped(self.own(*map(plain, given)), self.version)


def wrapped(value: Any, version: str) -> Any:
    kind = type(value).__name__
    member = hasattr(type(value), "__members__")
    return Restricted(value, version, kind) if kind in EVERY and not member else value


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.own if isinstance(value, Restricted) else value


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "fp8"])
@pytest.mark.parametrize("version", list(TABLES))
def test_the_network_is_made_of_names_that_it_has(version: str, precision: str) -> None:
    module: Any = Restricted(trt, version, "module")
    builder = wrapped(trt.Builder(logger(trt)), version)
    flavour = Flavour(module, "tensorrt", version.split()[1])
    definition = flavour.create_network(builder)
    weights = arrange(tiny.SPEC, tiny.make_checkpoint().tensors)
    _alive = network.define(module, definition, tiny.SPEC, weights, precision, 2)
    assert definition.num_layers > 100
    flavour.configure(builder.create_builder_config(), precision, ())
    assert "add_plugin_v3" in names(version, "INetworkDefinition")


@pytest.mark.parametrize("version", list(TABLES))
def test_running_uses_names_that_it_has(version: str) -> None:
    for kind, used in RUNTIME.items():
        assert set(used.split()) <= names(version, kind), (version, kind)


def test_the_wrapper_refuses() -> None:
    older = next(iter(TABLES))
    builder = wrapped(trt.Builder(logger(trt)), older)
    definition = builder.create_network(0)
    with pytest.raises(AssertionError, match="has no add_normalization_v2"):
        getattr(definition, "add_normalization_v" + "2")
