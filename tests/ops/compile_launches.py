"""A script: compile what rendering one layout would launch, and print what came out, line by line.

A process of its own, as the tests' process may have Triton's interpreter switched on.

    python compile_launches.py ARCH PRESET PRECISION UPSAMPLING all|largest|convolutions
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
from crn_fast.spec import PRESETS


def launches(arch: int, preset: str, precision: str, upsampling: Any) -> list[Launch]:
    """What one layout of a preset's network launches on sm_`arch`."""
    spec = dataclasses.replace(PRESETS[preset], upsampling=upsampling)
    choices = Choices(spec, arch, precision, {})
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
    """Of each kernel the launch with the most work, and of convolutions the last one, with ids."""
    chosen = {}
    for launch in found:
        arguments = launch.arguments
        last = "ids" if arguments.get("IDS") else ""
        work = prod(launch.grid) * arguments.get("INPUTS", 1) * arguments.get("BN", 1)
        key = (launch.kernel.__name__, last)
        if key not in chosen or work > chosen[key][0]:
            chosen[key] = (work, launch)
    return [launch for _, launch in chosen.values()]


def row(launch: Launch, arch: int) -> dict[str, Any]:
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
    arch, preset, precision, upsampling, which = sys.argv[1:]
    found = distinct(launches(int(arch), preset, precision, upsampling))
    chosen = found if which == "all" else largest(found)
    if which == "convolutions":
        chosen = [launch for launch in chosen if launch.kernel.__name__.startswith("convolve")]
    for launch in chosen:
        print(json.dumps(row(launch, int(arch))), flush=True)


if __name__ == "__main__":
    main()
