"""Readers of checkpoints and engines, each given a damaged file: it must refuse, or give the same.

`noticed` is the subject. A case is small, for it travels to a child process: the form of the file,
and what is done to it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hostile.pickles import unzipped, zipped


class Damage(NamedTuple):
    form: str
    """Of `FILES`."""
    kind: str
    """Of `KINDS`."""
    at: int
    what: int
    reader: str = ""
    """Of `READERS`; the form's own if empty."""


def noticed(damage: Damage) -> str | None:
    """What was wrong with how a reader took a damaged file."""
    from crn_fast.errors import CrnError

    name, whole = files()[damage.form]
    found = KINDS[damage.kind](damage, whole)
    if found == whole:
        return None
    path = scratch() / f"damaged-{name}"
    path.write_bytes(found)
    reader = damage.reader or damage.form
    try:
        differ = differences(sound(reader, name), READERS[reader](path))
    except CrnError as error:
        return _wrong_words(damage, str(error), path)
    return f"{damage}: taken, with another {differ[0]}" if differ else None


@cache
def sound(reader: str, name: str) -> Any:
    """What a reader makes of a file that is as it was written."""
    return READERS[reader](scratch() / name)


def _wrong_words(damage: Damage, message: str, path: Path) -> str | None:
    """None for one line that names the file and, where the damage is in a tensor, the tensor."""
    named = tensor_at(damage) if damage.kind == "flip" else None
    if path.name not in message or "\n" in message or (named and named not in message):
        return f"{damage}: said {message!r}; expected the file {named and 'and ' + named}"
    return None


def differences(one: Any, other: Any, name: str = "network") -> list[str]:
    """Where nested tables of arrays, tensors and values differ."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        names = sorted(one.keys() | other.keys(), key=str)
        parts = [differences(one.get(n), other.get(n), f"{name}.{n}") for n in names]
        return [part for found in parts for part in found]
    if hasattr(one, "shape") and hasattr(other, "shape"):
        one, other = np.asarray(one), np.asarray(other)
        same = one.dtype == other.dtype and one.shape == other.shape
        return [] if same and one.tobytes() == other.tobytes() else [name]
    return [] if type(one) is type(other) and repr(one) == repr(other) else [name]


@cache
def scratch() -> Path:
    """A folder of this process."""
    holder = tempfile.TemporaryDirectory()
    _HELD.append(holder)
    return Path(holder.name)


_HELD: list[tempfile.TemporaryDirectory[str]] = []


@cache
def files() -> dict[str, tuple[str, bytes]]:
    """Sound files by form: name and bytes; the same in every process."""
    import tiny
    from crn_fast import checkpoint, container, trust
    from crn_fast.backends import native
    from crn_fast.manifest import Manifest
    from hostile.engines import CODE

    os.environ["XDG_CONFIG_HOME"] = str(scratch())
    made = tiny.make_checkpoint()
    folder = scratch()
    checkpoint.save(folder / "net.safetensors", made)
    _write_run(folder / "ckpt.pt", made)
    about = (made.labels, "native", "auto", "any", made.sha256(), {}, {})
    packed = native.pack(made.spec, made.tensors, "auto")
    container.write(folder / "native.crn", packed, Manifest(made.spec, *about).to_metadata())
    names = {"safetensors": "net.safetensors", "ckpt.pt": "ckpt.pt", "native": "native.crn"}
    for backend, (payload, metadata) in CODE().items():
        names[backend] = f"{backend}.crn"
        container.write(folder / names[backend], payload, metadata, trust.sign)
    return {form: (name, (folder / name).read_bytes()) for form, name in names.items()}


def _write_run(path: Path, made: Any) -> None:
    """What training writes: weights, their means, an optimizer's state."""
    import torch

    from crn_fast import checkpoint, torch_file

    model = {name: torch.from_numpy(tensor) for name, tensor in made.tensors.items()}
    moments = {
        i: {"step": torch.tensor(float(i)), "exp_avg": t + 1, "exp_avg_sq": t * t}
        for i, t in enumerate(model.values())
    }
    groups = [{"lr": 1e-4, "betas": (0.9, 0.999), "eps": 1e-8, "params": list(moments)}]
    state = {
        **checkpoint.header(made),
        "model": model,
        "raw": {name: tensor * 2 for name, tensor in model.items()},
        "optimizer": {"state": moments, "param_groups": groups},
        "step": 7,
        "recipe": "{}",
    }
    with path.open("wb") as stream:
        torch_file.write(state, stream)


@cache
def places(form: str) -> tuple[tuple[str, int, int], ...]:
    """Name, first byte and end of each tensor's bytes in a container or archive."""
    name, whole = files()[form]
    if form == "ckpt.pt":
        import zipfile

        with zipfile.ZipFile(scratch() / name) as archive:
            members = [m for m in archive.infolist() if "/data/" in m.filename and m.file_size]
        starts = {m.filename: m.header_offset + 30 for m in members}
        # The name and torch's padding lie between a member's header and its bytes.
        extra = {n: sum(_two(whole, at - 4 + 2 * i) for i in (0, 1)) for n, at in starts.items()}
        return tuple(
            (m.filename, starts[m.filename] + extra[m.filename],
             starts[m.filename] + extra[m.filename] + m.file_size) for m in members
        )  # fmt: skip
    first = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:first])
    header.pop("__metadata__")
    found = [(n, *(first + at for at in e["data_offsets"])) for n, e in header.items()]
    return tuple(place for place in found if place[1] < place[2])


def _two(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def tensor_at(damage: Damage) -> str | None:
    """The tensor whose bytes hold a place; of an archive only that it is one of the model's."""
    size = len(files()[damage.form][1])
    at = damage.at % size
    found = next((name for name, start, end in places(damage.form) if start <= at < end), None)
    if found and damage.form == "ckpt.pt":
        return "its SHA-256 differs"
    return found


def _flip(damage: Damage, whole: bytes) -> bytes:
    changed = bytearray(whole)
    changed[damage.at % len(whole)] ^= 1 << damage.what % 8
    return bytes(changed)


def _swap_tensors(damage: Damage, whole: bytes) -> bytes:
    """The bytes of two tensors of one size, or where `what` is odd their names."""
    same: dict[int, list[tuple[str, int, int]]] = {}
    for place in places(damage.form):
        same.setdefault(place[2] - place[1], []).append(place)
    groups = [group for group in same.values() if len(group) > 1]
    if not groups:
        return whole
    group = groups[damage.at % len(groups)]
    one = group[damage.at // len(groups) % len(group)]
    other = group[(damage.at // len(groups) + 1 + damage.what % (len(group) - 1)) % len(group)]
    if damage.form == "ckpt.pt":
        members = unzipped(whole)
        members[one[0]], members[other[0]] = members[other[0]], members[one[0]]
        return zipped(members)
    if damage.what % 2:
        first = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:first])
        header[one[0]], header[other[0]] = header[other[0]], header[one[0]]
        text = json.dumps(header).encode()
        return whole[:8] + text + b" " * (first - 8 - len(text)) + whole[first:]
    changed = bytearray(whole)
    changed[one[1] : one[2]], changed[other[1] : other[2]] = (
        whole[other[1] : other[2]],
        whole[one[1] : one[2]],
    )
    return bytes(changed)


def _at(damage: Damage, whole: bytes) -> int:
    return damage.at % (len(whole) + 1)


def _bytes(damage: Damage) -> bytes:
    return bytes((damage.what >> 3 * i) & 0xFF for i in range(1 + damage.what % 7))


KINDS: dict[str, Callable[[Damage, bytes], bytes]] = {
    "flip": _flip,
    "truncation": lambda d, whole: whole[: d.at % len(whole)],
    "swap": _swap_tensors,
    "insertion": lambda d, whole: whole[: _at(d, whole)] + _bytes(d) + whole[_at(d, whole) :],
    "deletion": lambda d, whole: whole[: _at(d, whole)] + whole[_at(d, whole) + 1 + d.what % 7 :],
    "zeros": lambda d, whole: (whole[: _at(d, whole)] + bytes(512) + whole)[: len(whole)],
    "bytes before it": lambda d, whole: _bytes(d) + whole,
    "bytes after it": lambda d, whole: whole + _bytes(d),
    "itself after it": lambda d, whole: whole + whole,
    "two halves of two": lambda d, whole: whole[: _at(d, whole)] + whole[-_at(d, whole) :],
}


def _checkpoint(path: Path) -> Any:
    from crn_fast import checkpoint

    found = checkpoint.load(path)
    head = checkpoint.header(found)
    return {**head, "model": dict(found.tensors)}


def _run(path: Path) -> Any:
    from crn_fast import checkpoint

    return checkpoint.load_training(path)


def _engine(path: Path) -> Any:
    from crn_fast import engine

    manifest, packed = engine.read_file(path)
    return {**manifest.to_metadata(), "packed": packed}


def _unhashed(path: Path) -> Any:
    from safetensors.numpy import load_file

    return _or_refused(load_file, path)


def _torch_alone(path: Path) -> Any:
    import torch

    return _or_refused(lambda path: torch.load(path, weights_only=True), path)


def _or_refused(read: Callable[[Path], Any], path: Path) -> Any:
    from crn_fast.errors import BadInput

    try:
        return read(path)
    except Exception as error:
        raise BadInput(f"{path}: refused ({type(error).__name__})") from None


READERS: dict[str, Callable[[Path], Any]] = {
    "safetensors": _checkpoint,
    "ckpt.pt": _run,
    "native": _engine,
    "trt": _engine,
    "fused": _engine,
    "safetensors alone": _unhashed,
    "torch.load alone": _torch_alone,
}
