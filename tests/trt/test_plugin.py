"""The quick plugin: its kernel's parameters, and its registration with TensorRT's own module.

TensorRT's libraries are nowhere to be had, but its Python package imports beside empty ones, which
is enough for everything that a plugin says of itself: `pip install --no-deps
tensorrt_cu13_bindings`. Without it a stand-in of the few names that are used takes its place.
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import tiny

pytest.importorskip("triton", reason="the plugin's kernel is Triton's")
pytest.importorskip("torch", reason="the Triton kernels need torch")

from crn_fast.trt import plugin

COMPILE = """
import json, subprocess, sys, tempfile
from pathlib import Path
import triton
from crn_fast.trt import plugin
found = {}
for arch in (80, 90, 120):
    made = plugin.compiled(19, 12, True, arch)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.ptx")
        path.write_text(made.ptx)
        tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
        ptxas = tools / ("ptxas-blackwell" if arch >= 100 else "ptxas")
        target = ".target sm_" + str(arch)
        assert target in made.ptx, made.ptx[:200]
        feature = "a" if target + "a" in made.ptx else ""
        cubin = path.with_suffix(".cubin")
        subprocess.run([ptxas, f"-arch=sm_{arch}{feature}", path, "-o", cubin], check=True)
    found[arch] = made._asdict()
print(json.dumps(found))
"""


def test_the_kernel_takes_what_tensorrt_passes(tmp_path: Path) -> None:
    """In a process of its own, without the interpreter. NVIDIA's assembler takes the result."""
    done = subprocess.run(
        [sys.executable, "-c", COMPILE], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    for made in json.loads(done.stdout).values():
        entry = re.search(rf"\.visible \.entry {made['name']}\((.*?)\)", made["ptx"], re.S)
        assert entry is not None
        kinds = re.findall(r"\.param \.(\w+)( \.ptr)?", entry[1])
        numbers = ["u64 .ptr" if kind[0] == "*" else "u32" for kind in plugin.ARGUMENTS]
        assert ["".join(kind) for kind in kinds] == numbers
        assert made["threads"] == 32 * plugin.WARPS and made["shared"] < 48 << 10


class Number(int):
    """A dimension that is known."""

    def constant_value(self) -> int:
        return int(self)

    def __add__(self, other: int) -> Number:
        return Number(int(self) + int(other))

    def __mul__(self, other: int) -> Number:
        return Number(int(self) * int(other))


def stand_in() -> Any:
    """What is used of `tensorrt.plugin`; `op.crn_fast.apply_concat` keeps what was registered."""
    held = SimpleNamespace()

    def keep(part: str) -> Any:
        def decorate(name: str, **_: Any) -> Any:
            assert name == plugin.NAME

            def take(function: Any) -> None:
                setattr(held, part, function)
                module.op.crn_fast = SimpleNamespace(apply_concat=held)

            return take

        return decorate

    class TensorDesc:
        def __init__(self, shape_expr: list[Number]) -> None:
            self.shape_expr = shape_expr

        def like(self) -> TensorDesc:
            return TensorDesc(list(self.shape_expr))

    module: Any = SimpleNamespace(
        op=SimpleNamespace(),
        register=keep("register_func"),
        autotune=keep("autotune_func"),
        aot_impl=keep("aot_impl_func"),
        TensorDesc=TensorDesc,
        AutoTuneCombination=lambda types, layouts: (types, layouts),
        KernelLaunchParams=SimpleNamespace,
        SymInt32=Number,
        SymIntExprs=SimpleNamespace(from_tuple=list),
        cdiv=lambda a, b: Number(-(-int(a) // b)),
    )
    return module


@pytest.fixture
def real(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The package's own `tensorrt.plugin`, over libraries whose functions do nothing."""
    if importlib.util.find_spec("tensorrt_bindings") is None:
        pytest.skip("needs tensorrt_cu13_bindings or tensorrt_cu12_bindings")
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    folder = Path(importlib.util.find_spec("tensorrt_bindings").origin or "").parent
    needed = re.findall(
        rb"lib(?:nvinfer|nvinfer_plugin|nvonnxparser)\.so\.\d+",
        (folder / "tensorrt.so").read_bytes(),
    )
    names = (
        "createInferBuilder_INTERNAL createInferRefitter_INTERNAL createInferRuntime_INTERNAL "
        "createNvOnnxParserRefitter_INTERNAL createNvOnnxParser_INTERNAL getBuilderPluginRegistry "
        "getNvOnnxParserVersion getPluginRegistry initLibNvInferPlugins"
    )
    (tmp_path / "empty.c").write_text(
        "".join(f"void *{name}(void) {{ return 0; }}\n" for name in names.split())
    )
    for library in {name.decode() for name in needed}:
        made = tmp_path / library
        subprocess.run(
            [
                compiler,
                "-shared",
                "-fPIC",
                f"-Wl,-soname,{library}",
                "-o",
                made,
                tmp_path / "empty.c",
            ],
            check=True,
        )
        ctypes.CDLL(str(made), ctypes.RTLD_GLOBAL)
    bindings = importlib.import_module("tensorrt_bindings")
    monkeypatch.setitem(sys.modules, "tensorrt", bindings)
    own = importlib.import_module("tensorrt_bindings.plugin")
    monkeypatch.setitem(sys.modules, "tensorrt.plugin", own)
    return own


def compiled_stand_in(features: int, classes: int, half_pixel: bool, arch: int) -> plugin.Compiled:
    assert (features, classes, half_pixel, arch) == (19, 12, True, 89)
    return plugin.Compiled("kernel", "ptx", 256, 1024)


def test_registration_and_launch(monkeypatch: pytest.MonkeyPatch) -> None:
    plugins = stand_in()
    plugin.register(plugins)
    plugin.register(plugins)
    held = plugins.op.crn_fast.apply_concat
    descs = [
        plugins.TensorDesc([Number(n) for n in shape])
        for shape in ((2, 19, 6, 10), (2, 19, 1, 1), (2, 19, 1, 1), (2, 12, 12, 20))
    ]
    assert held.register_func(*descs, 1).shape_expr == [2, 31, 12, 20]
    assert held.autotune_func(*descs, 1, ()) == [
        ("FP16, FP32, FP32, FP16, FP16", "HWC8, LINEAR, LINEAR, HWC8, HWC8")
    ]
    monkeypatch.setattr(plugin, "compiled", compiled_stand_in)
    monkeypatch.setattr(plugin.driver, "capability", lambda: (8, 9))
    name, ptx, launch, numbers = held.aot_impl_func(*descs, 1, (), 0)
    assert (name, ptx, numbers) == (b"kernel", b"ptx", [12, 20])
    blocks = -(-12 * 20 // plugin.PIXELS)
    assert (launch.grid_x, launch.grid_y, launch.grid_z) == (blocks, 1, 2)
    assert (launch.block_x, launch.shared_mem) == (256, 1024)


def test_tensorrt_s_own_module_takes_it(real: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Signatures, types and formats pass its checks; its plugin class calls ours for a launch."""
    trt: Any = sys.modules["tensorrt"]
    plugin.register(real)
    plugin.register(real)
    from tensorrt_bindings.plugin._lib import QDP_REGISTRY
    from tensorrt_bindings.plugin._tensor import ShapeExprs, SymIntExpr

    held = QDP_REGISTRY[plugin.NAME]
    assert held.input_tensor_names == ["raw", "scale", "shift", "layout"]
    assert held.input_attrs == {"half_pixel": int} and held.num_outputs == 1

    class Known(trt.IDimensionExpr):  # type: ignore[misc]
        """A known number: made without the constructor that TensorRT keeps to itself."""

        value: int

        def is_constant(self) -> bool:
            return True

        def get_constant_value(self) -> int:
            return self.value

    def known(value: int) -> Any:
        made = Known.__new__(Known)
        made.value = value
        return made

    operations = {
        trt.DimensionOperation.SUM: lambda a, b: a + b,
        trt.DimensionOperation.PROD: lambda a, b: a * b,
        trt.DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
    }
    builder = SimpleNamespace(
        constant=known, operation=lambda op, a, b: known(operations[op](a.value, b.value))
    )
    monkeypatch.setattr(SymIntExpr, "_exprBuilder", builder)
    shapes = ((2, 19, 6, 10), (2, 19, 1, 1), (2, 19, 1, 1), (2, 12, 12, 20))
    types = (trt.float16, trt.float32, trt.float32, trt.float16)
    descs = [
        real.TensorDesc(ShapeExprs.from_tuple(shape), dtype)
        for shape, dtype in zip(shapes, types, strict=True)
    ]
    out = held.register_func(*descs, 1)
    assert [size.constant_value() for size in out.shape_expr] == [2, 31, 12, 20]
    assert out.dtype == trt.float16
    (combination,) = held.autotune_func(*descs, 1, (out,))
    assert isinstance(combination, real.AutoTuneCombination)
    (found,) = combination._get_combinations()
    assert found.types == [trt.float16, trt.float32, trt.float32, trt.float16, trt.float16]
    linear, hwc8 = trt.TensorFormat.LINEAR, trt.TensorFormat.HWC8
    assert found.layouts == [hwc8, linear, linear, hwc8, hwc8]
    monkeypatch.setattr(plugin, "compiled", compiled_stand_in)
    monkeypatch.setattr(plugin.driver, "capability", lambda: (8, 9))
    name, ptx, launch, numbers = held.aot_impl_func(*descs, 1, (out,), 0)
    assert (name, ptx) == (b"kernel", b"ptx")
    assert isinstance(launch, real.KernelLaunchParams)
    assert [number._expr.get_constant_value() for number in numbers] == [12, 20]
    fields = ("grid_x", "grid_y", "grid_z", "block_x", "shared_mem")
    blocks = -(-12 * 20 // plugin.PIXELS)
    values = [getattr(launch, field)._expr.get_constant_value() for field in fields]
    assert values == [blocks, 1, 2, 256, 1024]


def test_the_network_with_the_plugin_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """The op table hands raw maps, scales and layouts to the plugin, and takes what it gives."""
    trt = pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX to define a network")
    from crn_fast.trt import network as networks
    from crn_fast.trt.flavour import Flavour, logger
    from crn_fast.weights import arrange

    plugins = stand_in()
    monkeypatch.setattr(plugin, "import_module", lambda name: plugins)
    calls: list[tuple[Any, ...]] = []

    class Ops(plugin.PluginOps):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            plugin.register(plugins)
            own = self.network

            def call(raw: Any, scale: Any, shift: Any, layout: Any, half_pixel: int) -> Any:
                calls.append(tuple(tuple(x.shape) for x in (raw, scale, shift, layout)))
                assert half_pixel == 1 and raw.dtype == layout.dtype == trt.float16
                return raw, layout

            plugins.op.crn_fast.apply_concat = call

            class Network:
                """RTX's, with TensorRT's `add_plugin`: here the concatenation of two resizes."""

                def __getattr__(self, name: str) -> Any:
                    return getattr(own, name)

                def add_plugin(self, given: Any, aot: bool) -> Any:
                    assert aot
                    raw, layout = given
                    larger = own.add_resize(raw)
                    larger.scales = (1, 1, 2, 2)
                    both = own.add_concatenation([larger.get_output(0), layout])
                    both.axis = 1
                    return both

            self.network = Network()

    builder = trt.Builder(logger(trt))
    network = Flavour(trt, "tensorrt_rtx", trt.__version__).create_network(builder)
    weights = arrange(tiny.SPEC, tiny.make_checkpoint().tensors)
    _alive = networks.define(trt, network, tiny.SPEC, weights, "fp16", 1, Ops)
    assert calls == [
        ((1, 7, 3, 5), (1, 7, 1, 1), (1, 7, 1, 1), (1, 12, 6, 10)),
        ((1, 6, 6, 10), (1, 6, 1, 1), (1, 6, 1, 1), (1, 12, 12, 20)),
    ]
    assert tuple(network.get_output(0).shape) == (1, tiny.SPEC.images, *tiny.SPEC.size, 3)
