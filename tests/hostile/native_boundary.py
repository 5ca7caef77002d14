"""The C++ ops called as nobody should: arguments made wrong, in memory that ends at a guard page.

An array's last byte is the last that may be touched: to read or write beyond it ends the process.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from typing import Any

import numpy as np

from crn_fast.kernels import cpu

REFUSALS = (ValueError, TypeError, MemoryError)
NUMBERS = (-1, 0, 1, 2, 3, 5, 12, 13, 255, 256, 65536, 65537, 2**31, 2**63 - 1, 2**63, 1.5, None)
TEXTS = ("", "portable", "avx2\0", "sse9", "half_pixel", "cubic", "\ud800", "x" * 5000, None, 3)
DTYPES = ("f8", "f2", ">f4", "i4", "u4", "i1", "?", "c8", "O", "M8[s]", "S4", "i4,f4")
Args = dict[str, Any]


def guarded(array: np.ndarray) -> np.ndarray:
    """A copy whose memory ends where a page begins that must not be touched."""
    pages = -(-max(array.nbytes, 1) // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    whole = np.frombuffer(memory, np.uint8)
    end = whole.ctypes.data + pages * mmap.PAGESIZE
    if ctypes.CDLL(None).mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, 0):
        raise OSError("mprotect")
    inside = whole[pages * mmap.PAGESIZE - array.nbytes : pages * mmap.PAGESIZE]
    copy = inside.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def made(rng: np.random.Generator) -> tuple[str, Args]:
    """An op of the compiled module and arguments that are right."""

    def floats(*shape: int) -> np.ndarray:
        return rng.normal(0, 1, shape).astype(np.float32)

    def side(most: int = 13) -> int:
        return int(rng.integers(1, most + 1))

    def padded(channels: int) -> int:
        return -(-channels // 16) * 16

    op = str(rng.choice(["label_pyramid", "convolve", "head", "to_uint8", "pack"]))
    n, height, width, threads = side(3), side(), side(), side(4)
    isa = str(rng.choice(cpu.instruction_sets()))
    if op == "label_pyramid":
        levels, classes = int(rng.integers(0, 5)), side(255)
        shape = (n, side(4) << levels, side(4) << levels)
        labels = rng.integers(0, classes, shape, dtype=np.uint8)
        return op, {"labels": labels, "classes": classes, "levels": levels, "threads": threads}
    if op == "to_uint8":
        return op, {"rgb": 200 * floats(n, side(3), height, width, 3), "threads": threads}
    if op == "pack":
        features, classes = side(40), side(20)
        weight = floats(side(40), features + classes, 3, 3)
        multiplied = features + classes * int(rng.integers(0, 2))
        numbers = {"features": features, "multiplied": multiplied, "threads": threads}
        return op, {"weight": weight, "tile": int(rng.choice([1, 4, 6])), **numbers}
    channels = padded(side(70))
    features = {
        "raw": floats(n, height, width, channels),
        "scale": floats(n, channels),
        "shift": floats(n, channels),
    }
    if op == "head":
        outputs = 3 * side(20)
        weight, bias = floats(padded(outputs) // 16, channels, 16), floats(outputs)
        return op, {**features, "weight": weight, "bias": bias, "threads": threads, "isa": isa}
    outputs, classes = side(70), side(255)
    args: Args = {**features, "layout": None, "table": None, "upsampling": None, "out": None}
    inputs = channels
    if kind := int(rng.integers(0, 4)):
        args["upsampling"] = str(rng.choice(["align_corners", "half_pixel"]))
        height, width = 2 * height, 2 * width
        if kind == 3:  # the first stage: a layout alone
            args.update(raw=None, scale=None, shift=None)
            inputs, kind = 0, side(2)
        if kind == 1:
            args["layout"] = rng.integers(0, classes, (n, height, width), dtype=np.uint8)
            args["table"] = floats(10, classes, padded(outputs))
        else:
            args["layout"], inputs = floats(n, classes, height, width), inputs + classes
    positions = int(rng.choice([9, 36, 64]))
    args["weight"] = floats(padded(outputs) // 16, positions, inputs, 16)
    args["gamma"], args["beta"] = floats(outputs), floats(outputs)
    if rng.integers(0, 2):
        args["out"] = floats(n * height * width * padded(outputs))
    return op, {**args, "threads": threads, "isa": isa}


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view: np.ndarray = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


def poisoned(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Any bytes at all: NaN, infinity and denormals, or ids of no class."""
    return np.frombuffer(rng.bytes(array.nbytes), array.dtype).reshape(array.shape)


def larger(array: np.ndarray, rng: np.random.Generator, by: int) -> np.ndarray:
    shape = list(array.shape)
    axis = int(rng.integers(0, array.ndim))
    shape[axis] = max(shape[axis] + by, 0)
    return np.resize(array, shape)


def pretended(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A shape of up to 2^40 values in the memory of one."""
    shape = [int(rng.choice([1, 2, 2**16, 2**31])) for _ in array.shape]
    while np.prod(np.array(shape, float)) > 2**40:
        shape[shape.index(max(shape))] = 1
    return np.broadcast_to(np.zeros((1,) * array.ndim, array.dtype), shape)


def spoiled(array: np.ndarray, rng: np.random.Generator) -> Any:
    """The array in one of the ways to be wrong, a few of which are right after all."""
    axis = int(rng.integers(0, array.ndim))
    ways: list[Callable[[], Any]] = [
        lambda: np.zeros(array.shape, str(rng.choice(DTYPES))),
        lambda: np.flip(array, axis),
        lambda: np.repeat(array, 2, axis)[(slice(None),) * axis + (slice(None, None, 2),)],
        lambda: array.T,
        lambda: np.take(array, np.arange(0), axis),
        lambda: array[None],
        lambda: array.dtype.type(1),
        lambda: misaligned(array),
        lambda: guarded(poisoned(array, rng)),
        lambda: guarded(larger(array, rng, 1)),
        lambda: guarded(larger(array, rng, -1)),
        lambda: pretended(array, rng),
        lambda: None,
        lambda: array.tolist(),
        lambda: array.tobytes(),
        lambda: np.ma.array(array),
        lambda: type("Imitation", (), {"dtype": array.dtype, "shape": array.shape})(),
    ]
    return ways[int(rng.integers(0, len(ways)))]()


def mutate(name: str, args: Args, rng: np.random.Generator) -> None:
    value = args[name]
    if isinstance(value, np.ndarray):
        # Those that only pretend to be large would be, as copies.
        arrays = [a for a in args.values() if isinstance(a, np.ndarray) and a.nbytes < 1 << 24]
        if name == "out" and arrays and rng.integers(0, 2):  # over an input
            args["out"] = arrays[int(rng.integers(0, len(arrays)))].ravel()
        else:
            args[name] = spoiled(value, rng)
    else:
        choices: tuple[Any, ...] = TEXTS if isinstance(value, str) else NUMBERS
        args[name] = choices[int(rng.integers(0, len(choices)))]


def called(op: str, args: Args) -> Any:
    """Results as bytes, which are compared."""
    args = dict(args)
    found = getattr(cpu.load(), op)(**args)
    parts = found if isinstance(found, (list, tuple)) else [found]
    return [part.tobytes() for part in parts]


def boundary(seed: int) -> str | None:
    """One call: refused, or else the process survives it; right arguments give the same bits
    wherever they lie.
    """
    rng = np.random.default_rng(seed)
    op, plain = made(rng)
    args = {k: guarded(v) if isinstance(v, np.ndarray) else v for k, v in plain.items()}
    there = [name for name, value in args.items() if value is not None]
    mutations = int(rng.integers(0, 4))
    for name in rng.choice(there, min(mutations, len(there)), replace=False):
        mutate(str(name), args, rng)
    try:
        found = called(op, args)
    except REFUSALS as error:
        return None if mutations else f"{op} refused right arguments: {error}"
    if not mutations and found != called(op, {**plain, "threads": 1}):
        return f"{op}: other bits from memory that ends at a page"
    return None


def overrun(seed: int) -> str | None:
    """`boundary` with a defect: one float beyond an array is read."""
    rng = np.random.default_rng(seed)
    args = [guarded(v) for v in made(rng)[1].values() if isinstance(v, np.ndarray)]
    array = args[int(rng.integers(0, len(args)))]
    return None if ctypes.string_at(array.ctypes.data, array.nbytes + 4) else "empty"
