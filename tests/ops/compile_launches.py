"""A script: compile what rendering one layout would launch, and print what came out, line by line.

A process of its own, as the tests' process may have Triton's interpreter switched on.

    python compile_launches.py ARCH PRESET PRECISION UPSAMPLING all|largest|convolutions|specialised

ARCH is that of an NVIDIA GPU, such as 90, or an AMD one, such as gfx942, which gets the tiles of
sm_80; gfx1100 with one stage, as it spills registers with more. The last word chooses all launches,
the largest of each kernel, of those the convolutions, or convolutions with specialised tiles.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from math import prod
from typing import Any

from crn_fast.fused import frame, packed
from crn_fast.fused.ops import Choices
from crn_fast.kernels.gpu import ahead
from crn_fast.kernels.gpu.queue import Launch
from crn_fast.kernels.gpu.tuning import Shape, Tile, choose
from crn_fast.spec import PRESETS


class Specialised(Choices):
    """Specialised tiles wherever there can be some: with features, and not beside ids."""

    def tile(self, stage: int, conv: str, weights: Any) -> tuple[Shape, Tile]:
        shape, _ = super().tile(stage, conv, weights)
        if not shape.inputs or (shape.classes and stage == len(self.spec.stages) - 1):
            return shape, choose(dataclasses.replace(shape, upsampling="none"), self.arch)
        outputs = min(256, 1 << (shape.outputs - 1).bit_length())
        stages = 3 if outputs == 256 else 4
        return shape, Tile(
            "apply", 8, 16, outputs, depth=64, warps=8, stages=stages, tma=True, specialised=True
        )


def launches(arch: int, preset: str, precision: str, upsampling: Any, which: str) -> list[Launch]:
    """What one layout of a preset's network launches on sm_`arch`."""
    spec = dataclasses.replace(PRESETS[preset], upsampling=upsampling)
    choices = (Specialised if which == "specialised" else Choices)(spec, arch, precision, {})
    weights = choices.fold(packed.blank(spec, precision))
    return frame.rehearse(choices, weights, 1).launches


def distinct(found: list[Launch]) -> list[Launch]:
    """One launch for each piece of machine code."""
    unique = {
        repr((launch.kernel.__name__, ahead.describe(launch), launch.warps, launch.stages)): launch
        for launch in found
    }
    return list(unique.values())


def largest(found: list[Launch]) -> list[Launch]:
    """Of each kernel the launch with the most work; of convolutions by what layout is beside."""
    chosen: dict[Any, tuple[int, Launch]] = {}
    for launch in found:
        arguments = launch.arguments
        tiles = arguments["tiles"] if arguments.get("STAGES") else prod(launch.grid)
        work = tiles * arguments.get("INPUTS", 1) * arguments.get("BN", 1)
        beside = "layout" if arguments.get("STAGES") and arguments["CLASSES"] else ""
        key = (launch.kernel.__name__, "ids" if arguments.get("IDS") else beside)
        if key not in chosen or work > chosen[key][0]:
            chosen[key] = (work, launch)
    return [launch for _, launch in chosen.values()]


def row(launch: Launch, arch: int | str) -> dict[str, Any]:
    launch = launch._replace(stages=1) if arch == "gfx1100" else launch
    compiled = ahead.compile_launch(launch, arch)
    machine = ahead.inspect(compiled)
    ints = {k: v for k, v in launch.arguments.items() if isinstance(v, (int, str))}
    products = re.findall(r"warp_group_dot .*?\}?\s*:\s*(\S+?)<", compiled.asm["ttgir"])
    return {
        "kernel": launch.kernel.__name__,
        "arguments": ints,
        "registers": machine.registers,
        "stack": machine.stack,
        "shared": machine.shared,
        "instructions": sorted(machine.instructions),
        "left_operands": products,
    }


def main() -> None:
    name, preset, precision, upsampling, which = sys.argv[1:]
    arch = int(name) if name.isdigit() else name
    tiles_of = arch if isinstance(arch, int) else 80
    found = distinct(launches(tiles_of, preset, precision, upsampling, which))
    chosen = found if which == "all" else largest(found)
    if start := {"convolutions": "convolve", "specialised": "convolve_specialised"}.get(which):
        chosen = [launch for launch in chosen if launch.kernel.__name__.startswith(start)]
    for launch in chosen:
        print(json.dumps(row(launch, arch)), flush=True)


if __name__ == "__main__":
    main()
