"""Files that torch.save wrote: pickles, read so that a stranger's file runs nothing.

They are only ever loaded with `weights_only=True`, with no way back to anything else. Torch itself
takes flipped bits without a word, so what training writes is sealed: it carries a SHA-256 of each
tensor and value. What the values mean is `checkpoint`'s business.
"""

from __future__ import annotations

import hashlib
import io
import pickletools
import re
import zipfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from crn_fast.errors import BadInput, ResourceError
from crn_fast.extras import out_of_memory
from crn_fast.files import require_file
from crn_fast.kernels.cpu.threads import usable_cpus

if TYPE_CHECKING:
    import torch

SEAL = "sha256"
"""The key of the hashes in a sealed file: path of each value, as in 'model.head.bias' -> hex."""
PLAIN = (str, int, float, bool, type(None))
CALLED = re.compile(
    r"torch._utils (_rebuild_tensor|_rebuild_tensor_v2|_rebuild_parameter)"
    r"|collections OrderedDict|torch \w+Storage|torch.storage UntypedStorage"
)
"""All that the pickle of a table of tensors names."""
PICKLE_LIMIT = 4 << 20
"""Bytes of it, without the tensors' own; those of the largest networks have some ten thousand."""
REPEATS = 16
"""Tables, lists and tensors that a pickle may say again by number."""
LEGACY = 5
"""Pickles one after another in torch's older format, before the tensors' bytes."""


def write(state: Mapping[str, Any], stream: IO[bytes]) -> None:
    """Write a table of tensors, plain values, and tables and lists of them, with its seal."""
    import torch

    torch.save({**state, SEAL: _hashes(state)}, stream)


def read(path: str | Path) -> dict[str, Any]:
    """Read what `write` wrote, on the CPU, without the seal.

    Raises:
        BadInput: missing, damaged, truncated, of another kind, or without a seal; the message
            names the tensor or value that differs.
        ResourceError: out of memory.
    """
    state: Any = _load(path, "a whole checkpoint", sealed=True)
    sealed = state.pop(SEAL, None) if isinstance(state, dict) else None
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
            if sealed or zipfile.is_zipfile(stream):
                _check_archive(stream, sealed)
            else:
                stream.seek(0)
                for _ in range(LEGACY):
                    _check_pickle(stream)
            stream.seek(0)
            return torch.load(stream, map_location="cpu", weights_only=True)
    except Exception as error:
        if out_of_memory(error):
            raise ResourceError(f"{path}: no memory for what it holds ({error!s:.160})") from None
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path}: not {expected} ({reason:.160}); it is truncated, damaged or of another kind"
        ) from None


def _check_archive(stream: IO[bytes], sealed: bool) -> None:
    """A ValueError unless a zip archive is of the form that torch writes, and its CRCs are right.

    Those of the tensors in a sealed file are left to its hashes, which name the tensor.
    """
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        if len({member.filename for member in members}) != len(members):
            raise ValueError("a member is there twice")
        for member in members:
            name = member.filename
            # Torch stores its members as they are: one that is compressed may be a bomb.
            if member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1:
                raise ValueError(f"{name:.80} is compressed or encrypted")
            if sealed and "/data/" in name:
                continue
            with archive.open(member) as content:
                if name.endswith("/data.pkl"):
                    _check_pickle(io.BytesIO(content.read(PICKLE_LIMIT)))
                while content.read(1 << 20):
                    pass


def _check_pickle(stream: IO[bytes]) -> None:
    """A ValueError unless a pickle is small, names what tables of tensors need, and is no bomb.

    Torch's own reader refuses what is not on its list, but hashes and prints what it is given: a
    list of itself twice, thirty times over, would keep it busy for ever.
    """
    first, repeats, before = stream.tell(), 0, ""
    tables: set[int] = set()
    for operation, argument, position in pickletools.genops(stream):
        if position is not None and position - first > PICKLE_LIMIT:
            raise ValueError(f"its pickle is larger than {PICKLE_LIMIT} bytes")
        match operation.name:
            case "PROTO":
                if argument != 2:
                    raise ValueError(f"a pickle of protocol {argument}; expected 2")
            case "GLOBAL":
                if not CALLED.fullmatch(str(argument)):
                    raise ValueError(f"it asks for {str(argument)!r:.80}, which no weights need")
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if before not in ("GLOBAL", "BINUNICODE", "SHORT_BINSTRING", "BINSTRING"):
                    tables.add(int(str(argument)))
            case "GET" | "BINGET" | "LONG_BINGET":
                repeats += int(str(argument)) in tables
            case "DUP" | "MEMOIZE":
                repeats += 1
        before = operation.name
        if repeats > REPEATS:
            raise ValueError("it says one table again and again")


def _hashes(state: Mapping[str, Any], known: Mapping[str, str] | None = None) -> dict[str, str]:
    """SHA-256 of each value by its path. TypeError for values that are neither tensors nor plain.

    It ends at the first path that is not `known`: a small pickle may say one list very often.
    """
    with ThreadPoolExecutor(usable_cpus()) as pool:
        jobs = {}
        for name, value in _leaves(state, ""):
            if known is not None and name not in known:
                raise TypeError(f"{name:.80} has no SHA-256")
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


def _bytes(tensor: torch.Tensor) -> Any:
    import torch

    if tensor.layout != torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TypeError("a tensor has no plain values")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise TypeError("a tensor has more values than the file holds")
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
