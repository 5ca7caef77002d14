"""TensorFlow's V2 checkpoint files ("tensor bundles"), read with numpy alone.

A checkpoint is `<prefix>.index`, a LevelDB table from variable names to where their bytes lie, and
`<prefix>.data-00000-of-0000N`, the bytes. This knows nothing of networks, writes nothing, and
reads plain numeric variables only: no strings, no partitioned variables, no V1 checkpoints.

Sources: tensorflow/core/util/tensor_bundle, tensorflow/core/lib/io/format.h (the table),
tensorflow/core/protobuf/tensor_bundle.proto.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from crn_fast.crc32c import crc32c
from crn_fast.errors import BadInput

_FOOTER = 48
_TABLE_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_INDEX_LIMIT = 1 << 20
"""Largest index that is read, in bytes; the authors' are under 20 kB."""
_NAME_LIMIT = 512
"""Longest variable name, in bytes. Prefix compression lets a small index hold very long ones."""
_DTYPES = {1: "float32", 2: "float64", 3: "int32", 9: "int64", 19: "float16"}
"""The tensorflow.DataType numbers that are read."""


@dataclass(frozen=True)
class Variable:
    """What the index says of one variable."""

    dtype: str
    """A numpy name such as 'float32', or 'DT_<number>' for a type that is not read."""
    shape: tuple[int, ...]
    shard: int
    """Number of the data file, from 0."""
    offset: int
    size: int
    """Bytes in the data file."""
    crc: int
    """Masked CRC-32C of those bytes."""
    partitioned: bool


class Bundle:
    """One checkpoint: `variables` by name, from the index; values by `read`, from the data files.

    Args:
        path: the prefix, the .index file, a .data file, or a folder with a `checkpoint` file.

    Raises:
        BadInput: no such checkpoint, a V1 checkpoint, or an index that is damaged.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.prefix = _find_prefix(os.fspath(path))
        index = f"{self.prefix}.index"
        try:
            self.shards, self.variables = _parse_index(_read_index(index))
        except _Damaged as error:
            raise BadInput(f"{index}: {error}; copy or download the checkpoint again") from None

    def read(self, name: str) -> NDArray[np.generic]:
        """The value of one variable, in the file's dtype and shape, its checksum verified.

        Raises:
            BadInput: no such variable, a type that is not read, or missing or damaged bytes.
        """
        if name not in self.variables:
            raise BadInput(f"{self.prefix}.index: holds no variable {name!r}")
        variable = self.variables[name]
        if variable.dtype not in _DTYPES.values() or variable.partitioned:
            raise BadInput(
                f"{self.prefix}.index: {name!r} is {variable.dtype}"
                f"{', partitioned' if variable.partitioned else ''}; expected a whole variable of "
                f"{', '.join(_DTYPES.values())}"
            )
        data = f"{self.prefix}.data-{variable.shard:05d}-of-{self.shards:05d}"
        if not os.path.isfile(data):
            raise BadInput(
                f"{data}: no such file, but {name!r} lies in it; put it beside the index"
            )
        try:
            raw = _read_bytes(data, variable.offset, variable.size)
            if _mask(crc32c(raw)) != variable.crc:
                raise _Damaged("the checksum does not match")
        except _Damaged as error:
            raise BadInput(f"{data}: {name!r}: {error}; copy or download it again") from None
        return raw.view(np.dtype(variable.dtype).newbyteorder("<")).reshape(variable.shape)


def _mask(crc: int) -> int:
    """The form in which LevelDB and TensorFlow store a CRC."""
    return ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF


class _Damaged(Exception):
    """A file breaks its format; the message says how, and whoever knows the file adds its name."""


def _find_prefix(path: str) -> str:
    if os.path.isdir(path):
        path = _latest(path)
    prefix = re.sub(r"\.(index|meta|data-\d{5}-of-\d{5})$", "", path)
    if os.path.isfile(f"{prefix}.index"):
        return prefix
    if prefix != path or not os.path.isfile(path):
        raise BadInput(
            f"{prefix}.index: no such file; expected a TensorFlow V2 checkpoint: name its prefix, "
            "its .index file or its folder"
        )
    if _is_table(path):
        raise BadInput(
            f"{path}: a V1 TensorFlow checkpoint (one file, no .index), expected V2; restore it in "
            "TensorFlow and save it with tf.compat.v1.train.Saver, which writes V2"
        )
    raise BadInput(f"{path}: not a TensorFlow checkpoint; expected its prefix or .index file")


def _latest(folder: str) -> str:
    """The prefix that a folder's `checkpoint` file calls the latest."""
    state = os.path.join(folder, "checkpoint")
    if not os.path.isfile(state):
        raise BadInput(f"{folder}: holds no file 'checkpoint'; name the .index file instead")
    text = _read_bytes(state, 0, min(os.path.getsize(state), _INDEX_LIMIT)).tobytes()
    found = re.search(rb'^\s*model_checkpoint_path:\s*"([^"\0\n]+)"', text, re.MULTILINE)
    if not found:
        raise BadInput(f"{state}: names no model_checkpoint_path; name the .index file instead")
    prefix = os.path.join(folder, os.fsdecode(found[1]))
    # An absolute path is of the machine that saved it; a copied folder holds the files itself.
    beside = os.path.join(folder, os.path.basename(prefix))
    return prefix if os.path.isfile(f"{prefix}.index") else beside


def _read_bytes(path: str, offset: int, size: int) -> NDArray[np.uint8]:
    try:
        with open(path, "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if offset + size > found:
                raise _Damaged(f"cut off: ends at byte {found}, expected {offset + size} or more")
            raw = np.empty(size, np.uint8)
            file.seek(offset)
            if file.readinto(raw.data) != size:
                raise _Damaged(f"cut off while it was read at byte {offset}")
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error.strerror})") from None
    return raw


def _is_table(path: str) -> bool:
    size = os.path.getsize(path)
    return size >= _FOOTER and _read_bytes(path, size - 8, 8).tobytes() == _TABLE_MAGIC


def _read_index(path: str) -> bytes:
    size = os.path.getsize(path)
    if not _is_table(path):
        raise _Damaged(f"not the index of a TensorFlow checkpoint, or cut off ({size} bytes)")
    if size > _INDEX_LIMIT:
        raise _Damaged(f"an index of {size} bytes; expected at most {_INDEX_LIMIT}")
    return _read_bytes(path, 0, size).tobytes()


def _parse_index(table: bytes) -> tuple[int, dict[str, Variable]]:
    """Number of data files, and every variable."""
    shards = 0
    variables = {}
    for key, value in _table_entries(table):
        if not key:
            shards = _parse_header(value)
            continue
        # Slices of partitioned variables have binary keys; they only need to stay apart.
        name = key.decode(errors="backslashreplace")
        variable = _parse_variable(name, value)
        if variable.shard >= shards:
            raise _Damaged(f"{name!r} lies in data file {variable.shard} of {shards}")
        variables[name] = variable
    if not shards:
        raise _Damaged("holds no header")
    return shards, variables


def _table_entries(table: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Every key and value of a LevelDB table, in the strict order of the keys."""
    end = len(table) - _FOOTER
    _, _, position = _parse_handle(table, end)  # the meta index, of no use here
    offset, size, _ = _parse_handle(table, position)
    last: bytes | None = None
    free = 0
    for _, handle in _block_entries(_read_block(table, offset, size, end)):
        offset, size, _ = _parse_handle(handle, 0)
        # Blocks that are named twice could make a small file take forever.
        if offset < free:
            raise _Damaged("its blocks overlap")
        free = offset + size
        for key, value in _block_entries(_read_block(table, offset, size, end)):
            if last is not None and key <= last:
                raise _Damaged(f"its keys are out of order at {key[:80]!r}")
            last = key
            yield key, value


def _parse_handle(data: bytes, position: int) -> tuple[int, int, int]:
    """A block's offset and size in the file, and the position after them in `data`."""
    offset, position = _varint(data, position)
    size, position = _varint(data, position)
    return offset, size, position


def _read_block(table: bytes, offset: int, size: int, end: int) -> bytes:
    """A block's contents, without its trailer: a byte of compression, four of checksum."""
    if offset + size + 5 > end:
        raise _Damaged(f"a block at byte {offset} runs past the end")
    stored = int.from_bytes(table[offset + size + 1 : offset + size + 5], "little")
    if _mask(crc32c(table[offset : offset + size + 1])) != stored:
        raise _Damaged(f"the checksum of the block at byte {offset} does not match")
    if table[offset + size] != 0:
        raise _Damaged(f"the block at byte {offset} is compressed (snappy), which is not read")
    return table[offset : offset + size]


def _block_entries(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    restarts = int.from_bytes(block[-4:], "little")
    end = len(block) - 4 * (restarts + 1)
    if end < 0:
        raise _Damaged(f"a block of {len(block)} bytes cannot hold {restarts} restart points")
    key, position = b"", 0
    while position < end:
        shared, position = _varint(block, position)
        fresh, position = _varint(block, position)
        size, position = _varint(block, position)
        start = position + fresh
        if shared > len(key) or shared + fresh > _NAME_LIMIT or start + size > end:
            raise _Damaged(f"a key or value runs past its block, after {key[:80]!r}")
        key = key[:shared] + block[position:start]
        position = start + size
        yield key, block[start:position]


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """An unsigned number, seven bits a byte, least first; and the position after it."""
    value = 0
    for i, byte in enumerate(data[position : position + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, position + i + 1
    raise _Damaged("a number is cut off or too long")


def _fields(message: bytes) -> tuple[dict[int, int], dict[int, list[bytes]]]:
    """A protobuf message's fields by number: the numeric ones, and the strings and messages."""
    numbers: dict[int, int] = {}
    messages: dict[int, list[bytes]] = {}
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        field, kind = tag >> 3, tag & 7
        if kind == 0:
            numbers[field], position = _varint(message, position)
            continue
        if kind == 2:
            size, position = _varint(message, position)
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
        else:
            raise _Damaged(f"protobuf wire type {kind} is not known")
        piece = message[position : position + size]
        position += size
        if position > len(message):
            raise _Damaged("a protobuf field is cut off")
        if kind == 2:
            messages.setdefault(field, []).append(piece)
        else:
            numbers[field] = int.from_bytes(piece, "little")
    return numbers, messages


def _parse_header(message: bytes) -> int:
    """Number of data files, from a BundleHeaderProto."""
    numbers, _ = _fields(message)
    if numbers.get(2, 0) != 0:
        raise _Damaged("a big-endian checkpoint, which is not read")
    shards = numbers.get(1, 0)
    if not 1 <= shards <= 99999:
        raise _Damaged(f"names {shards} data files; expected 1 to 99999")
    return shards


def _parse_variable(name: str, message: bytes) -> Variable:
    """A BundleEntryProto; refused if its size in bytes is not that of its dtype and shape."""
    numbers, messages = _fields(message)
    dims = [dim for shape in messages.get(2, []) for dim in _fields(shape)[1].get(2, [])]
    shape = tuple(_fields(dim)[0].get(1, 0) for dim in dims)
    number, shard, offset, size, crc = (numbers.get(field, 0) for field in (1, 3, 4, 5, 6))
    dtype = _DTYPES.get(number, f"DT_{number}")
    variable = Variable(dtype, shape, shard, offset, size, crc, partitioned=7 in messages)
    if len(shape) > 32 or prod(max(dim, 1) for dim in shape) > 1 << 48:
        raise _Damaged(f"{name!r} has an impossible shape, {str(shape)[:80]}")
    if dtype in _DTYPES.values() and not variable.partitioned:
        expected = prod(shape) * np.dtype(dtype).itemsize
        if size != expected:
            raise _Damaged(f"{name!r}: {size} bytes; {dtype} of shape {shape} takes {expected}")
    return variable
