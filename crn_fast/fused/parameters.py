"""A launch's arguments as the bytes that its kernel reads: the order is that of Triton's launchers.

Of a kernel's arguments those that are compile-time constants or None are gone. A pointer is 8
bytes, int32 and float32 are 4. A descriptor becomes a CUtensorMap of 128 bytes, then its shape as
int32 and its strides as int64, outermost axis first. Two hidden pointers end the list: scratch
memory of the kernel, and of profilers; programs hold no kernel that uses either. Read in
triton/backends/nvidia/driver.py and driver.c of 3.6.0, 3.7.1 and 3.9.0, which agree.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Sequence
from typing import Any

from crn_fast.cuda.library import MAP_ALIGNMENT, MAP_BYTES
from crn_fast.fused.program import Argument, Box, Kernel, Region

SCRATCH_POINTERS = 2


def expand(parameters: Sequence[str]) -> list[tuple[int, int]]:
    """Size and alignment, in bytes, of each parameter of the machine code."""
    found: list[tuple[int, int]] = []
    for parameter in parameters:
        if parameter.startswith("map"):
            rank = int(parameter[3:])
            found += [(MAP_BYTES, MAP_ALIGNMENT), *[(4, 4)] * rank, *[(8, 8)] * rank]
        else:
            found.append((8, 8) if parameter == "ptr" else (4, 4))
    return [*found, *[(8, 8)] * SCRATCH_POINTERS]


def values(
    arguments: Sequence[Argument],
    address: Callable[[Region], int],
    encode: Callable[[int, Box], bytes],
) -> list[bytes]:
    """Each parameter's bytes.

    Args:
        arguments: of a checked launch.
        address: of a region on the device.
        encode: gives the 128 bytes of a box's tensor map, from its address.
    """
    found: list[bytes] = []
    for argument in arguments:
        if isinstance(argument, Box):
            found.append(encode(address(argument.region), argument))
            found += [struct.pack("<i", size) for size in argument.shape]
            found += [struct.pack("<q", stride) for stride in argument.strides]
        elif isinstance(argument, Region):
            found.append(struct.pack("<Q", address(argument)))
        else:
            found.append(struct.pack("<f" if isinstance(argument, float) else "<i", argument))
    return [*found, *[bytes(8)] * SCRATCH_POINTERS]


class Parameters:
    """The array of pointers that cuLaunchKernel takes, and what they point to."""

    def __init__(self, kernel: Kernel, found: Sequence[bytes]) -> None:
        layout = expand(kernel.parameters)
        assert [len(value) for value in found] == [size for size, _ in layout]
        starts, end = [], 0
        for size, alignment in layout:
            starts.append(-(-end // alignment) * alignment)
            end = starts[-1] + size
        self._room = ctypes.create_string_buffer(end + MAP_ALIGNMENT)
        base = ctypes.addressof(self._room)
        base += -base % MAP_ALIGNMENT
        for start, value in zip(starts, found, strict=True):
            ctypes.memmove(base + start, value, len(value))
        pointers: Any = ctypes.c_void_p * len(starts)
        self.pointers = pointers(*(base + start for start in starts))
