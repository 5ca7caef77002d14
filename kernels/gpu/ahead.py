"""Compiling recorded launches without a GPU, and what the machine code says of itself.

A `Queue` on the device `meta` records what the launchers would run; `compile_launch` turns one
record into PTX and a cubin for any architecture with the tools that Triton brings.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from crn_fast.kernels.gpu.queue import Box, Launch

TYPES = {
    torch.uint8: "u8",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
}
ALIGNED = [["tt.divisibility", 16]]


def compile_launch(launch: Launch, arch: int) -> Any:
    """What Triton makes of a launch for sm_`arch`: `.asm` has ptx and cubin, `.metadata` the rest.

    Raises:
        RuntimeError or another error of Triton's: the kernel does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    signature, constants, attributes = describe(launch)
    source = ASTSource(
        fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes
    )
    return triton.compile(
        source,
        target=GPUTarget("cuda", arch, 32),
        options={"num_warps": launch.warps, "num_stages": launch.stages},
    )


def describe(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int, ...], Any]]:
    """Types of a launch's arguments, its constants, and which arguments are multiples of 16.

    As Triton's own launcher would see them: a tensor from the queue is aligned to 16 bytes.
    """
    constexprs = {parameter.name for parameter in launch.kernel.params if parameter.is_constexpr}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if name in constexprs or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Box):
            shape = ", ".join(map(str, value.shape))
            signature[name] = f"tensordesc<{TYPES[value.tensor.dtype]}[{shape}]>"
        elif isinstance(value, torch.Tensor):
            signature[name], attributes[(i,)] = f"*{TYPES[value.dtype]}", ALIGNED
        elif isinstance(value, float):
            signature[name] = "fp32"
        else:
            signature[name] = "i32"
            if value % 16 == 0:
                attributes[(i,)] = ALIGNED
    return signature, constants, attributes


@dataclass(frozen=True)
class Machine:
    """What a cubin needs and does."""

    registers: int
    """Of one thread."""
    stack: int
    """Bytes of local memory of one thread: registers that were spilled."""
    shared: int
    """Bytes of shared memory of one program."""
    instructions: frozenset[str]
    """SASS opcodes without their suffixes: HGMMA, QGMMA, UTMALDG, HMMA, LDGSTS, ..."""


def inspect(compiled: Any) -> Machine:
    """Read a compiled kernel's cubin with the tools that Triton brings."""
    import triton

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", cubin)
        sass = _run(tools / "nvdisasm", "-c", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    opcodes = re.findall(r"^\s+(?:/\*\w+\*/\s+)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", sass, re.M)
    return Machine(int(found[1]), int(found[2]), int(compiled.metadata.shared), frozenset(opcodes))


def _run(*command: Any) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
