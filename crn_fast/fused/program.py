"""A frame as data: every launch with its kernel and its arguments, as engine files hold it.

The tensors of an engine file, for each target `sm_NN`:

- `about`: uint8, JSON: precision, version of Triton, the table of measured tiles.
- `sm_NN.program`: uint8, JSON: what `Programs.to_bytes` gives.
- `sm_NN.cubin.I`: uint8, one compiled kernel each.
- `weight.NAME`: as kernels read them; bfloat16 and fp8 as their bytes.

Nothing here knows torch, Triton or the driver. `recording` makes programs, `parameters` packs their
arguments, `runtime` runs them. A program is checked whole before a driver sees a byte of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from crn_fast.errors import BadInput
from crn_fast.kernels.gpu.tuning import SHARED_MEMORY
from crn_fast.spec import CascadeSpec

MAX_BATCH = 64
"""Layouts at a time, of a program and of a checkpoint's frame."""
TARGETS = tuple(f"sm_{arch}" for arch in SHARED_MEMORY)
FLAG_BYTES = 256
"""Before the pictures, in what comes back with a frame: a flag of 32 bits, and room."""
LARGEST_GRID = (2**31 - 1, 65535, 65535)
"""CUDA C++ programming guide, table of limits; so are the next two."""
MOST_WARPS = 32
LARGEST_BOX = 256
ALIGNMENT = 16
"""Of every address, in bytes; kernels are compiled for it."""
SWIZZLES = (0, 1, 2, 3)
ELEMENTS = {0: 1, 6: 2, 7: 4, 9: 2}
"""CUtensorMapDataType -> bytes: uint8 (and fp8), float16, float32, bfloat16."""
PARAMETER = re.compile(r"ptr|i32|fp32|map[1-5]")
CUBIN = b"\x7fELF"


class Region(NamedTuple):
    """Bytes that a kernel may read or write."""

    where: str
    """'arena', 'labels', 'flag', 'pictures', or 'weight.NAME'"""
    start: int
    bytes: int


class Box(NamedTuple):
    """A region that a kernel reads or writes box by box: what its tensor map is made of."""

    region: Region
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """in elements; the last one is 1"""
    box: tuple[int, ...]
    """of one copy, as the compiler cut it"""
    dtype: int
    """CUtensorMapDataType"""
    swizzle: int
    """CUtensorMapSwizzle"""


Argument = Region | Box | int | float


class Kernel(NamedTuple):
    cubin: int
    """number of its tensor"""
    name: str
    warps: int
    shared: int
    """bytes"""
    parameters: tuple[str, ...]
    """'ptr', 'i32', 'fp32', or 'map4' for a tensor map of four axes"""


class Launch(NamedTuple):
    kernel: int
    """number in `Programs.kernels`"""
    grid: tuple[int, int, int]
    arguments: tuple[Argument, ...]


@dataclass(frozen=True)
class Program:
    """What rendering a number of layouts launches."""

    layouts: int
    lean: bool
    """Of the two schedules for one layout the one that needs less memory."""
    arena: int
    """bytes"""
    launches: tuple[Launch, ...]


@dataclass(frozen=True)
class Programs:
    """All that one target runs."""

    kernels: tuple[Kernel, ...]
    programs: tuple[Program, ...]

    def to_bytes(self) -> bytes:
        plain = {
            "kernels": self.kernels,
            "programs": [
                {
                    "layouts": program.layouts,
                    "lean": program.lean,
                    "arena": program.arena,
                    "launches": [
                        (launch.kernel, launch.grid, [_plain(a) for a in launch.arguments])
                        for launch in program.launches
                    ],
                }
                for program in self.programs
            ],
        }
        return json.dumps(plain, separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, blob: bytes) -> Programs:
        """Read what `to_bytes` wrote.

        Raises:
            ValueError, TypeError, KeyError or RecursionError: it is something else.
        """
        plain = json.loads(blob)
        kernels = tuple(
            Kernel(_int(c), _text(n), _int(w), _int(s), tuple(map(_text, p)))
            for c, n, w, s, p in plain["kernels"]
        )
        programs = tuple(
            Program(
                _int(program["layouts"]),
                program["lean"] is True,
                _int(program["arena"]),
                tuple(
                    Launch(_int(kernel), _three(grid), tuple(map(_argument, arguments)))
                    for kernel, grid, arguments in program["launches"]
                ),
            )
            for program in plain["programs"]
        )
        return cls(kernels, programs)


def _plain(argument: Argument) -> Any:
    """Regions as lists, boxes as objects, so that each is told from a number."""
    return argument._asdict() if isinstance(argument, Box) else argument


def _argument(plain: Any) -> Argument:
    if isinstance(plain, dict):
        shape, strides, box = (
            tuple(map(_int, plain[name])) for name in ("shape", "strides", "box")
        )
        numbers = _int(plain["dtype"]), _int(plain["swizzle"])
        return Box(_region(plain["region"]), shape, strides, box, *numbers)
    if isinstance(plain, list):
        return _region(plain)
    return plain if isinstance(plain, float) else _int(plain)


def _region(plain: Any) -> Region:
    where, start, size = plain
    return Region(_text(where), _int(start), _int(size))


def _three(plain: Any) -> tuple[int, int, int]:
    x, y, z = plain
    return _int(x), _int(y), _int(z)


def _int(plain: Any) -> int:
    if type(plain) is not int:
        raise ValueError(f"{plain!r:.40} is no whole number")
    return plain


def _text(plain: Any) -> str:
    if not isinstance(plain, str):
        raise ValueError(f"{plain!r:.40} is no text")
    return plain


def region_sizes(
    spec: CascadeSpec, program: Program, weights: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Bytes of every place that the program's regions may lie in."""
    pixels = program.layouts * spec.size[0] * spec.size[1]
    return {
        "arena": program.arena,
        "labels": pixels,
        "flag": 4,
        "pictures": pixels * spec.images * 3,
        **{name: array.nbytes for name, array in weights.items()},
    }


def read(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray], target: str) -> Programs:
    """A target's programs, checked: nothing in them lies outside of what they own.

    Raises:
        BadInput: they are damaged or not for this spec; `source` and what is wrong are named.
    """
    try:
        if packed[f"{target}.program"].dtype != np.uint8:
            raise ValueError("its type is not uint8")
        found = Programs.from_bytes(packed[f"{target}.program"].tobytes())
        _check(spec, packed, target, found)
        return found
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise BadInput(
            f"{source}: its program for {target} is damaged ({error}): build the engine again"
        ) from None


def _check(
    spec: CascadeSpec, packed: Mapping[str, np.ndarray], target: str, found: Programs
) -> None:
    """Raises ValueError or KeyError naming what is wrong."""
    weights = {name: array for name, array in packed.items() if name.startswith("weight.")}
    for i, kernel in enumerate(found.kernels):
        cubin = packed[f"{target}.cubin.{kernel.cubin}"]
        if cubin.dtype != np.uint8 or cubin.ndim != 1 or cubin[:4].tobytes() != CUBIN:
            raise ValueError(f"cubin {kernel.cubin} is no machine code")
        _expect(kernel.name.isidentifier() and kernel.name.isascii(), f"kernel {i}'s name")
        _expect(1 <= kernel.warps <= MOST_WARPS, f"kernel {i} has {kernel.warps} warps")
        limit = SHARED_MEMORY[int(target[3:])]
        _expect(0 <= kernel.shared <= limit, f"kernel {i} has {kernel.shared} B of shared memory")
        _expect(all(map(PARAMETER.fullmatch, kernel.parameters)), f"kernel {i}'s parameters")
    kinds = [(program.layouts, program.lean) for program in found.programs]
    _expect(bool(kinds) and len(set(kinds)) == len(kinds), "its numbers of layouts")
    for program in found.programs:
        _expect(1 <= program.layouts <= 1 << 16, f"{program.layouts} layouts")
        _expect(0 <= program.arena <= 1 << 44, f"{program.arena} bytes")
        sizes = region_sizes(spec, program, weights)
        _expect(bool(program.launches), "it launches nothing")
        for i, launch in enumerate(program.launches):
            where = f"launch {i} of {program.layouts} layouts"
            _expect(0 <= launch.kernel < len(found.kernels), f"{where}: no kernel {launch.kernel}")
            inside = all(1 <= n <= most for n, most in zip(launch.grid, LARGEST_GRID, strict=True))
            _expect(inside, f"{where}: grid {launch.grid}")
            kernel = found.kernels[launch.kernel]
            pairs = zip(kernel.parameters, launch.arguments, strict=True)
            for j, (parameter, argument) in enumerate(pairs):
                _check_argument(f"{where}, argument {j}", parameter, argument, sizes)


def _check_argument(where: str, parameter: str, argument: Argument, sizes: dict[str, int]) -> None:
    if isinstance(argument, Box):
        rank = len(argument.shape)
        _expect(parameter == f"map{rank}", f"{where} is a box; expected {parameter}")
        _expect(len(argument.strides) == len(argument.box) == rank, f"{where}: axes")
        element = ELEMENTS[argument.dtype]
        _expect(argument.swizzle in SWIZZLES, f"{where}: swizzle {argument.swizzle}")
        _expect(all(1 <= n < 2**31 for n in argument.shape), f"{where}: shape {argument.shape}")
        _expect(all(1 <= n <= LARGEST_BOX for n in argument.box), f"{where}: box {argument.box}")
        *outer, last = argument.strides
        multiple = all(n > 0 and n * element % ALIGNMENT == 0 for n in outer)
        _expect(last == 1 and multiple, f"{where}: strides {argument.strides}")
        steps = zip(argument.shape, argument.strides, strict=True)
        extent = (sum((size - 1) * stride for size, stride in steps) + 1) * element
        _expect(extent <= argument.region.bytes, f"{where} is larger than its region")
        _check_region(where, argument.region, sizes)
    elif isinstance(argument, Region):
        _expect(parameter == "ptr", f"{where} is a region; expected {parameter}")
        _check_region(where, argument, sizes)
    elif isinstance(argument, float):
        _expect(parameter == "fp32", f"{where} is {argument}; expected {parameter}")
        _expect(abs(argument) < 3.4e38, f"{where} is {argument}")
    else:
        _expect(parameter == "i32", f"{where} is {argument}; expected {parameter}")
        _expect(-(2**31) <= argument < 2**31, f"{where} is {argument}")


def _check_region(where: str, region: Region, sizes: dict[str, int]) -> None:
    _expect(region.where in sizes, f"{where}: there is no {region.where!r:.60}")
    size = sizes[region.where]
    inside = region.start >= 0 and region.bytes >= 0 and region.start + region.bytes <= size
    _expect(inside, f"{where}: {region} is outside of its {size} bytes")
    _expect(region.start % ALIGNMENT == 0, f"{where}: {region} is not aligned")


def _expect(right: bool, wrong: str) -> None:
    if not right:
        raise ValueError(wrong)


def used(target: str, programs: Programs) -> set[str]:
    """The names of all tensors that a target's programs need."""
    names = {f"{target}.program"} | {f"{target}.cubin.{k.cubin}" for k in programs.kernels}
    for program in programs.programs:
        for launch in program.launches:
            for argument in launch.arguments:
                region = argument.region if isinstance(argument, Box) else argument
                if isinstance(region, Region) and region.where.startswith("weight."):
                    names.add(region.where)
    return names
