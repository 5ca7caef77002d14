"""Our Triton kernel inside a plan of TensorRT, as a quick plugin that is compiled ahead of time.

Norm, leaky ReLU, upsampling and concatenation become the kernel `apply_concat`; TensorRT does the
rest as in `network`. No build uses it by itself, as TensorRT was never here to run it: to try it,
`network.define(..., table=PluginOps)`. TensorRT-RTX has no plugins.

TensorRT calls a quick plugin's kernel with its input pointers, 32-bit integers and output pointers.
Triton adds two pointers for scratch memory to every kernel; they are taken out of the PTX here, for
this kernel uses neither.

Source: tensorrt/plugin of the package tensorrt_cu13_bindings 11.4.0.
"""

from __future__ import annotations

import re
from importlib import import_module
from typing import Any, NamedTuple

from crn_fast.cuda import driver
from crn_fast.trt.network import Features, TensorRTOps

NAME = "crn_fast::apply_concat"
PIXELS, CHANNELS, WARPS = 32, 128, 8
"""Of one block of threads: a tile of the result, and its warps."""
ARGUMENTS = ("*fp16", "*fp32", "*fp32", "*fp16", "i32", "i32", "*fp16")
"""Of the kernel, by Triton's names: inputs, the result's height and width, output."""


class Compiled(NamedTuple):
    name: str
    """Of the entry in the PTX."""
    ptx: str
    threads: int
    shared: int
    """Bytes of shared memory."""


class PluginOps(TensorRTOps):
    """The op table with the plugin in it."""

    def _concatenated(self, features: Features, layout: Any, upsampling: str) -> Any:
        plugins = import_module("tensorrt.plugin")
        register(plugins)
        call = plugins.op.crn_fast.apply_concat(
            features.raw, features.scale, features.shift, layout, int(upsampling == "half_pixel")
        )
        layer = self.network.add_plugin(call, aot=True)
        return self._add("apply_concat", layer).get_output(0)


def register(plugins: Any) -> None:
    """Make the plugin known to the module `tensorrt.plugin`, once."""
    if hasattr(getattr(plugins.op, "crn_fast", None), "apply_concat"):
        return

    def describe(raw: Any, scale: Any, shift: Any, layout: Any, half_pixel: Any) -> Any:
        out = layout.like()
        out.shape_expr[1] = raw.shape_expr[1] + layout.shape_expr[1]
        return out

    def tune(
        raw: Any, scale: Any, shift: Any, layout: Any, half_pixel: Any, outputs: Any
    ) -> list[Any]:
        types, layouts = "FP16, FP32, FP32, FP16, FP16", "HWC8, LINEAR, LINEAR, HWC8, HWC8"
        return [plugins.AutoTuneCombination(types, layouts)]

    def compile_ahead(
        raw: Any,
        scale: Any,
        shift: Any,
        layout: Any,
        half_pixel: Any,
        outputs: Any,
        tactic: Any,
    ) -> tuple[bytes, bytes, Any, Any]:
        n, _, height, width = (layout.shape_expr[i] for i in range(4))
        features, classes = (int(x.shape_expr[1].constant_value()) for x in (raw, layout))
        major, minor = driver.capability() or (8, 0)
        made = compiled(features, classes, bool(half_pixel), 10 * major + minor)
        launch = plugins.KernelLaunchParams()
        launch.grid_x = plugins.cdiv(height * width, PIXELS)
        launch.grid_y = -(-(features + classes) // CHANNELS)
        launch.grid_z = n
        launch.block_x, launch.shared_mem = made.threads, made.shared
        numbers = plugins.SymIntExprs.from_tuple(
            [plugins.SymInt32(height), plugins.SymInt32(width)]
        )
        return made.name.encode(), made.ptx.encode(), launch, numbers

    tensor: Any = plugins.TensorDesc
    some: Any = tuple.__class_getitem__(tensor)
    given = {**dict.fromkeys(("raw", "scale", "shift", "layout"), tensor), "half_pixel": int}
    # TensorRT reads the types of arguments, and must not find text.
    describe.__annotations__ = {**given, "return": tensor}
    tune.__annotations__ = {**given, "outputs": some}
    tune.__annotations__["return"] = list.__class_getitem__(plugins.AutoTuneCombination)
    compile_ahead.__annotations__ = {**given, "outputs": some, "tactic": int}
    result = (bytes, bytes, plugins.KernelLaunchParams, plugins.SymIntExprs)
    compile_ahead.__annotations__["return"] = tuple.__class_getitem__(result)
    plugins.register(NAME, lazy_register=True)(describe)
    plugins.autotune(NAME)(tune)
    plugins.aot_impl(NAME)(compile_ahead)


def compiled(features: int, classes: int, half_pixel: bool, arch: int) -> Compiled:
    """The kernel for maps of these channels, on sm_`arch`, with the parameters TensorRT passes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    from crn_fast.kernels.gpu.apply_concat import apply_concat_kernel as kernel

    constants = {
        "FEATURES": features,
        "CLASSES": classes,
        "UPSAMPLING": "half_pixel" if half_pixel else "align_corners",
        "BP": PIXELS,
        "BC": CHANNELS,
    }
    passed = dict(zip(kernel.arg_names, ARGUMENTS, strict=False))
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, kind in enumerate(ARGUMENTS) if kind[0] == "*"
    }
    source = ASTSource(
        fn=kernel,
        signature={**passed, **dict.fromkeys(constants, "constexpr")},
        constexprs=constants,
        attrs=aligned,
    )
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": WARPS})
    name = made.metadata.name
    assert not made.metadata.global_scratch_size
    ptx = without_scratch(made.asm["ptx"], name)
    return Compiled(name, ptx, 32 * made.metadata.num_warps, made.metadata.shared)


def without_scratch(ptx: str, name: str) -> str:
    """The PTX of a kernel that takes ARGUMENTS and nothing more."""
    for i in (len(ARGUMENTS), len(ARGUMENTS) + 1):
        ptx, number = re.subn(rf",\s*\.param [^,)]*\b{name}_param_{i}\b", "", ptx, count=1)
        assert number == 1 and f"{name}_param_{i}" not in ptx, "the scratch pointer is used"
    return ptx
