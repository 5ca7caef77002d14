"""Readers of checkpoints and engines, each given a damaged file: it must refuse, or give the same.

`noticed` is the subject. A case is small, for it travels to a child process: the form of the file,
and what is done to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from hostile.pickles import unzipped, zipped
from hostile.scratch import folder as new_folder


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
    while (found := KINDS[damage.kind](damage, whole)) == whole:
        damage = damage._replace(at=damage.at + 1)  # what changes nothing is no case
    path = scratch() / f"damaged-{name}"
    path.write_bytes(found)
    reader = damage.reader or damage.form
    try:
        differ = differences(sound(reader, name), READERS[reader](path))
    except CrnError as error:
        return _wrong_words(damage, str(error), path)
    if differ:
        return f"{damage}: taken, with another {differ[0]}"
    # A zip archive has dates and other bytes that no reader looks at.
    return None if damage.form == "ckpt.pt" else f"{damage}: taken, though it is not as written"


@cache
def sound(reader: str, name: str) -> Any:
    """What a reader makes of a file that is as it was written."""
    return READERS[reader](scratch() / name)


def _wrong_words(damage: Damage, message: str, path: Path) -> str | None:
    """None for one line that names the file and, where the damage is in a tensor, the tensor."""
    named = tensors_at(damage)
    tensor = not named or any(f" {name} " in f"{message} " for name in named)
    if path.name in message and "\n" not in message and tensor:
        return None
    return f"{damage}: said {message!r}; expected the file and {' or '.join(named) or 'no more'}"


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
    return new_folder()


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


class Place(NamedTuple):
    """Where a tensor's bytes are."""

    stored: str
    """The name in the container, or of the archive's member."""
    start: int
    end: int
    named: str
    """As a message should name it."""


@cache
def places(form: str) -> tuple[Place, ...]:
    """The places of all tensors in a container or archive."""
    name, whole = files()[form]
    if form == "ckpt.pt":
        return tuple(_members(scratch() / name, whole))
    first = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:first])
    header.pop("__metadata__")
    found = [Place(n, *(first + at for at in e["data_offsets"]), n) for n, e in header.items()]
    return tuple(place for place in found if place.start < place.end)


def _members(path: Path, whole: bytes) -> Iterator[Place]:
    """Of an archive, which numbers its tensors as they come."""
    import zipfile

    names = list(_tensors(_run(path), ""))
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            _, data, number = member.filename.rpartition("/data/")
            if data and member.file_size:
                # The name and torch's padding lie between a member's header and its bytes.
                lengths = member.header_offset + 26
                start = lengths + 4 + _two(whole, lengths) + _two(whole, lengths + 2)
                named = names[int(number)]
                yield Place(member.filename, start, start + member.file_size, named)


def _tensors(value: Any, name: str) -> Iterator[str]:
    """Paths of the tensors in nested tables."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors(item, f"{name}.{key}" if name else str(key))
    elif hasattr(value, "shape"):
        yield name


def _two(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 2], "little")


def tensors_at(damage: Damage) -> list[str]:
    """The tensors of which a message should name one: those that are damaged, and nothing else."""
    _, whole = files()[damage.form]
    if damage.kind == "swap":
        return [place.named for place in _swapped(damage)]
    at = damage.at % len(whole) if damage.kind == "flip" else -1
    return [place.named for place in places(damage.form) if place.start <= at < place.end]


def _flip(damage: Damage, whole: bytes) -> bytes:
    changed = bytearray(whole)
    changed[damage.at % len(whole)] ^= 1 << damage.what % 8
    return bytes(changed)


def _swapped(damage: Damage) -> tuple[Place, Place]:
    """Two tensors of one size."""
    same: dict[int, list[Place]] = {}
    for place in places(damage.form):
        same.setdefault(place.end - place.start, []).append(place)
    groups = [group for group in same.values() if len(group) > 1]
    group = groups[damage.at % len(groups)]
    turn = damage.at // len(groups)
    return group[turn % len(group)], group[(turn + 1 + damage.what % (len(group) - 1)) % len(group)]


def _swap_tensors(damage: Damage, whole: bytes) -> bytes:
    """The bytes of two tensors of one size, or where `what` is odd their names."""
    one, other = _swapped(damage)
    held = whole[one.start : one.end], whole[other.start : other.end]
    if held[0] == held[1]:
        return whole
    if damage.form == "ckpt.pt":
        members = unzipped(whole)
        members[one.stored], members[other.stored] = held[1], held[0]
        return zipped(members)
    if damage.what % 2:
        first = 8 + int.from_bytes(whole[:8], "little")
        header = json.loads(whole[8:first])
        names = one.stored, other.stored
        header[names[0]], header[names[1]] = header[names[1]], header[names[0]]
        text = json.dumps(header).encode()
        return whole[:8] + text + b" " * (first - 8 - len(text)) + whole[first:]
    changed = bytearray(whole)
    changed[one.start : one.end], changed[other.start : other.end] = held[1], held[0]
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
