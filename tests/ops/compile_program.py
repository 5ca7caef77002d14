"""A script: compile a small network's programs with Triton's own compiler, and compare parameters.

A process of its own, as the tests' process may have Triton's interpreter switched on. Prints, as
JSON by target, each kernel's parameters as the PTX declares them and as `crn_fast.fused.parameters`
packs them, and the programs' boxes; the programs must pass their check.

    python compile_program.py TARGET...
"""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np

import tiny
from crn_fast.backends import fused
from crn_fast.fused import parameters, program, recording
from crn_fast.kernels.gpu import ahead
from crn_fast.spec import CascadeSpec

SPEC = CascadeSpec(widths=(16, 16), base=(8, 16), classes=12, images=2)
PARAM = re.compile(
    r"\.param\s+(?:\.align (\d+)\s+)?\.(b8|u64|u32|f32|s32|b32|b64)\b[^,\n\[]*(?:\[(\d+)\])?"
)
SIZES = {"u64": 8, "b64": 8, "u32": 4, "s32": 4, "b32": 4, "f32": 4}


def declared(ptx: str) -> list[tuple[int, int]]:
    """Size and alignment of each parameter of the kernel in `ptx`."""
    entry = re.search(r"\.visible \.entry \w+\(\s*(.*?)\n\)", ptx, re.S)
    assert entry is not None
    found = []
    for line in entry[1].splitlines():
        match = PARAM.search(line)
        assert match is not None, line
        align, kind, count = match.groups()
        size = int(count) if kind == "b8" else SIZES[kind]
        found.append((size, int(align) if kind == "b8" else size))
    return found


def main() -> None:
    compiled: list[Any] = []
    compile_launch = ahead.compile_launch

    def keep(launch: Any, arch: int) -> Any:
        made = compile_launch(launch, arch)
        compiled.append((launch, made))
        return made

    ahead.compile_launch = keep
    found = {}
    for target in sys.argv[1:]:
        compiled.clear()
        packed = fused.pack(SPEC, tiny.calm_checkpoint(SPEC).tensors, "fp16", targets=(target,))
        fused.check("net.crn", SPEC, packed)
        found[target] = {"rows": rows_of(compiled), "boxes": boxes_of(packed, target)}
    print(json.dumps(found))


def rows_of(compiled: list[tuple[Any, Any]]) -> list[dict[str, Any]]:
    """Of each kernel its name, and its parameters as declared and as packed."""
    rows = []
    for launch, kernel in compiled:
        held = recording._kernel(launch, kernel.metadata, 0)
        rows.append(
            {
                "kernel": held.name,
                "declared": declared(kernel.asm["ptx"]),
                "packed": parameters.expand(held.parameters),
            }
        )
    return rows


def boxes_of(packed: dict[str, np.ndarray], target: str) -> list[Any]:
    """Type, swizzle, box and shape of each tensor map of the first program."""
    found = program.read("net.crn", SPEC, packed, target)
    return [
        (a.dtype, a.swizzle, a.box, a.shape)
        for launch in found.programs[0].launches
        for a in launch.arguments
        if isinstance(a, program.Box)
    ]


if __name__ == "__main__":
    main()
