"""The three TensorRTs, by what their modules have: recorded tables, and the real one if it is here.

`tensorrt_rtx` was recorded from 1.7.1. The two of `tensorrt` are from NVIDIA's headers and
migration pages: neither could be imported where they were written down.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from crn_fast.errors import Unavailable, UsageError
from crn_fast.trt import flavour
from crn_fast.trt.flavour import Flavour

CAPABILITIES = ("NONE", "CURRENT", "SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
TABLES: dict[str, dict[str, Any]] = {
    "tensorrt 10.16.1": {
        "creation flags": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
        "plugins": ("add_plugin_v2", "add_plugin_v3"),
        "engine": ("device_memory_size", "device_memory_size_v2"),
    },
    "tensorrt 11.1.0": {
        "creation flags": {"STRONGLY_TYPED": 1},
        "plugins": ("add_plugin_v3",),
        "engine": ("device_memory_size_v2",),
    },
    "tensorrt_rtx 1.7.1": {
        "creation flags": {"STRONGLY_TYPED": 1},
        "plugins": (),
        "engine": ("device_memory_size_v2",),
        "capabilities": CAPABILITIES,
    },
    "tensorrt 12.0.0": {"creation flags": {}, "plugins": (), "engine": ("device_memory_size",)},
}
"""The last is made up: what happens when a flag that does nothing any more is removed."""


def module(table: dict[str, Any], version: str) -> Any:
    made = SimpleNamespace(
        __version__=version,
        Builder=object,
        BuilderFlag=SimpleNamespace(TF32="TF32"),
        INetworkDefinition=SimpleNamespace(**dict.fromkeys(table["plugins"])),
        NetworkDefinitionCreationFlag=SimpleNamespace(**table["creation flags"]),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE="whole"),
    )
    if names := table.get("capabilities"):
        made.ComputeCapability = SimpleNamespace(__members__=dict(zip(names, names, strict=True)))
    return made


@pytest.fixture(params=list(TABLES))
def found(request: pytest.FixtureRequest) -> tuple[Flavour, dict[str, Any]]:
    name, version = request.param.split()
    table = TABLES[request.param]
    return Flavour(module(table, version), name, version), table


class Config:
    def __init__(self) -> None:
        self.flags: set[str] = {"TF32"}
        self.capabilities: dict[int, str] = {}

    def set_flag(self, flag: str) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: str) -> None:
        self.flags.discard(flag)

    def set_compute_capability(self, member: str, i: int) -> bool:
        self.capabilities[i] = member
        return member != "SM121"


def test_networks_are_strongly_typed(found: tuple[Flavour, dict[str, Any]]) -> None:
    own, table = found
    flags = own.create_network(SimpleNamespace(create_network=lambda flags: flags))
    assert flags == sum(1 << bit for name, bit in table["creation flags"].items() if "STR" in name)


def test_only_rtx_builds_for_named_gpus(found: tuple[Flavour, dict[str, Any]]) -> None:
    own, table = found
    if "capabilities" not in table:
        assert own.targets == ()
        with pytest.raises(UsageError, match="builds for the GPU of this machine"):
            own.check_targets(["sm_89"])
        return
    assert own.targets == ("sm_75", "sm_80", "sm_86", "sm_89", "sm_120", "sm_121")
    own.check_targets(["sm_80", "sm_120"])
    with pytest.raises(UsageError, match=r"--target sm_90: .*sm_75, .*--backend fused"):
        own.check_targets(["sm_80", "sm_90"])
    config: Any = Config()
    own.configure(config, "fp16", ("sm_89", "sm_120"))
    assert config.capabilities == {0: "SM89", 1: "SM120"}
    with pytest.raises(UsageError, match="sm_121: refused"):
        own.configure(config, "fp16", ("sm_121",))


@pytest.mark.parametrize(("precision", "tf32"), [("fp32", False), ("tf32", True), ("fp16", True)])
def test_tf32_is_off_for_fp32_alone(
    precision: str, tf32: bool, found: tuple[Flavour, dict[str, Any]]
) -> None:
    config: Any = Config()
    found[0].configure(config, precision, ())
    assert config.flags == ({"TF32"} if tf32 else set())


def test_the_other_differences(found: tuple[Flavour, dict[str, Any]]) -> None:
    own, table = found
    assert own.has_plugins == ("add_plugin_v3" in table["plugins"])
    assert own.has_timing_cache == (own.name == "tensorrt")
    engine: Any = SimpleNamespace(**dict.fromkeys(table["engine"], 77))
    assert own.memory_size(engine) == 77
    config = SimpleNamespace(
        create_runtime_cache=lambda: SimpleNamespace(deserialize=id), set_runtime_cache=id
    )
    engine.create_runtime_config = lambda: config
    engine.create_execution_context = lambda *given: given
    context, cache = own.create_context(engine, b"x")
    assert context == ((config,) if own.rtx else ())
    assert (cache is not None) == own.rtx
    assert own.title.startswith("TensorRT-RTX 1." if own.rtx else "TensorRT 1")


def test_the_first_whole_package_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    packages: dict[str, Any] = {}

    def find(name: str) -> Any:
        if isinstance(result := packages.get(name, ImportError("No module")), Exception):
            raise result
        return result

    monkeypatch.setattr(flavour, "import_module", find)
    with pytest.raises(Unavailable, match=r"tensorrt: No module; tensorrt_rtx: No.*pip install"):
        flavour.load()
    rtx = packages["tensorrt_rtx"] = module(TABLES["tensorrt_rtx 1.7.1"], "1.7.1")
    stubs = [
        SimpleNamespace(__version__="10.0"),
        OSError("libnvinfer.so.10: cannot open shared object file"),
        module(TABLES["tensorrt 10.16.1"], "8.6.1"),
        SimpleNamespace(),
    ]
    for stub in stubs:
        packages["tensorrt"] = stub
        assert flavour.load().trt is rtx
        with pytest.raises(Unavailable, match=r"libnvinfer|8\.6\.1, expected 10|is not TensorRT"):
            flavour.load(("tensorrt",))
    packages["tensorrt"] = module(TABLES["tensorrt 10.16.1"], "10.16.1")
    assert flavour.load().version == "10.16.1"


def test_the_recorded_table_is_the_package() -> None:
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")
    table = TABLES["tensorrt_rtx 1.7.1"]
    assert set(table["capabilities"]) <= set(trt.ComputeCapability.__members__)
    own = flavour.load(("tensorrt_rtx",))
    assert not own.has_plugins, "plugins have come: docs/tensorrt.md says there are none"
    assert trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED is not None
    assert trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE is not None
    assert all(hasattr(trt.ICudaEngine, name) for name in table["engine"])
    assert hasattr(trt.IRuntimeConfig, "create_runtime_cache")
