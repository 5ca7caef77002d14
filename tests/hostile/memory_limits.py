"""Rendering with too little memory, for real: each case a fork whose address space is limited.

A fork inherits an open engine, so that a case takes milliseconds and what runs out of memory is the
rendering, not Python's start.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import os
import select
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, cast

import numpy as np

import tiny
from crn_fast import checkpoint, layout
from crn_fast import engine as engine_module
from crn_fast.engine import Engine
from crn_fast.errors import ResourceError
from crn_fast.palette import label_set
from crn_fast.serve import worker
from crn_fast.spec import CascadeSpec
from hostile import scratch
from hostile.command_line import run

SPEC = CascadeSpec(widths=(16,) * 6, base=(4, 8), classes=12)
"""Pictures of 128x256: 4 MB of features a layout."""
LAYOUTS, BATCH = 6, 6
BACKENDS, WAYS = ("native", "eager"), ("render", "stream", "worker", "command")
COUNTED = ("render", "worker")
"""Ways of which it is known how many layouts are rendered at a time."""
NARROWER = tuple(megabytes << 20 for megabytes in (22, 18, 15, 12, 9, 6))
AT_ONCE = "all layouts at once, in any room"
SECONDS = 60.0
DEFECTS = {
    "zeros": ("zeros for pictures", "other pixels, and no word"),
    "dropped": ("an error that names no sizes", "exit 5 without sizes"),
    "whole": ("no smaller batches", "though there is room for some layouts"),
}
"""What is planted -> in words, and the words of the verdict that notices it."""


@dataclass(frozen=True)
class Case:
    backend: str
    way: str
    room: int | None
    """Bytes of address space above what the process has; None for the first of `NARROWER` that is
    too few for all layouts at once: native must render them a few at a time. PyTorch keeps what it
    took, so that after the first try eager may have no room for one."""
    threads: int = 2
    defect: str | None = None
    """Of `DEFECTS`, planted."""


@dataclass(frozen=True)
class Scene:
    folder: Path
    labels: np.ndarray
    engines: dict[str, Engine]
    expected: dict[str, np.ndarray]


@functools.cache
def scene() -> Scene:
    """The engines, open, and the pictures that are right; one for the life of the process."""
    # One arena: each has tens of megabytes that the limit counts before they are used.
    most_arenas = -8
    ctypes.CDLL(None).mallopt(most_arenas, 1)
    folder = scratch.folder()
    checkpoint.save(folder / "net.safetensors", tiny.calm_checkpoint(SPEC))
    labels = tiny.labels_array(LAYOUTS, SPEC)
    (folder / "layouts").mkdir()
    for i, ids in enumerate(labels):
        layout.write(layout.from_array(ids, label_set("camvid")), folder / f"layouts/{i}.png")
    engines, expected = {}, {}
    for backend in BACKENDS:
        engines[backend] = Engine.open(folder / "net.safetensors", backend=backend, threads=1)
        expected[backend] = np.concatenate([engines[backend].render(ids) for ids in labels])
        words = command(backend, folder / backend, 1)
        assert run(words, folder).code == 0
    return Scene(folder, labels, engines, expected)


def command(backend: str, out: Path, threads: int) -> list[str]:
    words = ["render", "--layout", "layouts", "-m", "net.safetensors", "-o", str(out)]
    return [*words, "--batch", str(BATCH), "--backend", backend, "--threads", str(threads)]


def starved(case: Case) -> str | None:
    """None when the pictures are right, or refused with what was needed and is free."""
    rooms = NARROWER if case.room is None else (case.room,)
    # What all layouts take at once differs with the backend, the way and the machine.
    return next((v for room in rooms if (v := _starved(case, room)) != AT_ONCE), AT_ONCE)


def _starved(case: Case, room: int) -> str | None:
    here = scene()
    out = Path(tempfile.mkdtemp(dir=here.folder))
    try:
        with _shared(here.engines[case.backend]) as shared:
            code, said = forked(lambda: _work(case, here, out, shared), room)
        wrong = _judge(case, code, said, here.expected[case.backend])
        return wrong or _judge_files(out, here.folder / case.backend, code)
    finally:
        shutil.rmtree(out, ignore_errors=True)


def _judge(case: Case, code: int, said: str, expected: np.ndarray) -> str | None:
    if code == 5:
        if "needed" not in said or "free" not in said:
            return f"exit 5 without sizes: {said}"
        return None if case.room is not None else f"refused, {DEFECTS['whole'][1]}: {said}"
    if code:
        return f"exit {code}: {said}"
    digest, _, turns = said.partition(" ")
    if digest not in ("", hashlib.sha256(expected.tobytes()).hexdigest()):
        return "other pixels, and no word"
    return AT_ONCE if case.room is None and int(turns) == 1 else None


def _judge_files(out: Path, right: Path, code: int) -> str | None:
    """The pictures there are whole; all are there where the command says so."""
    found = {path.name: path.read_bytes() for path in out.glob("*") if path.name[0].isdigit()}
    if strange := [path.name for path in out.rglob("*") if ".png." in path.name]:
        return f"exit {code} left {strange[0]}"
    for name, data in found.items():
        if data != (right / name).read_bytes():
            return f"exit {code}: {name} is another picture"
    wanted = len(list(right.glob("*.png"))) if any(out.iterdir()) and not code else 0
    return None if len(found) >= wanted else f"exit 0 with {len(found)} pictures of {wanted}"


def _work(case: Case, here: Scene, out: Path, shared: SharedMemory) -> tuple[int, str]:
    """In the fork: the exit code, and the message or the pictures' digest and how many turns."""
    engine = here.engines[case.backend]
    renderer: Any = engine._renderer
    if case.backend == "native":
        renderer.ops.threads = case.threads
    if case.defect == "whole":
        cast(Any, engine_module).in_parts = lambda render, labels: render(labels)
    if case.defect or case.way in COUNTED:
        engine._renderer = _Counted(renderer, case.defect)
    if case.way == "command":
        from unittest import mock

        opened = mock.patch.object(Engine, "open", return_value=engine)
        with opened:
            ran = run(command(case.backend, out, case.threads), here.folder)
        return ran.code, ran.message if ran.code else ""
    try:
        found = _pictures(case.way, engine, here.labels, shared)
    except ResourceError as error:
        return 5, str(error)
    turns = getattr(engine._renderer, "turns", 0)
    return 0, f"{hashlib.sha256(found.tobytes()).hexdigest()} {turns}"


def _pictures(way: str, engine: Engine, labels: np.ndarray, shared: SharedMemory) -> np.ndarray:
    if way == "render":
        return engine.render(labels)
    if way == "stream":
        return np.stack(list(engine.stream(labels, batch=BATCH)))
    facts = _facts(engine)
    worker.layouts(shared, facts, len(labels))[:] = labels
    if (error := worker._answer(shared, facts, engine.render, len(labels))) is not None:
        raise error
    return worker.pictures(shared, facts, len(labels))


def _facts(engine: Engine) -> worker.Facts:
    return worker.Facts("", "", "", "", SPEC.size, SPEC.images, engine.labels)


@contextmanager
def _shared(engine: Engine) -> Iterator[SharedMemory]:
    """As between a server and its engine's process."""
    memory = SharedMemory(create=True, size=worker.memory_for([_facts(engine)], LAYOUTS))
    try:
        yield memory
    finally:
        memory.close()
        memory.unlink()


class _Counted:
    """A renderer whose turns are counted; with a defect it makes light of having no memory."""

    def __init__(self, renderer: Any, defect: str | None) -> None:
        self.renderer, self.defect, self.turns = renderer, defect, 0
        self.device, self.precision = renderer.device, renderer.precision

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        if self.defect == "dropped":
            raise ResourceError("no memory")
        try:
            found: np.ndarray = self.renderer(labels)
        except ResourceError:
            if self.defect != "zeros":
                raise
            found = np.zeros((len(labels), SPEC.images, *SPEC.size, 3), np.uint8)
        self.turns += 1
        return found


def forked(work: Callable[[], tuple[int, str]], room: int) -> tuple[int, str]:
    """What `work` gives in a fork with so many bytes of address space more than it has."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code, said = 99, "died in Python"
        try:
            os.close(read)
            with _limited(room):
                try:
                    code, said = work()
                except BaseException as error:
                    code, said = 98, f"{type(error).__name__}: {error}"
            os.write(write, f"{code} {said}".encode()[:4000])
        finally:
            os._exit(0)
    os.close(write)
    data, until = b"", time.monotonic() + SECONDS
    with os.fdopen(read, "rb", buffering=0) as stream:
        while select.select([stream], [], [], max(0, until - time.monotonic()))[0]:
            part = stream.read(4096)
            if not part:
                break
            data += part
        else:
            os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if status or not data:
        return 97, f"the process ended with {os.waitstatus_to_exitcode(status)}"
    code, _, said = data.decode().partition(" ")
    return int(code), said


@contextmanager
def _limited(room: int) -> Iterator[None]:
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    # The kernel kills a process whose stack may not grow; what is to run out here is the heap.
    sys.setrecursionlimit(20_000)
    json.loads("[" * 9_000 + "]" * 9_000)
    ctypes.CDLL(None).malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
