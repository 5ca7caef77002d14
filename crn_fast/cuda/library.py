"""The driver's own library: modules, launches, tensor maps and plain copies, by ctypes.

pycuda has no tensor maps, and the two packages load and launch each in their own way, so both
leave this to the library that they stand on. A context must be current: call inside `with driver:`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

import numpy as np

from crn_fast.errors import Mismatch, ResourceError

LIBRARY = "libcuda.so.1"
MAP_BYTES, MAP_ALIGNMENT = 128, 64
"""Of a CUtensorMap; CUDA driver API, cuTensorMapEncodeTiled."""
PLAIN_SHARED = 48 << 10
"""Bytes of shared memory that a kernel has without asking; CUDA C++ programming guide."""
FIXED_MAPS = 13010
"""Drivers up to this version misread tensor maps of less than 128 KiB, unless a bit is cleared; so
do CUTLASS and Triton 3.7."""


def call(name: str, *arguments: Any) -> None:
    """Call a function of the library.

    Raises:
        ResourceError: it gives an error; `errno` has its number.
    """
    if code := getattr(ctypes.CDLL(LIBRARY), name)(*arguments):
        error = ResourceError(f"{name} failed with CUDA error {code}")
        error.errno = code
        raise error


def load(cubin: bytes, name: str, shared: int) -> int:
    """Load a compiled kernel: its CUfunction.

    Args:
        cubin: code for the GPU whose context is current; trusted.
        name: of the kernel.
        shared: bytes of shared memory that one block will be launched with.

    Raises:
        Mismatch: the driver does not take the code on this GPU.
    """
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    try:
        call("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(cubin))
        call("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(name.encode()))
        if shared > PLAIN_SHARED:
            prefer_shared, largest_dynamic = ctypes.c_int(1), ctypes.c_int(8)
            call("cuFuncSetCacheConfig", function, prefer_shared)
            call("cuFuncSetAttribute", function, largest_dynamic, ctypes.c_int(shared))
    except ResourceError as error:
        raise Mismatch(f"the driver does not take the kernel {name} on this GPU: {error}") from None
    assert function.value is not None
    return function.value


def launch(
    function: int,
    grid: tuple[int, int, int],
    threads: int,
    shared: int,
    parameters: Any,
    stream: int,
) -> None:
    """Queue a kernel. `parameters`: an array of pointers to each, read before this returns."""
    sizes = (ctypes.c_uint(size) for size in (*grid, threads, 1, 1, shared))
    handle = ctypes.c_void_p(stream)
    call("cuLaunchKernel", ctypes.c_void_p(function), *sizes, handle, parameters, None)


def tensor_map(
    address: int,
    dtype: int,
    shape: Sequence[int],
    strides: Sequence[int],
    box: Sequence[int],
    swizzle: int,
) -> bytes:
    """Encode a tensor map whose boxes are filled with zeros outside of the tensor.

    Args:
        address: of the tensor, a multiple of 16.
        dtype: CUtensorMapDataType.
        shape: outermost axis first.
        strides: bytes, of every axis; the last one's is an element's size.
        box: of one copy.
        swizzle: CUtensorMapSwizzle.

    Raises:
        ResourceError: the driver refuses these numbers.
    """
    rank = len(shape)
    room = ctypes.create_string_buffer(MAP_BYTES + MAP_ALIGNMENT)
    start = -ctypes.addressof(room) % MAP_ALIGNMENT
    made = ctypes.c_void_p(ctypes.addressof(room) + start)
    no_interleave, promote_128_bytes, fill_zeros = map(ctypes.c_int, (0, 2, 0))
    call(
        "cuTensorMapEncodeTiled",
        made,
        ctypes.c_int(dtype),
        ctypes.c_uint(rank),
        ctypes.c_void_p(address),
        (ctypes.c_uint64 * rank)(*reversed(shape)),
        (ctypes.c_uint64 * rank)(*reversed(strides[:-1])),
        (ctypes.c_uint32 * rank)(*reversed(box)),
        (ctypes.c_uint32 * rank)(*(1,) * rank),
        no_interleave,
        ctypes.c_int(swizzle),
        promote_128_bytes,
        fill_zeros,
    )
    encoded = bytearray(room.raw[start : start + MAP_BYTES])
    extent = sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True)) + 1
    if extent < 128 << 10 and version() <= FIXED_MAPS:
        word = int.from_bytes(encoded[8:16], "little") & ~(1 << 21)
        encoded[8:16] = word.to_bytes(8, "little")
    return bytes(encoded)


def version() -> int:
    """Of the driver, as in 13010 for 13.1."""
    found = ctypes.c_int()
    call("cuDriverGetVersion", ctypes.byref(found))
    return found.value


def free_memory() -> int:
    """Bytes of the GPU's memory that are free."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    call("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
    return free.value


def write(address: int, array: np.ndarray) -> None:
    """Copy a contiguous array to the GPU. The array may change then; `synchronize` before use."""
    source = ctypes.c_void_p(array.ctypes.data)
    call("cuMemcpyHtoD_v2", ctypes.c_uint64(address), source, ctypes.c_size_t(array.nbytes))


def copy(target: int, source: int, nbytes: int, stream: int) -> None:
    """Queue a copy within the GPU's memory."""
    size, handle = ctypes.c_size_t(nbytes), ctypes.c_void_p(stream)
    call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(target), ctypes.c_uint64(source), size, handle)


def clear(address: int, nbytes: int, stream: int) -> None:
    """Queue zeros."""
    value, count, handle = ctypes.c_ubyte(0), ctypes.c_size_t(nbytes), ctypes.c_void_p(stream)
    call("cuMemsetD8Async", ctypes.c_uint64(address), value, count, handle)


def synchronize(stream: int | None) -> None:
    """Wait for what others queued on a stream of theirs, or for all of it."""
    if stream is None:
        call("cuCtxSynchronize")
    else:
        call("cuStreamSynchronize", ctypes.c_void_p(stream))
