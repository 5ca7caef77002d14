"""A subject for P10: a run's folder whose newest checkpoint is damaged, which is to be resumed."""

from __future__ import annotations

import hashlib
import os
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from crn_fast import checkpoint
from crn_fast.errors import BadInput
from crn_fast.training.run_folder import RunFolder
from runs import plain

KINDS = ("flip", "flips", "truncate", "zeros", "zero tail", "empty", "missing", "folder", "fifo")
KINDS += ("dangling link", "text", "another zip", "torn write", "unreadable")
NAMES = ("ckpt.pt", "ckpt-24.pt", "ckpt-20.pt")
"""The newest under both of its names, and the one before."""


class Damage(NamedTuple):
    template: str
    """The folder of a run that ended."""
    kind: str
    where: float
    """In [0, 1): of the file."""
    names: tuple[str, ...]
    """Of the checkpoints that are damaged."""


def goes_on(case: Damage) -> str | None:
    """Whether what is resumed is the newest sound checkpoint, told of with what was passed over."""
    return _judge(case)


def trusts_the_newest(case: Damage) -> str | None:
    """The same, of a run that knows no other than its newest."""
    from hostile import defects

    defects.trusts_the_newest()
    return _judge(case)


def _judge(case: Damage) -> str | None:
    with TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        copy(Path(case.template), run)
        for name in case.names:
            damage(run / name, case.kind, case.where)
        before = _seen(run)
        told = f"{case.kind} at {case.where:.6f} of {', '.join(case.names)}"
        opened = RunFolder(run)
        try:
            state, found, passed = opened.load()
        except BadInput as error:
            if len(case.names) < len(NAMES):
                return f"{told}: cannot be resumed: {error}"
            if unnamed := [n for n in NAMES if f"{run / n}" not in str(error)]:
                return f"{told}: {error}, without a word of {', '.join(unnamed)}"
            return None if _seen(run) == before else f"{told}: and something was changed"
        finally:
            opened.close()
        known = _known(case.template)
        if _digest(state) != known.get(Path(found.source).name):
            return f"{told}: resumes from {found.source} with other contents"
        if known[Path(found.source).name] == known["ckpt.pt"]:
            return None  # the damage was in no content, or the other name's file is sound
        sound = [name for name in NAMES if name not in case.names]
        if Path(found.source).name != sound[0]:
            return f"{told}: resumes from {found.source}, not {sound[0]}"
        if len(passed) != len(case.names) or not all(
            str(run / n) in line for n, line in zip(case.names, passed, strict=True)
        ):
            return f"{told}: {passed}"
        return None


def copy(template: Path, run: Path) -> None:
    """A run's folder with its newest checkpoint under two names, as training leaves it."""
    shutil.copytree(template, run)
    (run / NAMES[0]).unlink()
    os.link(run / NAMES[1], run / NAMES[0])


def damage(path: Path, kind: str, where: float) -> None:
    """Do to a file what disks and people do; `where` in [0, 1)."""
    whole = path.read_bytes()
    size = len(whole)
    path.unlink()
    at = int(where * size)
    array = np.frombuffer(whole, np.uint8).copy()
    if kind == "flip":
        array[at] ^= 1 << int(where * 1e6) % 8
    elif kind == "flips":
        array[np.random.default_rng(at).integers(0, size, 64)] ^= 0x55
    elif kind in ("truncate", "torn write"):
        array = array[: at if kind == "truncate" else max(0, at // 4096 * 4096)]
    elif kind == "zeros":
        array[:] = 0
    elif kind == "zero tail":
        array[at // 512 * 512 :] = 0
    elif kind == "empty":
        array = array[:0]
    elif kind == "text":
        array = np.frombuffer(b"step 20 of 24\n" * 20, np.uint8)
    elif kind == "another zip":
        array = np.frombuffer(b"PK\x05\x06" + bytes(18), np.uint8)
    if kind == "folder":
        path.mkdir()
        (path / "lost+found").write_bytes(b"?")
    elif kind == "fifo":
        os.mkfifo(path)
    elif kind == "dangling link":
        path.symlink_to("nowhere")
    elif kind != "missing":
        path.write_bytes(array.tobytes())
        if kind == "unreadable":
            path.write_bytes(whole[:at])  # what root sees, whom no permission stops
            path.chmod(0)


@cache
def _known(template: str) -> dict[str, str]:
    return {name: _digest(checkpoint.load_training(Path(template) / name)) for name in NAMES}


def _digest(state: dict[str, Any]) -> str:
    return hashlib.sha256(b"".join(plain(dict(state)))).hexdigest()


def _seen(run: Path) -> dict[str, Any]:
    """What of a folder must not change."""
    return {
        str(path.relative_to(run)): (path.lstat().st_mode, path.lstat().st_size)
        for path in sorted(run.rglob("*"))
        if path.name != ".lock"
    }
