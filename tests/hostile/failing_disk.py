"""A subject for P12: a command that writes, on a disk that is full, may not be written, or fails.

What was there before must be there byte for byte, never written into, or the whole new file; the
exit code is 5, in one line; no temporary file is left. A command that is done in spite of it has
written what it writes if nothing fails. Each case is a call in a process that has its own mounts.
"""

from __future__ import annotations

import ctypes
import errno
import io
import json
import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from typing import NamedTuple

from crn_fast import cli, failpoints, image
from crn_fast.compare import answers
from crn_fast.errors import CrnError
from hostile.old_files import OldFiles
from scene import vgg_state, write_pairs
from tiny import SPEC, save_checkpoint

CLONE_NEWNS = 0x20000
MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 1, 0x20, 0x1000, 0x4000, 0x40000

_SCRATCH = [""]
OLD = b"what was here before"


class Case(NamedTuple):
    command: str
    """Of `COMMANDS`."""
    fault: str
    """Of `FAULTS`, or a failpoint with its error and arrival."""
    where: float
    """In [0, 1): of the bytes that the command writes, for faults that come at some byte."""
    scratch: str
    """A folder of the test."""


COMMANDS = (
    *("train", "build-engine", "onnx", "triton-server", "render", "render-jpg", "render-dir"),
    *("raw", "video", "labels-map", "convert", "answers"),
)
UNMET = "the fault did not come, and what was written is what it should be"
"""A verdict: room is counted in pages, and may just do; a command may not come to a place."""
FAULTS = ("limit", "full", "read-only", "denied", "vanishes", "gone")


def survives(case: Case) -> str | None:
    """Whether a command under a fault leaves what it should."""
    return _judge(case)


def in_place(case: Case) -> str | None:
    """The same, of one that writes its files where they are."""
    from hostile import defects

    defects.in_place()
    return _judge(case)


def copies(case: Case) -> str | None:
    """The same, of one that copies a new file over an old one."""
    from hostile import defects

    defects.copies()
    return _judge(case)


def _judge(case: Case) -> str | None:
    _SCRATCH[:] = [case.scratch]
    inputs = _inputs()
    told = f"{case.command}, {case.fault}, {case.where:.4f}"
    with tempfile.TemporaryDirectory(dir=_scratch()) as name:
        out = Path(name) / "out"
        out.mkdir()
        largest = max(map(len, _undisturbed(case.command).values()))
        if case.fault == "full":
            _mount(b"tmpfs", out, b"tmpfs", 0, b"size=64m,mode=755")
        _prepare(case.command, inputs, out)
        old = OldFiles(out)
        if case.fault == "full":
            state = os.statvfs(out)
            room = (state.f_blocks - state.f_bfree) * state.f_frsize + int(case.where * largest)
            _mount(b"tmpfs", out, b"tmpfs", MS_REMOUNT, f"size={room // 4096 * 4096}".encode())
        with _fault(case, out, int(case.where * largest)) as hit:
            code, said = run(_arguments(case.command, inputs, out))
        after = _files(out) if out.exists() else {}
        touched = old.let_go()
        if case.fault in ("full", "read-only"):
            _libc().umount2(os.fsencode(out), 2)
        if touched:
            return f"{told}: {touched}"
        return _wrong(case, told, code, said, old.names, after, hit())


def _wrong(
    case: Case,
    told: str,
    code: int,
    said: str,
    before: dict[str, bytes],
    after: dict[str, bytes],
    hit: bool,
) -> str | None:
    told = f"{told}: exit code {code}: {said[-300:]}"
    lines = [line for line in said.splitlines() if line.startswith("crn-fast:")]
    if code == 0 and hit:
        return f"{told}: done, in spite of it"
    if code == 0:
        whole = _undisturbed(case.command)
        wrong = [n for n in whole | after if not _done(n, whole.get(n), after.get(n))]
        return f"{told}: done, with other {', '.join(sorted(wrong))}" if wrong else UNMET
    if code != 5 or len(lines) != 1 or "Traceback" in said or "bug of ours" in said:
        return told
    if os.strerror(errno.ENOSPC) in said and not ("needs" in said and "free" in said):
        return f"{told}: does not say what is needed and free"
    if left := [
        n for n in after if "/." in f"/{n}" and not n.endswith(".lock") and n not in before
    ]:
        return f"{told}: left {left}"
    for name, data in before.items() if case.fault not in ("vanishes", "gone") else ():
        found = after.get(name)
        if found != data and not _may_change(case.command, name, data, found):
            return f"{told}: {name} was {len(data)} bytes, is {found and len(found)} others"
    fresh = [name for name in after if name not in before]
    if torn := [name for name in fresh if not _whole(case.command, name, after[name])]:
        return f"{told}: {torn} are not whole"
    return None


def _may_change(command: str, name: str, before: bytes, after: bytes | None) -> bool:
    """A run goes on before its disk fails, a log grows, a file may be in place before that."""
    if after is None:
        return command == "train" and name.startswith("run/ckpt-")
    if name.endswith(".jsonl"):
        return after.startswith(before)
    return _whole(command, name, after)


def _whole(command: str, name: str, data: bytes) -> bool:
    """Whether a file is one that the command writes if nothing fails, not a part of it."""
    if name.endswith((".jsonl", ".lock")):
        return True  # its last line may be half a line, which readers pass over
    if command == "train" and name.endswith(".png"):
        return _is_picture(data)  # of a step whose picture a later one replaces
    return data in _undisturbed(command).values()


def _is_picture(data: bytes) -> bool:
    path = _scratch() / "look.png"
    path.write_bytes(data)
    try:
        image.read(path)
    except CrnError:
        return False
    finally:
        path.unlink()
    return True


def _done(name: str, expected: bytes | None, found: bytes | None) -> bool:
    """Whether a file is what it is if nothing fails; the lines of a log hold times."""
    if expected is None or found is None or not name.endswith(".jsonl"):
        return expected == found
    return [*map(_keys, expected.splitlines())] == [*map(_keys, found.splitlines())]


def _keys(line: bytes) -> list[str]:
    return sorted(json.loads(line))


def run(arguments: list[str] | Callable[[], None]) -> tuple[int, str]:
    """A command's exit code and what it says on stderr."""
    said = io.StringIO()
    with redirect_stderr(said), redirect_stdout(io.StringIO()):
        try:
            if callable(arguments):
                arguments()
                return 0, ""
            cli.main(arguments)
        except SystemExit as end:
            return int(end.code or 0), said.getvalue()
        except CrnError as error:
            return error.exit_code, f"crn-fast: {error}"
    raise AssertionError("cli.main returned")


def _prepare(command: str, inputs: Path, out: Path) -> None:
    """What is there before: an old file of each name, or a run to go on with."""
    if command == "train":
        shutil.copytree(inputs / "run", out / "run")
    elif command == "answers":
        _append(out / "it.csv")
    elif command == "render-dir":
        (out / "it").mkdir()
        (out / "it" / "0.png").write_bytes((inputs / "data" / "photos" / "1.png").read_bytes())
    elif command == "labels-map":
        (out / "it").mkdir()
        shutil.copy(inputs / "data" / "labels" / "1.png", out / "it" / "0.png")
    elif command != "triton-server":
        (out / _NAMES[command]).write_bytes(OLD)


_NAMES = {
    "build-engine": "it.crn", "onnx": "it.onnx", "render": "it.png", "render-jpg": "it.jpg",
    "raw": "it.raw", "video": "it.mp4", "convert": "it.safetensors",
}  # fmt: skip


def _arguments(command: str, inputs: Path, out: Path) -> list[str] | Callable[[], None]:
    model, layouts = str(inputs / "model.safetensors"), inputs / "data" / "labels"
    native = ["--backend", "native", "--threads", "1", "--images", "1", "-m", model, "--overwrite"]
    target = str(out / _NAMES.get(command, "it"))
    one = ["render", "--layout", str(layouts / "0.png"), *native, "-o", target]
    folder = ["render", "--layout", str(layouts), *native, "-o", target]
    if command == "answers":
        return lambda: _append(out / "it.csv")
    return {
        "train": [*_train(inputs, out / "run"), "--resume", "--set", "training.steps=8"],
        "build-engine": ["build-engine", model, "--backend", "native", "-o", target, "--force"],
        "onnx": ["export", "onnx", model, "-o", target, "--force"],
        "triton-server": ["export", "triton-server", model, "-o", target],
        "render": one,
        "render-jpg": one,
        "render-dir": folder,
        "raw": folder,
        "video": folder,
        "labels-map": [
            "labels", "map", str(layouts), target, "--from", "camvid", "--to", "camvid",
            "--overwrite",
        ],
        "convert": ["convert", str(inputs / "model.pt"), target, "--force"],
    }[command]  # fmt: skip


def _train(inputs: Path, run: Path) -> list[str]:
    command = [
        "train",
        str(inputs / "photos"),
        "-c",
        str(inputs / "recipe.toml"),
        "--device",
        "cpu",
    ]
    return [*command, "--out", str(run), "--no-check"]


def _append(path: Path) -> None:
    answers.append(
        path, answers.Answer("2026-01-01", "r", 1, "scene", "a", "b", "unlimited", 0, 900, "a")
    )


@cache
def _scratch() -> Path:
    """Of this process, below the folder of the test."""
    return Path(tempfile.mkdtemp(dir=_SCRATCH[0]))


@cache
def _inputs() -> Path:
    """Made once a process."""
    import torch

    folder = _scratch() / "inputs"
    folder.mkdir()
    os.environ["XDG_CONFIG_HOME"] = os.environ["XDG_CACHE_HOME"] = str(folder)
    os.environ["MPLCONFIGDIR"] = str(folder)
    save_checkpoint(folder / "model.safetensors", SPEC)
    save_checkpoint(folder / "model.pt", SPEC)
    write_pairs(folder / "data", 4, SPEC.size)
    write_pairs(folder / "photos", 4)
    torch.save(vgg_state(), folder / "vgg19.pth")
    (folder / "recipe.toml").write_text(
        'label_set = "camvid"\n[network]\nwidths = [8, 8, 6]\nclasses = 12\n'
        f'[loss]\nweights = "{folder}/vgg19.pth"\ncalibrate_at = 0\n'
        "[training]\nbatch = 2\nsteps = 4\nsave_every = 2\nsample_every = 3\nworkers = 0\n"
    )
    code, said = run(_train(folder, folder / "run"))
    assert code == 0, said
    return folder


@cache
def _undisturbed(command: str) -> dict[str, bytes]:
    """Each file that is there after a command if nothing fails."""
    inputs = _inputs()
    with tempfile.TemporaryDirectory(dir=_scratch()) as name:
        out = Path(name)
        _prepare(command, inputs, out)
        code, said = run(_arguments(command, inputs, out))
        assert code == 0, f"{command}: {said}"
        return _files(out)


def _files(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@contextmanager
def _fault(case: Case, out: Path, room: int) -> Iterator[Callable[[], bool]]:
    """The fault, and afterwards whether it must have been met; `room` in bytes."""
    if ":" in case.fault:
        failpoints.arrivals.clear()
        os.environ[failpoints.VARIABLE] = case.fault
        number = int(case.fault.split(":")[2])
        try:
            yield lambda: failpoints.arrivals[case.fault] >= number
        finally:
            del os.environ[failpoints.VARIABLE]
    elif case.fault == "limit":
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
        try:
            yield lambda: True
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    elif case.fault == "full":
        yield lambda: False  # it may just do
    elif case.fault == "read-only":
        _mount(os.fsencode(out), out, None, MS_BIND, None)
        _mount(None, out, None, MS_REMOUNT | MS_BIND | MS_RDONLY, None)
        yield lambda: True
    elif case.fault == "denied":
        folders = [out, *(path for path in out.rglob("*") if path.is_dir())]
        for folder in folders:
            folder.chmod(0o555)
        _heed_permissions(True)
        try:
            yield lambda: True
        finally:
            _heed_permissions(False)
            for folder in folders:
                folder.chmod(0o755)
    else:
        yield from _vanishing(out, at_once=case.fault == "gone")


def _vanishing(out: Path, at_once: bool) -> Iterator[Callable[[], bool]]:
    """The folder goes, at once or as the first file was written."""
    reach = failpoints.reach

    def vanish(place: str, before: Callable[[], object] = lambda: None) -> None:
        if place == "write.written":
            shutil.rmtree(out, ignore_errors=True)

    if at_once:
        shutil.rmtree(out)
    else:
        failpoints.reach = vanish
    try:
        yield lambda: False
    finally:
        failpoints.reach = reach


def mounts() -> bool:
    """Whether this process may mount: it has mounts of its own from now on, which end with it."""
    return not _libc().unshare(CLONE_NEWNS) and not _libc().mount(
        b"none", b"/", None, MS_REC | MS_PRIVATE, None
    )


def _mount(source: bytes | None, path: Path, kind: bytes | None, flags: int, data: object) -> None:
    assert _own_mounts(), "cannot mount here"
    if _libc().mount(source, os.fsencode(path), kind, flags, data):
        raise OSError(ctypes.get_errno(), f"mount on {path}")


_own_mounts = cache(mounts)


def _heed_permissions(heed: bool) -> None:
    """Whether root may write only what its permissions say: the capability CAP_DAC_OVERRIDE."""
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _libc().capget(header, sets)
    effective, permitted = sets[0], sets[1]
    sets[0] = effective & ~2 if heed else effective | permitted & 2
    if _libc().capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
