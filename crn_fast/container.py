"""A file of named tensors with text metadata in which every corruption is noticed.

It is a safetensors file. Its metadata carries a SHA-256 of each tensor (bytes, dtype and shape)
and one of the metadata itself, since safetensors alone accepts flipped bits without a word. What
the tensors and the metadata mean is the business of `checkpoint` and `engine`.

Reading maps the file: its pages come into memory when they are used, are shared between processes
and can be given back (`release`). Writing is our own, for the library's would hold a second copy of
gigabytes, and would not begin tensors at cache lines, which the native kernels read them by.
"""

from __future__ import annotations

import hashlib
import json
import mmap
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from crn_fast.errors import BadInput, ResourceError
from crn_fast.files import require_file, write_whole
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.memory import thread_pool

LINE = 64
"""Bytes of a cache line."""
HEADER_LIMIT = 8 << 20
"""Bytes; those of the largest networks have some ten thousand."""
DTYPES: dict[str, np.dtype[Any]] = {
    "U8": np.dtype("u1"),
    "F16": np.dtype("<f2"),
    "F32": np.dtype("<f4"),
}
"""Names in the file -> dtypes: all that this project stores."""


def write(
    path: str | Path,
    tensors: Mapping[str, np.ndarray],
    metadata: Mapping[str, str],
    sign: Callable[[Mapping[str, str]], Mapping[str, str]] | None = None,
) -> None:
    """Write tensors and metadata with their hashes; the file appears whole or not at all.

    Args:
        path: the file.
        tensors: uint8, float16 or float32. Those of whole cache lines come first, so that each of
            them begins at one; then those of wide dtypes, so that each number is aligned.
        metadata: text by name.
        sign: given the metadata with the tensors' hashes, gives it with a signature.

    Raises:
        ResourceError: the file cannot be written.
    """
    arrays = {name: np.asarray(tensors[name], order="C") for name in sorted(tensors)}
    arrays = dict(sorted(arrays.items(), key=lambda item: _place(item[1])))
    hashes = json.dumps(_on_all_cpus(tensor_sha256, arrays))
    sealed = {**metadata, "tensors_sha256": hashes}
    if sign:
        sealed = {**sign(sealed)}
    sealed["metadata_sha256"] = metadata_sha256(sealed)
    names = {dtype: name for name, dtype in DTYPES.items()}
    header: dict[str, Any] = {"__metadata__": sealed}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        header[name] = {
            "dtype": names[array.dtype],
            "shape": array.shape,
            "data_offsets": (start, end),
        }
    text = json.dumps(header).encode()
    text += b" " * (-(8 + len(text)) % LINE)

    def save(stream: IO[bytes]) -> None:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            stream.write(array.reshape(-1).view(np.uint8).data)

    write_whole(path, save)


def _place(array: np.ndarray) -> tuple[bool, int]:
    return array.nbytes % LINE != 0, -array.itemsize


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Map and verify what `write` wrote.

    The arrays are mapped from the file, copied where they are written to. The file may be replaced
    or deleted meanwhile, as `write` does, but not written into.

    Raises:
        BadInput: missing, not a safetensors file, truncated, or any hash differs; the message
            names the tensor.
        ResourceError: the system does not map it.
    """
    pages, places, metadata = _open(path)
    hashes = json_table(metadata.get("tensors_sha256", ""), f"{path}: tensors_sha256")
    tensors = {
        name: np.ndarray(place.shape, place.dtype, pages, place.start)
        for name, place in places.items()
    }

    def hashed(tensor: np.ndarray) -> str:
        sha256 = tensor_sha256(tensor)
        release(tensor)  # A large file would fill the memory.
        return sha256

    found = _on_all_cpus(hashed, tensors)
    for name in sorted(hashes.keys() | found.keys()):
        if name not in found or found[name] != hashes.get(name):
            raise BadInput(
                f"{path}: tensor {name:.200} is damaged (its SHA-256 differs); get it again"
            )
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read and verify the metadata alone.

    Raises:
        BadInput, ResourceError: as `read`.
    """
    return _open(path)[2]


class _Place(NamedTuple):
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    start: int
    """in the file"""
    end: int


def _open(path: str | Path) -> tuple[mmap.mmap, dict[str, _Place], dict[str, str]]:
    """Map a file; where its tensors lie, and its metadata, verified. All of it from one opening."""
    require_file(path, "a .safetensors or .crn file")
    try:
        with open(path, "rb") as file:
            pages = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        places, metadata = _parse(pages)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be mapped into memory ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise BadInput(
            f"{path}: not a whole safetensors file ({error!s:.200}); it is truncated, damaged "
            "or of another kind"
        ) from None
    if "metadata_sha256" not in metadata:
        raise BadInput(f"{path}: a safetensors file, but not one that crn_fast wrote")
    if metadata_sha256(metadata) != metadata["metadata_sha256"]:
        raise BadInput(f"{path}: its metadata is damaged (its SHA-256 differs); get the file again")
    return pages, places, metadata


def _parse(pages: mmap.mmap) -> tuple[dict[str, _Place], dict[str, str]]:
    """The header of a safetensors file; a ValueError unless its tensors fill the file exactly."""
    first = 8 + int.from_bytes(pages[:8], "little")
    if first > min(len(pages), HEADER_LIMIT):
        raise ValueError(f"a header of {first - 8} bytes in a file of {len(pages)}")
    header = json.loads(pages[8:first].decode(), object_pairs_hook=_each_once)
    metadata = header.pop("__metadata__", {}) if isinstance(header, dict) else None
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise ValueError("its metadata is no table of text")
    places = {name: _place_of(name, entry, first) for name, entry in header.items()}
    end = first
    for name, place in sorted(places.items(), key=lambda item: item[1].start):
        if place.start != end:
            raise ValueError(f"tensor {name} begins at byte {place.start}; expected {end}")
        end = place.end
    if end != len(pages):
        raise ValueError(f"its tensors end at byte {end}, the file at {len(pages)}")
    return places, metadata


def _place_of(name: str, entry: Any, first: int) -> _Place:
    if not name.isprintable() or len(name) > 200:
        raise ValueError("a tensor's name is no line of text")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"tensor {name} is not described by dtype, shape and data_offsets")
    shape, offsets = entry["shape"], entry["data_offsets"]
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(type(n) is int and n >= 0 for n in numbers):
            raise ValueError(f"tensor {name}'s shape and offsets are no lists of numbers")
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in DTYPES:
        raise ValueError(f"tensor {name} is {entry['dtype']!r:.40}; known are {', '.join(DTYPES)}")
    dtype = DTYPES[entry["dtype"]]
    if (
        len(shape) > 8
        or len(offsets) != 2
        or offsets[1] - offsets[0] != prod(shape) * dtype.itemsize
    ):
        raise ValueError(f"tensor {name}'s offsets do not fit its shape")
    # An array of 0 bytes may have sides of any length, but numpy has limits.
    if prod(max(side, 1) for side in shape) >= 1 << 48 or (first + offsets[0]) % dtype.itemsize:
        raise ValueError(f"tensor {name} is too long, or not aligned")
    return _Place(dtype, tuple(shape), first + offsets[0], first + offsets[1])


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; a ValueError where a name is there twice: readers differ on which counts."""
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a name is there twice")
    return table


def release(array: np.ndarray) -> None:
    """Give the memory of a mapped array back, where the system can; it is read again when used.

    An array that is not mapped from a file keeps its memory. What was written to one that is, is
    lost.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if not isinstance(base, mmap.mmap) or not hasattr(mmap, "MADV_DONTNEED"):
        return
    start = array.ctypes.data - np.frombuffer(base, np.uint8).ctypes.data
    first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (start + array.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - first
    if length > 0:
        base.madvise(mmap.MADV_DONTNEED, first, length)


def json_table(text: str, source: str) -> dict[str, str]:
    """Read a JSON object whose values are all text.

    Raises:
        BadInput: it is something else; `source` is named.
    """
    try:
        table = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise BadInput(f"{source}: expected a JSON object of text values; the file is damaged")
    return table


def _on_all_cpus(
    function: Callable[[np.ndarray], str], arrays: Mapping[str, np.ndarray]
) -> dict[str, str]:
    with thread_pool(max(1, min(usable_cpus(), len(arrays)))) as pool:
        return dict(zip(arrays, pool.map(function, arrays.values()), strict=True))


def tensor_sha256(array: np.ndarray) -> str:
    """SHA-256 of a contiguous array's dtype, shape and bytes, in hex."""
    sha = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def metadata_sha256(metadata: Mapping[str, str]) -> str:
    """SHA-256 of all metadata but the hash itself, in hex."""
    text = json.dumps({k: v for k, v in sorted(metadata.items()) if k != "metadata_sha256"})
    return hashlib.sha256(text.encode()).hexdigest()
