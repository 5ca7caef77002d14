"""A compiler that makes no machine code, and a GPU that runs what it made in Triton's interpreter.

What stands for a cubin says which kernel it is, the types of its arguments and its constants. A
launch on the stand-in for the driver reads its parameters byte by byte by that signature, as the
machine code would, and runs the same `triton.jit` function.
"""

from __future__ import annotations

import ctypes
import json
import re
import struct
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

import cuda_stand_in

KERNELS: dict[str, Any] = {}
"""By name: those that were compiled in this process."""
SIZES = {"u8": 1, "fp8e4nv": 1, "fp16": 2, "bf16": 2, "fp32": 4, "i32": 4}
TILED = {"u8": 0, "fp8e4nv": 0, "fp16": 6, "fp32": 7, "bf16": 9}
BOX = re.compile(r"tensordesc<(\w+)\[([\d, ]+)\]>")
ROW = 128
"""Bytes of a box's row in shared memory: the compiler cuts wider boxes."""


def compile_launch(launch: Any, arch: int) -> Any:
    """Stands in for `ahead.compile_launch`."""
    from crn_fast.kernels.gpu import ahead

    signature, constants, _ = ahead.describe(launch)
    name = launch.kernel.__name__
    KERNELS[name] = launch.kernel
    descriptors = []
    for kind in signature.values():
        if found := BOX.fullmatch(kind):
            *outer, last = map(int, found[2].split(","))
            last = min(last, ROW // SIZES[found[1]])
            descriptors.append({"block_size": [*outer, last], "swizzle": 3, "fp4_padded": False})
    about = {"name": name, "signature": signature, "constants": constants, "arch": arch}
    about |= {"warps": launch.warps, "stages": launch.stages}
    metadata = SimpleNamespace(
        name=name,
        num_warps=launch.warps,
        shared=1024 * launch.stages,
        num_ctas=1,
        global_scratch_size=0,
        profile_scratch_size=0,
        launch_cooperative_grid=False,
        launch_pdl=False,
        tensordesc_meta=descriptors,
    )
    return SimpleNamespace(
        asm={"cubin": b"\x7fELF" + json.dumps(about).encode()}, metadata=metadata
    )


def player(machine: cuda_stand_in.Machine, interpret: bool = True) -> Callable[..., Any]:
    """What a launch does on `machine`; without `interpret` it only reads its parameters."""

    def play(
        cubin: bytes, name: str, sizes: tuple[int, ...], parameters: list[int]
    ) -> Callable[[], None]:
        about = json.loads(cubin[4:])
        assert name == about["name"]
        *grid, threads, shared = sizes
        assert (threads, shared) == (32 * about["warps"], 1024 * about["stages"])
        reader = Reader(machine, parameters)
        arguments = {
            argument: about["constants"].get(argument) if kind == "constexpr" else reader.read(kind)
            for argument, kind in about["signature"].items()
        }
        assert reader.read("hidden") == reader.read("hidden") == 0 and not reader.left

        def work() -> None:
            if interpret:
                live = {key: as_tensor(machine, value) for key, value in arguments.items()}
                KERNELS[name][tuple(grid)](**live)

        return work

    return play


class Pointer(SimpleNamespace):
    address: int
    kind: str


class Map(SimpleNamespace):
    found: cuda_stand_in.TensorMap
    kind: str
    shape: list[int]
    strides: list[int]
    block: list[int]


class Reader:
    """The parameters of one launch, from the first on."""

    def __init__(self, machine: cuda_stand_in.Machine, parameters: list[int]) -> None:
        self.machine, self.left = machine, parameters

    def bytes(self, size: int, alignment: int) -> bytes:
        address = self.left.pop(0)
        assert address % alignment == 0
        return ctypes.string_at(address, size)

    def read(self, kind: str) -> Any:
        if kind == "hidden":
            return struct.unpack("<Q", self.bytes(8, 8))[0]
        if kind.startswith("*"):
            address = struct.unpack("<Q", self.bytes(8, 8))[0]
            assert address % 16 == 0 and self.machine.at(address) is not None
            return Pointer(address=address, kind=kind[1:])
        if found := BOX.fullmatch(kind):
            block = [int(size) for size in found[2].split(",")]
            encoded = self.machine.maps[self.bytes(128, 64)]
            shape = [struct.unpack("<i", self.bytes(4, 4))[0] for _ in block]
            strides = [struct.unpack("<q", self.bytes(8, 8))[0] for _ in block]
            size = SIZES[found[1]]
            assert encoded.dtype == TILED[found[1]] and encoded.swizzle == 3
            assert encoded.shape == tuple(shape) and strides[-1] == 1
            assert encoded.strides == tuple(stride * size for stride in strides[:-1])
            assert encoded.box == (*block[:-1], min(block[-1], ROW // size))
            return Map(found=encoded, kind=found[1], shape=shape, strides=strides, block=block)
        return struct.unpack({"i32": "<i", "fp32": "<f"}[kind], self.bytes(4, 4))[0]


def as_tensor(machine: cuda_stand_in.Machine, value: Any) -> Any:
    """What the interpreter takes: tensors over the stand-in's memory, from an address on."""
    if isinstance(value, Map):
        from triton.tools.tensor_descriptor import TensorDescriptor

        base = as_tensor(machine, Pointer(address=value.found.address, kind=value.kind))
        return TensorDescriptor(base, value.shape, value.strides, value.block)
    if not isinstance(value, Pointer):
        return value
    import torch

    memory: np.ndarray = machine.at(value.address)
    size = SIZES[value.kind]
    types = {
        "u8": torch.uint8,
        "i32": torch.int32,
        "fp16": torch.float16,
        "bf16": torch.bfloat16,
        "fp32": torch.float32,
        "fp8e4nv": torch.float8_e4m3fn,
    }
    return torch.from_numpy(memory[: memory.size // size * size]).view(types[value.kind])
