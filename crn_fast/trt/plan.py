"""What is inside a TensorRT plan: its kernels and tensors, read from the text that it holds.

TensorRT's own inspector needs a GPU. A plan of TensorRT-RTX describes each kernel of its compiler
and each tensor in plain text; this reads that, for people and for tests. The text is no format that
NVIDIA promises: a plan in which nothing is found gives an empty `Plan`.
"""

from __future__ import annotations

import re
from math import prod
from typing import NamedTuple

_TEXT = re.compile(rb"[ -~]{12,}")
_TENSOR = re.compile(r'\b(?:sub_)?tensor=\{.*?dims=\{ ?([\d ]*)\}.*?name="([^"]+)".*?\btype=(\w+)')
_KERNEL = re.compile(r"\bfunction=\{ name=(\S+)")
_LIBRARY = re.compile(r'\b(\w+)=\{ name="([^"]*)" output=\{([^}]*)\} input=\{([^}]*)\}')
_LIBRARY_NAMES = {"corrltn": "convolution", "avgpool": "pooling"}
_QUOTED = re.compile(r'"([^"]+)"')
_BYTES = {"fp8_e4m3": 1, "half": 2, "bf16": 2, "float": 4}
_BYTES |= {"uint8": 1, "bool": 1, "int32": 4, "int64": 8}


class Tensor(NamedTuple):
    dtype: str
    """'half', 'bf16', 'fp8_e4m3', 'float', 'uint8', ..."""
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * _BYTES.get(self.dtype, 4)


class Kernel(NamedTuple):
    name: str
    """As the compiler made it of what it fused, 'CastAddSqrt...', 'convolution' or 'pooling'."""
    label: str
    """Of a convolution or pooling its layer's name in the network; else ''."""
    blocks: int
    """Of its grid; 0 where the plan leaves it open."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    @property
    def bytes(self) -> int:
        """Read and written, each tensor once; weights included."""
        return sum(tensor.bytes for tensor in (*self.inputs, *self.outputs))


class Plan(NamedTuple):
    kernels: tuple[Kernel, ...]
    """In order of execution."""
    workspace: int
    """Bytes of device memory for activations; 0 where the plan does not say."""
    accelerators: tuple[str, ...]
    """'sm80', ..."""


def read(blob: bytes) -> Plan:
    """Read a plan's text."""
    lines = [line.decode() for line in _TEXT.findall(blob)]
    tensors = {
        found[2]: Tensor(found[3], tuple(map(int, found[1].split())))
        for line in lines
        if (found := _TENSOR.search(line))
    }

    def known(names: str) -> tuple[Tensor, ...]:
        return tuple(tensors[name] for name in _QUOTED.findall(names) if name in tensors)

    kernels = []
    for line in lines:
        if found := _KERNEL.search(line):
            grid = re.search(r"grid = \{([\d ]*)\}", line)
            kernels.append(
                Kernel(
                    found[1].removeprefix("__myl_"),
                    "",
                    prod(map(int, grid[1].split())) if grid and grid[1].split() else 0,
                    *(known(_field(line, name)) for name in ("input_args", "output_args")),
                )
            )
        elif found := _LIBRARY.search(line):
            name = _LIBRARY_NAMES.get(found[1], found[1])
            kernels.append(Kernel(name, found[2], 0, known(found[4]), known(found[3])))
    workspace = [int(size) for size in re.findall(rb"name=devmem size=(\d+)", blob)]
    targets = {
        sm for group in re.findall(rb"accelerators=\{([^}]*)\}", blob) for sm in group.split()
    }
    return Plan(
        tuple(kernels),
        max(workspace, default=0),
        tuple(sorted(sm.decode() for sm in targets)),
    )


def _field(line: str, name: str) -> str:
    found = re.search(rf"\b{name}=\{{([^}}]*)\}}", line)
    return found[1] if found else ""
