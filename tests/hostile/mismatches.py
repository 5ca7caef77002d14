"""Sound things that do not fit together, and what the command line says of each."""

from __future__ import annotations

import dataclasses
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from types import ModuleType
from typing import Any
from unittest import mock

import click
import numpy as np

import cuda_stand_in
import tiny
from crn_fast import checkpoint, cli, container, layout, trust
from crn_fast.backends import fused
from crn_fast.backends import trt as trt_backend
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.engine import build_engine
from crn_fast.manifest import Manifest
from crn_fast.palette import label_set
from crn_fast.trt.build import About
from crn_fast.trt.network import LABELS, PICTURES
from hostile.command_line import Ran, run

COMMAND = re.compile(r"`(crn-fast [^`]*)`")
RENDER = ["render", "--layout", "layout.png", "-o", "out.png", "--overwrite", "-m"]
SIZE = f"{tiny.SPEC.size[0]}x{tiny.SPEC.size[1]}"


@dataclass(frozen=True)
class Mismatched:
    words: list[str]
    """The command."""
    sides: tuple[str, str]
    """What the message must name."""
    rebuild: bool = False
    """Whether it must name a command that mends it."""
    runs: bool = False
    """Whether that command can run here, after which `words` must succeed."""
    machine: Callable[[], Any] | None = None
    """Patches that make the machine."""


def scene(folder: Path) -> dict[str, Mismatched]:
    """Files in `folder`, and the mismatches by name."""
    net = checkpoint.save(folder / "net.safetensors", tiny.make_checkpoint())
    del net
    spec = dataclasses.replace(tiny.SPEC, base=(4, 4))
    checkpoint.save(folder / "other.safetensors", tiny.make_checkpoint(spec))
    _baseline(folder / "unet.safetensors")
    build_engine(folder / "net.safetensors", folder / "native.crn", backend="native")
    camvid, indoors = label_set("camvid"), label_set("nyu40")
    ids = tiny.labels_array()[0]
    layout.write(layout.from_array(ids, camvid), folder / "layout.png")
    layout.write(layout.from_array(ids[:6], camvid), folder / "low.png")
    every = np.resize(np.arange(indoors.classes), ids.shape)
    layout.write(layout.from_array(every, indoors), folder / "indoors.png")
    _with(folder / "native.crn", folder / "old name.crn", version="0")
    _with(folder / "native.crn", folder / "quantum.crn", backend="quantum")
    plans = {
        "version": About("tensorrt", "9.9.9", "sm_89", "fp16", (1, 1)),
        "flavour": About("openvino", "1.2.3", "sm_89", "fp16", (1, 1)),
        "gpu": About("tensorrt", "1.2.3", "sm_90", "fp16", (1, 4)),
        "fit": About("tensorrt", "1.2.3", "sm_89", "fp16", (1, 1)),
    }
    for name, about in plans.items():
        packed = {"plan": np.arange(9, dtype=np.uint8), "about": _bytes(about.to_bytes())}
        _executable(folder / f"{name}.crn", "trt", packed, trt_backend.describe(packed))
    about_programs = fused.About("fp16", "3.7.1", ("sm_90",), 2, {})
    programs = {"about": _bytes(about_programs.to_bytes())}
    _executable(folder / "fused.crn", "fused", programs, fused.describe(programs))

    def engine(name: str, *sides: str, **more: Any) -> Mismatched:
        words = [*RENDER, f"{name}.crn", *more.pop("options", [])]
        return Mismatched(words, (sides[0], sides[1]), rebuild=True, **more)

    return {
        "an engine of another version": engine("old name", "version 0", "opens 1", runs=True),
        "an engine of another backend": engine("quantum", "'quantum'", "native", runs=True),
        "--backend against the engine's": engine(
            "native", "native", "eager", options=["--backend", "eager"], runs=True
        ),
        "TensorRT of another version": engine("version", "9.9.9", "1.2.3", machine=gpu),
        "an unknown kind of TensorRT": engine("flavour", "openvino", "tensorrt", machine=gpu),
        "a plan for another GPU": engine("gpu", "sm_90", "sm_89", machine=gpu),
        "--precision against the plan's": engine(
            "fit", "fp16", "bf16", options=["--precision", "bf16"], machine=gpu
        ),
        "a plan that TensorRT refuses": engine(
            "fit", "TensorRT 1.2.3", "stand-in", machine=refusing
        ),
        "programs for another GPU": engine("fused", "sm_90", "sm_80", machine=older_gpu),
        "--precision against the programs'": engine(
            "fused", "fp16", "fp32", options=["--precision", "fp32"], machine=older_gpu
        ),
        "--size against the checkpoint's": Mismatched(
            [*RENDER, "net.safetensors", "--size", "99x77"], ("99x77", SIZE)
        ),
        "--size against what is built": Mismatched(
            ["build-engine", "net.safetensors", "--size", "99x77"], ("99x77", SIZE)
        ),
        "--size against the engine's": Mismatched(
            [*RENDER, "native.crn", "--size", "99x77"], ("99x77", SIZE)
        ),
        "a layout of another size": Mismatched(
            ["render", "--layout", "low.png", "-m", "native.crn"], ("6x20", SIZE)
        ),
        "a layout for a network of another size": Mismatched(
            [*RENDER, "other.safetensors"], (SIZE, "16x16")
        ),
        "a class that the network has not": Mismatched(
            ["render", "--layout", "indoors.png", "--labels", "nyu40", "-m", "native.crn"],
            ("nyu40", "camvid"),
        ),
        "a baseline on another backend": Mismatched(
            [*RENDER, "unet.safetensors", "--backend", "native"], ("eager", "native")
        ),
        "an engine of a baseline": Mismatched(
            ["build-engine", "unet.safetensors"], ("unet", "cascades")
        ),
    }


def explained(folder: Path, case: Mismatched) -> tuple[str | None, float]:
    """What is wrong with the answer, and its seconds."""
    with case.machine() if case.machine else ExitStack():
        start = perf_counter()
        ran = run(case.words, folder)
        seconds = perf_counter() - start
    return _judge(folder, case, ran), seconds


def _judge(folder: Path, case: Mismatched, ran: Ran) -> str | None:
    if ran.code != 4:
        return f"exit {ran.code}: {ran.message}"
    if lacking := [side for side in case.sides if side not in ran.message]:
        return f"does not name {lacking[0]!r}: {ran.message}"
    commands = COMMAND.findall(ran.message)
    if case.rebuild and not any("build-engine" in command for command in commands):
        return f"names no command that mends it: {ran.message}"
    for command in commands:
        words = shlex.split(command)[1:]
        if wrong := _unparsable(words):
            return f"{command}: {wrong}"
        if case.runs:
            words = [word if word != "CKPT" else "net.safetensors" for word in words]
            for again in (words, case.words):
                kept = {path.name for path in folder.iterdir()}
                if (found := run(again, folder)).code:
                    return f"{shlex.join(again)}: exit {found.code}: {found.message}"
                for path in {p for p in folder.iterdir() if p.name not in kept}:
                    path.unlink()
    return None


def _unparsable(words: list[str]) -> str | None:
    """What click has against a command."""
    try:
        with cli.cli.make_context("crn-fast", list(words)) as context:
            name, command, rest = cli.cli.resolve_command(context, [*words])
            assert command is not None
            command.make_context(name, rest, parent=context)
    except click.UsageError as error:
        return error.format_message()
    return None


def _baseline(path: Path) -> None:
    spec = BaselineSpec(kind="unet", size=(32, 64), classes=12, width=4)
    state = {name: tensor.numpy() for name, tensor in spec.build().state_dict().items()}
    checkpoint.save(path, checkpoint.Checkpoint(spec, label_set("camvid"), state, {}))


def _bytes(data: bytes) -> np.ndarray:
    return np.frombuffer(data, np.uint8)


def _with(source: Path, target: Path, **fields: str) -> None:
    """A copy of an engine file whose manifest says something else."""
    packed, metadata = container.read(source)
    container.write(target, packed, {**metadata, **fields})


def _executable(
    path: Path, backend: str, packed: dict[str, np.ndarray], facts: dict[str, str]
) -> None:
    """A signed engine file."""
    made = tiny.make_checkpoint()
    precision, target = facts.pop("precision"), facts.pop("target")
    manifest = Manifest(
        made.spec, made.labels, backend, precision, target, made.sha256(), facts, {}
    )
    trust.require_key()
    container.write(path, packed, manifest.to_metadata(), trust.sign)


def gpu(capability: tuple[int, int] = (8, 9), refuses: bool = False) -> Any:
    """A machine with TensorRT 1.2.3 and a GPU that are not there."""

    @contextmanager
    def patched() -> Iterator[None]:
        machine = cuda_stand_in.Machine(capability)
        shapes = {LABELS: (1, *tiny.SPEC.size), PICTURES: (1, 2, *tiny.SPEC.size, 3)}
        flavour = cuda_stand_in.tensorrt(machine, shapes, False)
        module: Any = flavour.trt
        if refuses:
            module.Runtime = lambda logger: _Refusing()

        class Patch:
            def setattr(self, owner: Any, name: str, value: Any) -> None:
                stack.enter_context(mock.patch.object(owner, name, value))

        with ExitStack() as stack:
            cuda_stand_in.install(Patch(), machine, "pycuda.driver")  # type: ignore[arg-type]
            load = mock.patch.object(trt_backend, "load_flavour", return_value=flavour)
            stack.enter_context(load)
            stack.enter_context(mock.patch.object(fused, "check", return_value=None))
            yield

    return patched()


class _Refusing(ModuleType):
    def __init__(self) -> None:
        super().__init__("runtime")

    def deserialize_cuda_engine(self, plan: bytes) -> None:
        return None


def refusing() -> Any:
    return gpu(refuses=True)


def older_gpu() -> Any:
    return gpu((8, 0))
