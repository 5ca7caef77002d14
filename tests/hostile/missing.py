"""A backend asked for by name where something that it needs is not there."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest import mock

import cuda_stand_in
import tiny
from crn_fast import backends, checkpoint, layout
from crn_fast.cuda import driver
from crn_fast.engine import build_engine
from crn_fast.errors import CrnError
from crn_fast.palette import label_set
from crn_fast.serve.worker import Opener
from hostile import scratch
from hostile.command_line import Ran, run

COMMANDS = ("render", "folder", "build-engine", "bench", "serve", "eval")
NEEDS = {
    "native": ("compiled module",),
    "eager": ("torch", "broken torch", "another torch"),
    "fused": ("torch", "triton", "broken triton", "another triton", "GPU"),
    "trt": ("tensorrt", "broken tensorrt", "another tensorrt", "driver", "pycuda and cuda.core"),
}
"""Backend -> what it may lack."""
TO_RUN = ("GPU", "driver", "pycuda and cuda.core")
"""Not needed for building."""
ENGINES = ("native", "eager")
"""Backends whose engine files are opened, too."""
SAID = {
    "compiled module": ("compiled module", "pip install"),
    "torch": ("torch", "pip install"),
    "triton": ("riton", "pip install"),
    "tensorrt": ("TensorRT", "pip install"),
    "GPU": ("GPU", "--backend"),
    "driver": ("driver", "NVIDIA"),
    "pycuda and cuda.core": ("neither pycuda nor cuda.core", "pip install"),
}
"""What the message must hold: what is missing, and the way to it."""


@dataclass(frozen=True)
class Case:
    backend: str
    missing: str
    command: str
    engine: bool = False
    """Whether an engine file is opened, and no checkpoint."""
    falls_back: bool = False
    """The planted defect."""


def cases() -> list[Case]:
    """Every backend, what it needs, and every command."""
    found = []
    for backend, pieces in NEEDS.items():
        for piece in pieces:
            left_out = {"build-engine"} if piece in TO_RUN else set()
            commands = [command for command in COMMANDS if command not in left_out]
            found += [Case(backend, piece, command) for command in commands]
            if backend in ENGINES:
                found += [Case(backend, piece, c, True) for c in ("render", "folder", "serve")]
    return found


@functools.cache
def scene() -> Path:
    folder = scratch.folder()
    path = folder / "net.safetensors"
    checkpoint.save(path, tiny.make_checkpoint())
    for backend in ENGINES:
        build_engine(path, folder / f"{backend}.crn", backend=backend)
    (folder / "layouts").mkdir()
    for i, ids in enumerate(tiny.labels_array(2)):
        layout.write(layout.from_array(ids, label_set("camvid")), folder / f"layouts/{i}.png")
    return folder


def answered(case: Case | Auto) -> str | None:
    """What is wrong with the answer."""
    return asked_for(case) if isinstance(case, Case) else taken_by_auto(case)


def asked_for(case: Case) -> str | None:
    """None if it ends with exit code 8, what is missing and the way to it, and no picture."""
    folder = scene()
    before = _products(folder)
    with without(case.missing), _fallback(case.falls_back):
        ran = _run(case, folder)
    made = sorted(_products(folder) - before)
    for path in made:
        path.unlink()
    if ran.code != 8:
        return f"exit {ran.code}: {ran.message}"
    if made:
        return f"exit 8 left {made[0].name}"
    words = SAID[case.missing.removeprefix("broken ").removeprefix("another ")]
    lacking = [word for word in words if word not in ran.message]
    return f"does not say {lacking[0]!r}: {ran.message}" if lacking else None


def _products(folder: Path) -> set[Path]:
    return {*folder.rglob("*.png*"), *folder.rglob("*.crn*")}


@dataclass(frozen=True)
class Auto:
    missing: tuple[str, ...]
    expected: str | None
    """What it takes then."""
    eager_first: bool = False
    """The planted defect."""


def taken_by_auto(case: Auto) -> str | None:
    """None if 'auto' takes what it should and says so, or else ends with code 8."""
    folder, expected = scene(), case.expected
    with ExitStack() as stack:
        if case.eager_first:
            right = backends.choose
            first = lambda name="auto", **how: right("eager", **how)  # noqa: E731
            stack.enter_context(mock.patch.object(backends, "choose", first))
        for piece in case.missing:
            stack.enter_context(without(piece))
        ran = _run(Case("auto", "", "render"), folder)
    (folder / "out.png").unlink(missing_ok=True)
    for i in range(tiny.SPEC.images):
        (folder / f"out_{i}.png").unlink(missing_ok=True)
    if expected is None:
        return None if ran.code == 8 else f"exit {ran.code}: {ran.message}"
    said = f"backend {expected}," in ran.err
    return None if ran.code == 0 and said else f"exit {ran.code}: {ran.err}"


def _run(case: Case, folder: Path) -> Ran:
    model = f"{case.backend}.crn" if case.engine else "net.safetensors"
    chosen = [] if case.engine else ["--backend", case.backend]
    words = {
        "render": ["render", "--layout", "layouts/0.png", "-m", model, "-o", "out.png"],
        "folder": ["render", "--layout", "layouts", "-m", model, "-o", "pictures"],
        "build-engine": ["build-engine", model, "-o", "out.crn"],
        "bench": ["bench", "--model", model, "--peers", "none", "--rounds", "1"],
        "eval": ["eval", model, "data"],
    }
    if case.command == "serve":
        options = {} if case.engine else {"backend": case.backend}
        return _served(Opener((str(folder / model),), options))
    if case.command == "build-engine" and case.backend == "fused":
        chosen += ["--target", "sm_90"]
    return run([*words[case.command], *chosen], folder)


def _served(opener: Callable[[], Any]) -> Ran:
    """What the server's engine process does, which a patch does not reach, done here."""
    try:
        opener()
    except CrnError as error:
        return Ran(error.exit_code, "", str(error))
    return Ran(0, "", "")


@contextmanager
def without(piece: str) -> Iterator[None]:
    """As on a machine where a piece is missing, broken, or another one of the same name."""
    how, _, name = piece.rpartition(" ")
    modules = {
        "torch": ("torch",),
        "triton": ("triton",),
        "tensorrt": ("tensorrt", "tensorrt_rtx"),
        "module": ("crn_fast.kernels.cpu._native",),
    }.get(name, ())
    with ExitStack() as stack:
        held = {m: _Broken(m) if how == "broken" else None for m in modules}
        if how == "another":
            held = {m: ModuleType(m) for m in modules}
        # eval asks for it first, and without a whole torch it could not be imported again.
        held["torchmetrics"] = ModuleType("torchmetrics")
        stack.enter_context(mock.patch.dict(sys.modules, held))  # type: ignore[arg-type]
        if how == "broken":
            stack.enter_context(_finder(modules))
        if piece in ("GPU", "driver"):
            import torch

            jit = ModuleType("triton")
            jit.jit = None  # type: ignore[attr-defined]
            trt = ModuleType("tensorrt_rtx")
            trt.__version__, trt.Builder = "1.2.3", None  # type: ignore[attr-defined]
            stack.enter_context(mock.patch.dict(sys.modules, {"triton": jit, "tensorrt_rtx": trt}))
            stack.enter_context(mock.patch.object(torch.cuda, "is_available", return_value=False))
            stack.enter_context(mock.patch.object(driver, "LIBRARY", "libnothing.so"))
        if piece == "pycuda and cuda.core":
            stack.enter_context(_driver_alone())
        yield


class _Broken(ModuleType):
    """Removed at once: only its finder speaks."""


@contextmanager
def _finder(modules: tuple[str, ...]) -> Iterator[None]:
    """Importing these fails as where a package's libraries are missing."""

    class Finder:
        def find_spec(self, name: str, *_: Any) -> None:
            if name in modules:
                raise ImportError(f"lib{name}.so: cannot open shared object file")

    for name in modules:
        del sys.modules[name]
    finder: Any = Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


@contextmanager
def _driver_alone() -> Iterator[None]:
    """A GPU with its driver, TensorRT, and no package that calls the driver."""
    machine = cuda_stand_in.Machine()

    def find(name: str) -> ModuleType:
        raise ImportError(f"No module named {name!r}")

    load = lambda name: cuda_stand_in.library(machine)  # noqa: E731
    trt = ModuleType("tensorrt")
    trt.__version__, trt.Builder = "10.9.0", None  # type: ignore[attr-defined]
    with (
        mock.patch.dict(sys.modules, {"tensorrt": trt}),
        mock.patch.object(driver, "import_module", find),
        mock.patch.object(driver, "ctypes", SimpleNamespace(**vars(ctypes) | {"CDLL": load})),
    ):
        yield


@contextmanager
def _fallback(planted: bool) -> Iterator[None]:
    """If `planted`, what cannot run is replaced by eager, without a word."""
    right = backends.choose

    def choose(name: str = "auto", **how: Any) -> Any:
        try:
            return right(name, **how)
        except CrnError:
            return "eager", backends.get("eager"), []

    if not planted:
        yield
    else:
        with mock.patch.object(backends, "choose", choose):
            yield
