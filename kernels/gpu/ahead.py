"""Compiling recorded launches without a GPU, and what the machine code says of itself.

A `Queue` on the device `meta` records what the launchers would run; `compile_launch` turns one
record into PTX and a cubin for any architecture with the tools that Triton brings.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from inspect import signature as signature_of
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from crn_fast.kernels.gpu.descriptors import TYPES, described
from crn_fast.kernels.gpu.queue import Box, Launch

ALIGNED = [["tt.divisibility", 16]]
WAVES = {"gfx942": 64, "gfx1100": 32}
"""AMD architectures that launches are compiled for, and the threads of a wave."""


def compile_launch(launch: Launch, arch: int | str) -> Any:
    """What Triton makes of a launch for sm_`arch`, or for one of WAVES.

    `.asm` has ptx and cubin, or amdgcn and hsaco; `.metadata` the rest.

    Raises:
        RuntimeError or another error of Triton's: the kernel does not compile.
    """
    import triton
    from triton.backends.compiler import GPUTarget

    if launch.kernel.is_gluon():
        from triton.experimental.gluon._runtime import GluonASTSource as Source
    else:
        from triton.compiler import ASTSource as Source

    signature, constants, attributes = describe(launch)
    source = Source(fn=launch.kernel, signature=signature, constexprs=constants, attrs=attributes)
    target = GPUTarget("hip", arch, WAVES[arch]) if isinstance(arch, str) else None
    return triton.compile(
        source,
        target=target or GPUTarget("cuda", arch, 32),
        options={"num_warps": launch.warps, "num_stages": launch.stages},
    )


def describe(launch: Launch) -> tuple[dict[str, str], dict[str, Any], dict[tuple[int, ...], Any]]:
    """Types of a launch's arguments, its constants, and which arguments are multiples of 16.

    As Triton's own launcher would see them: a tensor from the queue is aligned to 16 bytes.
    """
    parameters = signature_of(launch.kernel.fn).parameters.values()
    constexprs = {p.name for p in parameters if "constexpr" in str(p.annotation)}
    signature: dict[str, str] = {}
    constants: dict[str, Any] = {}
    attributes: dict[tuple[int, ...], Any] = {}
    for i, name in enumerate(launch.kernel.arg_names):
        value = launch.arguments[name]
        if name in constexprs or value is None:
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, Box):
            signature[name] = described(value, launch.kernel)
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
    """What machine code needs and does."""

    registers: int
    """Of one thread."""
    stack: int
    """Bytes of local memory of one thread: registers that were spilled."""
    shared: int
    """Bytes of shared memory of one program."""
    instructions: frozenset[str]
    """Opcodes without their suffixes: HGMMA, QGMMA, UTMALDG, HMMA, LDGSTS, ...; v_mfma, v_wmma"""


def inspect(compiled: Any) -> Machine:
    """Read a compiled kernel's cubin with the tools that Triton brings, or AMD's assembly."""
    import triton

    shared = int(compiled.metadata.shared)
    if "amdgcn" in compiled.asm:
        text = compiled.asm["amdgcn"]
        counts = re.findall(r"^\s+\.(?:private_segment_fixed_size|vgpr_count):\s+(\d+)", text, re.M)
        stack, registers = map(int, counts)  # keys are in the order of the alphabet
        opcodes = re.findall(r"^\s+([a-z]+_[a-z0-9]+)", text, re.M)
        return Machine(registers, stack, shared, frozenset(opcodes))

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    with TemporaryDirectory() as folder:
        cubin = Path(folder) / "kernel.cubin"
        cubin.write_bytes(compiled.asm["cubin"])
        usage = _run(tools / "cuobjdump", "--dump-resource-usage", cubin)
        sass = _run(tools / "nvdisasm", "-c", cubin)
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    assert found is not None, usage
    opcodes = re.findall(r"^\s+(?:/\*\w+\*/\s+)?(?:@!?U?P\w+\s+)?([A-Z][A-Z0-9_]*)", sass, re.M)
    return Machine(int(found[1]), int(found[2]), shared, frozenset(opcodes))


def _run(*command: Any) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout
