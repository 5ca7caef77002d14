"""The doors by which a file comes in, each opened while a hook listens to what Python does.

`opened` is the subject: a file is put into a folder of its own and opened by a door; what was done
besides reading it, how it was refused, how long and with how much memory, is the verdict.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from hostile.command_line import run

SECONDS = 5.0
"""Of CPU time, that refusing a file may take: others may be at work on the machine."""
MEGABYTES = 400
"""Of memory, above what the process had, that refusing a file may take."""


class Case(NamedTuple):
    name: str
    files: dict[str, bytes]
    """By name below the folder; the first is the one that is opened."""
    door: str
    codes: tuple[int, ...] = (3,)
    """Exit codes that are right."""


NEVER = (
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "pty.spawn"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "socket.getaddrinfo", "urllib.Request"),
    "pickle.find_class",
    *("ctypes.dlopen", "webbrowser.open", "sys.addaudithook", "shutil.unpack_archive"),
)
CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.chmod", "os.link", "os.symlink")
PYTHON = ("<frozen importlib", "/dataclasses.py", "/typing.py", "/collections/__init__.py")
"""Where Python makes code of what we wrote: as it imports, and for types and tuples with names."""


def _by_python() -> bool:
    frame = sys._getframe(1)
    while frame is not None:
        if any(place in frame.f_code.co_filename for place in PYTHON):
            return True
        frame = frame.f_back
    return False


class Watch:
    """Listens while it is on. A hook cannot be taken away again, so there is one a process."""

    def __init__(self) -> None:
        self.on, self.folder = False, ""
        self.seen: list[str] = []
        sys.addaudithook(self)

    def __call__(self, event: str, details: tuple[Any, ...]) -> None:
        if not self.on:
            return
        self.on = False  # what is asked below is not to be heard
        try:
            if self._wrong(event, details):
                self.seen.append(f"{event} {details!r:.120}")
        finally:
            self.on = True

    def _wrong(self, event: str, details: tuple[Any, ...]) -> bool:
        if event == "ctypes.dlopen":
            return details[0] not in (None, "libcuda.so.1")
        if event == "subprocess.Popen" and "matconvnet.py" in str(details[1]):
            return False  # our own reader of .mat files
        if event == "shutil.rmtree":
            return not self._inside(details[0])
        if event in NEVER:
            return True
        if event == "open":
            path, mode, flags = details
            writes = any(letter in (mode or "") for letter in "wax+") or (
                isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            )
            return bool(writes) and isinstance(path, str | bytes) and not self._inside(path)
        if event in CHANGES:
            return not self._inside(details[0])
        if event == "exec":
            return details[0].co_filename.startswith("<") and not _by_python()
        if event in ("compile", "marshal.loads", "code.__new__", "function.__new__"):
            return not _by_python()
        return event == "import" and details[0] in ("this", "antigravity", "distutils.spawn")

    def _inside(self, path: Any) -> bool:
        return os.path.abspath(os.fsdecode(path)).startswith((self.folder, os.devnull))


@cache
def watch() -> Watch:
    return Watch()


def opened(case: Case) -> str | None:
    """What was wrong with how a door took a file."""
    door = (DOORS | PLANTED)[case.door]
    _warm(case.door)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        for path, data in case.files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(data)
        ears = watch()
        ears.folder, ears.seen = str(folder), []
        before, start = _memory("VmRSS"), time.process_time()
        Path("/proc/self/clear_refs").write_text("5")
        ears.on = True
        try:
            code, told = door(folder, folder / next(iter(case.files)))
        except Exception as error:
            code, told = 1, f"{type(error).__name__}: {error}"
        finally:
            ears.on = False
        took, grown = time.process_time() - start, _memory("VmHWM") - before
    wrong = [f"did {', '.join(ears.seen[:3])}"] if ears.seen else []
    if code not in case.codes:
        wrong.append(f"ended with {code}")
    if told.count("\n") > 1 or not told.rstrip("\n").isprintable() or len(told) > 1500:
        wrong.append("its message is no line of text")
    if "root:" in told:
        wrong.append("its message has what is in another file")
    if took > SECONDS:
        wrong.append(f"took {took:.1f} s")
    if grown > MEGABYTES:
        wrong.append(f"took {grown:.0f} MB")
    return f"{case.name}, by {case.door}: {'; '.join(wrong)} ({told[:200]!r})" if wrong else None


def _memory(field: str) -> float:
    """Of this process, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{field}:")[1].split()[0]) / 1000


@cache
def _warm(door: str) -> None:
    """Have what a door imports imported: only what a file makes it do is to be heard."""
    import torch  # noqa: F401

    import tiny

    if door not in DOORS:
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for path in (folder / "net.pt", folder / "run" / "ckpt.pt"):
            path.parent.mkdir(exist_ok=True)
            tiny.save_checkpoint(path)
        for file in ("net.pt", "none.pt", "none.crn", "none.toml"):
            try:
                DOORS[door](folder, folder / file)
            except Exception:
                continue


def _load(folder: Path, file: Path) -> tuple[int, str]:
    from crn_fast import checkpoint

    return _called(checkpoint.load, file)


def _open(folder: Path, file: Path) -> tuple[int, str]:
    from crn_fast.engine import Engine

    return _called(Engine.open, file)


def _weights(kind: str) -> Callable[[Path, Path], tuple[int, str]]:
    def door(folder: Path, file: Path) -> tuple[int, str]:
        from crn_fast.measure import inception
        from crn_fast.palette import label_set
        from crn_fast.training import features, segmenter

        if kind == "segmenter":
            return _called(segmenter.load, file, label_set("camvid"))
        if kind == "inception":
            return _called(inception.load, file)
        return _called(features.load, kind, file)

    return door


def _called(function: Callable[..., object], *arguments: object) -> tuple[int, str]:
    from crn_fast.errors import CrnError

    try:
        function(*arguments)
        return 0, ""
    except CrnError as error:
        return error.exit_code, " ".join(str(error).split(" "))


def _command(*words: str) -> Callable[[Path, Path], tuple[int, str]]:
    """`crn-fast -q WORDS`, with the file for FILE and the folder's layout for LAYOUT."""

    def door(folder: Path, file: Path) -> tuple[int, str]:
        made = {
            "FILE": lambda: file,
            "LAYOUT": lambda: _layout(folder),
            "DATA": lambda: _data(folder),
        }
        given = [str(made[word]()) if word in made else word for word in words]
        ran = run(["-q", *given], folder)
        # What is printed on the way to success is for people: a line a fact.
        return ran.code, ran.err if ran.code else ran.err + ran.out.replace("\n", " ")

    return door


def _layout(folder: Path) -> Path:
    from crn_fast import layout
    from crn_fast.palette import label_set
    from tiny import SPEC, labels_array

    path = folder / "layout.png"
    if not path.exists():
        layout.write(layout.from_array(labels_array(1, SPEC)[0], label_set("camvid")), path)
    return path


def _data(folder: Path) -> Path:
    from scene import write_pairs

    return folder / "data" if (folder / "data").exists() else write_pairs(folder / "data", 1)


def _resume(folder: Path, file: Path) -> tuple[int, str]:
    words = ["train", "DATA", "--out", ".", "--resume", "--device", "cpu", "-c", "small.toml"]
    (folder / "small.toml").write_text(RECIPE)
    return _command(*words)(folder, file)


RECIPE = """label_set = "camvid"
[network]
widths = [7, 6, 4]
base = [3, 5]
classes = 12
[loss]
kind = "image"
[training]
steps = 1
workers = 0
"""
NETWORKS: dict[str, Callable[[Path, Path], tuple[int, str]]] = {
    "checkpoint.load": _load,
    "Engine.open": _open,
    "info": _command("info", "FILE"),
    "render": _command("render", "--layout", "LAYOUT", "-m", "FILE", "-o", "out.png"),
    "build-engine": _command("build-engine", "FILE", "-o", "out.crn"),
    "export": _command("export", "onnx", "FILE", "-o", "out.onnx"),
    "convert": _command("convert", "FILE", "out.safetensors"),
    "train --init-from": _command(
        *("train", "DATA", "--out", "new", "--init-from", "FILE", "--device", "cpu"),
        *("--set", "loss.kind=image", "--set", "label_set=camvid", "--set", "network.classes=12"),
        *("--set", "network.widths=[4]", "--set", "training.workers=0"),
    ),
}
"""Those for a network."""
DOORS = NETWORKS | {
    "train --resume": _resume,
    "vgg19": _weights("vgg19"),
    "distilled": _weights("distilled"),
    "inception": _weights("inception"),
    "segmenter": _weights("segmenter"),
    "recipe": _command("train", "DATA", "-c", "FILE", "--out", "new", "--device", "cpu"),
    "labels show": _command("labels", "show", "FILE"),
    "info --labels": _command("info", "LAYOUT", "--labels", "FILE"),
}


def _unsafe(folder: Path, file: Path) -> tuple[int, str]:
    import torch

    try:
        torch.load(file, weights_only=False)
    except BaseException as error:
        return 3, type(error).__name__
    return 3, ""


def _plain(folder: Path, file: Path) -> tuple[int, str]:
    import torch

    try:
        torch.load(file, weights_only=True)
    except Exception as error:
        return 3, type(error).__name__
    return 0, "took it"


PLANTED = {"torch.load of anything": _unsafe, "torch.load of weights only": _plain}
"""Doors that should not be."""
