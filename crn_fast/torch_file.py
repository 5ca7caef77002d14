"""Files that torch.save wrote: pickles, read so that a stranger's file runs nothing.

They are only ever loaded with `weights_only=True`, with no way back to anything else. An archive is
read once, checked, and given to torch as a fresh one of what was checked, so torch cannot see
another than was scanned; that takes its size in memory twice while it loads. Torch itself takes
flipped bits without a word, so what training writes is sealed: it carries a SHA-256 of each tensor
and value. What the values mean is `checkpoint`'s business.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from shlex import quote
from typing import IO, TYPE_CHECKING, Any

from crn_fast import pickle_scan
from crn_fast.errors import BadInput, ResourceError, one_line
from crn_fast.extras import out_of_memory
from crn_fast.files import require_file
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.memory import thread_pool

if TYPE_CHECKING:
    import torch

SEAL = "sha256"
"""The key of the hashes in a sealed file: path of each value, as in 'model.head.bias' -> hex."""
OURS = "crn_fast."
"""Begins what a file of ours says of its format."""
PLAIN = (str, int, float, bool, type(None))
ZIP = b"PK\x03\x04"
"""What torch knows an archive by: its first bytes."""
MEMBER = re.compile(r"[^/]+/(data\.pkl|byteorder|version|data/\d+|\.\w+(/\w+)?)")
"""Of an archive of tensors; those with a dot before them say nothing of the tensors."""
SAID = 64
"""How often the bytes of the tensors may be said, as one under several names."""
LEGACY = 5
"""Pickles one after another in torch's older format, before the tensors' bytes."""


def write(state: Mapping[str, Any], stream: IO[bytes]) -> None:
    """Write a table of tensors, plain values, and tables and lists of them, with its seal.

    Raises:
        TypeError, ValueError: `read` would refuse it. From a stream that can be read, its pickle is
            checked as `read` does.
    """
    import torch

    _check_tensors(state)
    torch.save({**state, SEAL: _hashes(state)}, stream)
    if stream.readable():
        _check_written(stream)


def read(path: str | Path) -> dict[str, Any]:
    """Read what `write` wrote, on the CPU, without the seal.

    Raises:
        BadInput: missing, damaged, truncated, of another kind, or without a seal; the message
            names the tensor or value that differs.
        ResourceError: out of memory.
    """
    state: Any = _load(path, "a whole checkpoint", sealed=True)
    sealed = state.pop(SEAL, None) if isinstance(state, dict) else None
    if sealed is None and isinstance(state, dict) and str(state.get("format")).startswith(OURS):
        named = quote(str(path)), quote(f"{Path(path).stem}.safetensors")
        raise BadInput(
            f"{path}: a checkpoint without hashes, written before there were any: convert it with "
            f"the crn_fast that wrote it (`crn-fast convert {' '.join(named)}`), or train it again"
        )
    if not isinstance(sealed, dict) or not all(isinstance(name, str) for name in sealed):
        raise BadInput(f"{path}: a torch file, but not a checkpoint that crn_fast train wrote")
    try:
        found = _hashes(state, sealed)
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"{path}: not a whole checkpoint ({error!s:.160})") from None
    for name in sorted(sealed.keys() | found.keys()):
        if found.get(name) != sealed.get(name):
            raise BadInput(f"{path}: {name:.200} is damaged (its SHA-256 differs); get it again")
    plain: dict[str, Any] = state
    return plain


def read_foreign(path: str | Path, expected: str) -> Any:
    """Read another library's weights, on the CPU; torch's older format, which is no zip, too.

    Args:
        path: the file.
        expected: what it should be, for messages.

    Raises:
        BadInput: missing, damaged, or holding more than tensors and plain values.
        ResourceError: out of memory.
    """
    return _load(path, expected, sealed=False)


def _load(path: str | Path, expected: str, sealed: bool) -> Any:
    import torch

    require_file(path, expected)
    try:
        with open(path, "rb") as stream:
            source: IO[bytes] = stream
            if is_archive(stream):
                source = _checked(stream, sealed)
            elif sealed:
                raise ValueError("no zip archive")
            else:
                for _ in range(LEGACY):
                    pickle_scan.check(stream)
                stream.seek(0)
            state = torch.load(source, map_location="cpu", weights_only=True)
            _check_tensors(state, stream.seek(0, io.SEEK_END))
            return state
    except Exception as error:
        if out_of_memory(error):
            raise ResourceError(f"{path}: no memory for what it holds ({error!s:.160})") from None
        reason = one_line(str(error).splitlines()[0] if str(error) else type(error).__name__)
        raise BadInput(
            f"{path}: not {expected} ({reason:.160}); it is truncated, damaged or of another kind"
        ) from None


def is_archive(stream: IO[bytes]) -> bool:
    """Whether torch takes a file for a zip archive; it is then at its beginning."""
    stream.seek(0)
    found = stream.read(len(ZIP)) == ZIP
    stream.seek(0)
    return found


def _checked(stream: IO[bytes], sealed: bool) -> IO[bytes]:
    """An archive's members, checked, in an archive of our own making.

    A zip archive can be read in more than one way. So torch never sees the one that came, only
    what Python's reader found in it. CRCs of the tensors in a sealed file are left to its hashes,
    which name the tensor. A ValueError or BadZipFile where it is not of torch's form.
    """
    made = io.BytesIO()
    with zipfile.ZipFile(stream) as archive, zipfile.ZipFile(made, "w") as copy:
        members = archive.infolist()
        if len({member.filename.lower() for member in members}) != len(members):
            raise ValueError("a member is there twice")
        if min((member.header_offset for member in members), default=0):
            raise ValueError("something is before its first member")
        if sum(member.file_size for member in members) > stream.seek(0, io.SEEK_END):
            raise ValueError("its members are larger than the file")
        folder = members[0].filename.partition("/")[0] if members else ""
        for member in members:
            known = MEMBER.fullmatch(member.filename)
            if not known or not member.filename.startswith(f"{folder}/"):
                raise ValueError(f"{member.filename!r:.80} is no part of a file of tensors")
            # Torch stores its members as they are: one that is compressed may be a bomb.
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise ValueError(f"{member.filename!r:.80} is compressed or encrypted")
            if sealed and known[1].startswith("data/"):
                del member.CRC  # then zipfile does not check it
            entry = zipfile.ZipInfo(f"archive/{known[1]}")
            entry.file_size = member.file_size
            with archive.open(member) as content, copy.open(entry, "w") as target:
                if known[1] == "data.pkl":
                    pickled = io.BytesIO(content.read())
                    pickle_scan.check(pickled)
                    target.write(pickled.getbuffer())
                else:
                    shutil.copyfileobj(content, target, 1 << 20)
    made.seek(0)
    return made


def _check_written(stream: IO[bytes]) -> None:
    with zipfile.ZipFile(stream) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        with archive.open(name) as content:
            pickle_scan.check(content)
    stream.seek(0, io.SEEK_END)


def _check_tensors(state: Any, held: int | None = None) -> None:
    """A TypeError or ValueError for tensors of more than the file's bytes, and what is no value.

    Args:
        state: tables and lists of tensors and plain values.
        held: bytes of the file that they were read from.
    """
    import torch

    said, storages = 0, {}
    for _, value in _leaves(state, ""):
        if isinstance(value, torch.Tensor):
            _check_tensor(value)
            storage = value.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
            said += value.numel() * value.element_size()
    total = sum(storages.values())
    if held is not None and total > held:
        raise ValueError("its tensors are larger than the file")
    if said > SAID * total:
        raise ValueError(f"it says its tensors more than {SAID} times")


def _hashes(state: Mapping[str, Any], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of each value by its path. TypeError for values that are neither tensors nor plain.

    It ends at the first path that is not `known`: a small pickle may say one list very often.
    """
    with thread_pool(usable_cpus()) as pool:
        jobs = {}
        for name, value in _leaves(state, ""):
            if known is not None and name not in known:
                raise TypeError(f"{name:.80} has no SHA-256")
            if name in jobs:
                raise TypeError(f"{name:.80} is there twice")
            jobs[name] = pool.submit(_sha256, value)
        return {name: job.result() for name, job in jobs.items()}


def _leaves(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    """The values that hold no others, and empty tables, by path."""
    import torch

    if isinstance(value, dict | list | tuple) and value:
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            if not isinstance(key, str | int):
                raise TypeError(f"{name:.80} has a key of type {type(key).__name__}")
            yield from _leaves(item, f"{name}.{key}" if name else str(key))
    elif isinstance(value, (torch.Tensor, *PLAIN)) or value in ({}, [], ()):
        yield name, value
    else:
        raise TypeError(f"{name:.80} is of type {type(value).__name__}")


def _sha256(value: Any) -> str:
    import torch

    if not isinstance(value, torch.Tensor):
        return hashlib.sha256(f"{type(value).__name__} {value!r}".encode()).hexdigest()
    sha = hashlib.sha256(f"{value.dtype} {tuple(value.shape)} ".encode())
    sha.update(_bytes(value))
    return sha.hexdigest()


def _check_tensor(tensor: torch.Tensor) -> None:
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TypeError("a tensor has no plain values")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor has more values than the file holds")


def _bytes(tensor: torch.Tensor) -> Any:
    import torch

    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
