"""Plans and programs on a stand-in for a GPU that has little memory, and less between pictures.

No TensorRT and no Triton: what the network makes is `cuda_stand_in.pictures_of`, and the lean
schedule's pictures are a level brighter.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest

import cuda_stand_in
import tiny
from crn_fast.cuda import driver
from crn_fast.errors import ResourceError
from crn_fast.fused import runtime
from crn_fast.fused.program import CUBIN, Kernel, Launch, Program, Programs, Region
from crn_fast.fused.runtime import ProgramRenderer
from crn_fast.trt.build import About
from crn_fast.trt.network import LABELS, PICTURES
from crn_fast.trt.runtime import PlanRenderer

DEFECTS = {
    "zeros": ("zeros for pictures", "other pixels"),
    "dropped": ("an error that names no sizes", "without sizes"),
    "leaner": ("a leaner schedule between two pictures", "other pixels"),
}
"""What is planted -> in words, and the words of the verdict that notices it."""
ARENAS = {(1, False): 20_000, (3, False): 60_000, (1, True): 5_000}
"""Layouts at a time, and whether in the lean schedule -> bytes of memory."""
PIXELS = tiny.SPEC.size[0] * tiny.SPEC.size[1]
Render = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Case:
    backend: str
    """Of `OPENED`."""
    package: str
    """That calls the driver."""
    capacity: int
    """Bytes of the GPU's memory when the engine is opened."""
    later: tuple[int, ...]
    """Bytes that are free before each of the pictures."""
    defect: str | None = None
    """Of `DEFECTS`, planted."""


def ends(case: Case, labels: np.ndarray) -> list[tuple[str, str | None]]:
    """How opening ends, or else each rendering, and what is wrong with that."""
    machine = cuda_stand_in.Machine((9, 0))
    with pytest.MonkeyPatch.context() as patch:
        cuda_stand_in.install(patch, machine, case.package)
        patch.setattr(runtime, "SPARE", 0)
        machine.capacity = case.capacity
        return list(_ends(machine, case, labels))


def _ends(
    machine: cuda_stand_in.Machine, case: Case, labels: np.ndarray
) -> Iterator[tuple[str, str | None]]:
    try:
        render, how = _careless(machine, OPENED[case.backend], case.defect)
    except ResourceError as error:
        yield _refused(error)
        return
    right = cuda_stand_in.pictures_of(labels, tiny.SPEC.images) + np.uint8(how == "lean")
    held = machine.capacity - machine.free
    for free in case.later:
        machine.capacity = held + free
        try:
            found = render(labels)
        except ResourceError as error:
            yield _refused(error)
        else:
            yield how, None if np.array_equal(found, right) else "other pixels"


def _refused(error: ResourceError) -> tuple[str, str | None]:
    named = "MB" in str(error) and "free" in str(error)
    return "refused", None if named else f"without sizes: {error}"


Opened = Callable[[cuda_stand_in.Machine], tuple[Render, str]]


def _careless(
    machine: cuda_stand_in.Machine, opened: Opened, defect: str | None
) -> tuple[Render, str]:
    """What is opened, with the defect."""
    try:
        render, how = opened(machine)
    except ResourceError:
        if defect == "dropped":
            raise ResourceError("no memory") from None
        if defect == "zeros":
            shape = (tiny.SPEC.images, *tiny.SPEC.size, 3)
            return lambda labels: np.zeros((len(labels), *shape), np.uint8), "rendered"
        raise
    if defect == "leaner":
        lean, _ = _programs(machine, leanest=True)
        return lambda labels: (render if machine.free > 10_000 else lean)(labels), how
    return render, how


def _plan(machine: cuda_stand_in.Machine) -> tuple[Render, str]:
    shapes = {LABELS: (-1, *tiny.SPEC.size), PICTURES: (-1, tiny.SPEC.images, *tiny.SPEC.size, 3)}
    flavour = cuda_stand_in.tensorrt(machine, shapes, False)
    about = About(flavour.name, flavour.version, "sm_90", "fp16", (1, 3))
    return PlanRenderer(flavour, b"plan", about, tiny.SPEC, driver.make(0)), "rendered"


def _programs(machine: cuda_stand_in.Machine, leanest: bool = False) -> tuple[Render, str]:
    kernels = tuple(Kernel(i, name, 1, 0, ("ptr", "ptr")) for i, name in enumerate(SCHEDULES))
    made = [_program(*kind, arena) for kind, arena in ARENAS.items() if kind[1] or not leanest]
    packed = {f"sm_90.cubin.{i}": np.frombuffer(CUBIN + b"code", np.uint8) for i in range(2)}
    packed["weight.w"] = np.ones(16, np.float32)
    machine.play = lambda *launch: _work(machine, *launch)
    render = ProgramRenderer(
        tiny.SPEC, Programs(kernels, tuple(made)), packed, "sm_90", "fp16", driver.make(0)
    )
    if "lean" in render.device:
        return render, "lean"
    return render, "whole" if render.most == 3 else "smaller batches"


SCHEDULES = ("plain", "lean")


def _program(layouts: int, lean: bool, arena: int) -> Program:
    labels = Region("labels", 0, layouts * PIXELS)
    pictures = Region("pictures", 0, layouts * PIXELS * 3 * tiny.SPEC.images)
    return Program(layouts, lean, arena, (Launch(int(lean), (layouts, 1, 1), (labels, pictures)),))


def _work(
    machine: cuda_stand_in.Machine,
    cubin: bytes,
    name: str,
    sizes: tuple[int, ...],
    parameters: list[int],
) -> Callable[[], None]:
    """What a launch does: all pictures of as many layouts as the grid says."""
    labels, pictures = (int.from_bytes(ctypes.string_at(p, 8), "little") for p in parameters[:2])

    def work() -> None:
        ids = machine.at(labels)[: sizes[0] * PIXELS].reshape(-1, *tiny.SPEC.size)
        made = cuda_stand_in.pictures_of(ids, tiny.SPEC.images) + np.uint8(name == "lean")
        machine.at(pictures)[: made.size] = made.reshape(-1)

    return work


OPENED: dict[str, Opened] = {"trt": _plan, "fused": _programs}
