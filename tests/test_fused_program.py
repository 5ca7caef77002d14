"""Engine files of the backend fused: compiled, read back, checked and run, without a GPU.

A stand-in compiles, and a stand-in for the driver runs what it made in Triton's interpreter; what
Triton's own compiler makes is compared with the parameters that are packed for it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ops.gpu_ops import DEVICE

# isort: split

import numpy as np
import torch

import cuda_stand_in
import program_stand_in
import tiny
from crn_fast.backends import fused
from crn_fast.checkpoint import Checkpoint
from crn_fast.cuda import library
from crn_fast.engine import Engine, build_engine
from crn_fast.errors import (
    BadInput,
    Mismatch,
    Outdated,
    ResourceError,
    Unavailable,
    UsageError,
)
from crn_fast.fused import ops, program
from crn_fast.fused.just_in_time import FusedRenderer
from crn_fast.fused.ops import Choices
from crn_fast.fused.program import Box, Programs, Region
from crn_fast.kernels.gpu import ahead
from crn_fast.spec import CascadeSpec

pytestmark = pytest.mark.skipif(DEVICE != "cpu", reason="the stand-in needs the interpreter")
HERE = Path(__file__).parent
SPEC = CascadeSpec(widths=(7, 6, 4), base=(1, 3), classes=12, images=2)
BOUNDS = {"fp32": 0.52, "fp16": 2.0}
"""Precision -> largest difference of a rounded picture from float64, in grey levels."""


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> cuda_stand_in.Machine:
    return installed(monkeypatch, "pycuda.driver")


def installed(monkeypatch: pytest.MonkeyPatch, package: str) -> cuda_stand_in.Machine:
    made = cuda_stand_in.Machine((9, 0))
    made.play = program_stand_in.player(made)
    cuda_stand_in.install(monkeypatch, made, package)
    monkeypatch.setattr(ahead, "compile_launch", program_stand_in.compile_launch)
    return made


@pytest.fixture(autouse=True)
def own_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))


def renderer(made: Checkpoint, packed: dict[str, np.ndarray]) -> Any:
    fused.check("net.crn", made.spec, packed)
    return fused.load(made.spec, packed, "auto", None, None)


def just_in_time(made: Checkpoint, precision: str, arch: int) -> FusedRenderer:
    choices = Choices(made.spec, arch, precision, {})
    weights = fused.prepare(made.spec, made.tensors, precision)
    return FusedRenderer(choices, weights, torch.device(DEVICE), DEVICE)


@pytest.mark.parametrize(
    ("package", "upsampling", "precision", "arch", "batch", "n"),
    [
        ("pycuda.driver", "align_corners", "fp16", 90, 2, 2),
        ("cuda.core", "half_pixel", "fp32", 80, 1, 1),
        ("cuda.core", "half_pixel", "fp16", 90, 1, 3),
        ("pycuda.driver", "align_corners", "fp32", 120, 2, 1),
    ],
)
def test_an_engine_renders_what_the_checkpoint_does(
    package: str,
    upsampling: Any,
    precision: str,
    arch: int,
    batch: int,
    n: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """To the bit, and near float64. With the fold, as it would be for larger maps."""
    monkeypatch.setattr("crn_fast.kernels.gpu.tuning.FOLD_PIXELS", 32)
    machine = installed(monkeypatch, package)
    machine.capability = divmod(arch, 10)
    made = tiny.calm_checkpoint(dataclasses.replace(SPEC, upsampling=upsampling))
    path, labels = tmp_path / "net.crn", tiny.labels_array(n, made.spec)
    options = {"targets": (f"sm_{arch}",), "batch": (1, batch)}
    manifest = build_engine(made, path, backend="fused", precision=precision, options=options)
    assert (manifest.target, manifest.precision) == (f"sm_{arch}", precision)
    engine = Engine.open(path)
    assert "load" in machine.log and "stand-in, sm_" in engine.device
    found = engine.render(labels)
    assert found.shape == (n, 2, 4, 12, 3) and found.dtype == np.uint8
    assert np.abs(found - tiny.oracle(made, labels).clip(0, 255)).max() < BOUNDS[precision]
    np.testing.assert_array_equal(found, just_in_time(made, precision, arch)(labels))
    # Each of two slots runs once plainly, and then as a graph.
    assert ("graph" in machine.log) == (n > 2 * batch)


@pytest.fixture(scope="module")
def smallest() -> tuple[Checkpoint, dict[str, np.ndarray]]:
    """A checkpoint, and its engine's tensors for sm_90."""
    with pytest.MonkeyPatch.context() as patch:
        installed(patch, "pycuda.driver")
        made = tiny.calm_checkpoint(dataclasses.replace(SPEC, widths=(4, 4), base=(1, 2)))
        return made, fused.pack(made.spec, made.tensors, "fp16", targets=("sm_90",), batch=(1, 3))


Smallest = tuple[Checkpoint, dict[str, np.ndarray]]


def test_a_stream_is_what_its_parts_are(machine: cuda_stand_in.Machine, smallest: Smallest) -> None:
    made, packed = smallest
    render = renderer(made, packed)
    labels = tiny.labels_array(4, made.spec)
    whole = render(labels)
    parts = [*render.stream(labels[i : i + 1] for i in range(4))]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert len({part.tobytes() for part in parts}) == 4
    loop = render.stream(iter([labels[:1]] * 3))
    np.testing.assert_array_equal(next(loop), whole[:1])
    with pytest.raises(UsageError, match="in the middle of a stream"):
        render(labels[:1])
    loop.close()
    np.testing.assert_array_equal(render(labels[1:2]), whole[1:2])
    parts_of = render.timings(labels[:1])
    assert list(parts_of) == ["upload", "compute", "download"] and min(parts_of.values()) > 0
    larger = np.concatenate([*render.stream([labels])])  # of 3 at a time
    np.testing.assert_array_equal(larger, whole)
    with pytest.raises(BadInput, match=r"shape \(4, 1, 4\); expected at least one of 2x4"):
        next(render.stream([labels[:, :1]]))
    assert not any(stream.queue for stream in machine.streams)


class Born:
    """An array on the stand-in's GPU."""

    def __init__(self, machine: cuda_stand_in.Machine, values: np.ndarray) -> None:
        address = machine.allocate(values.nbytes)
        machine.memory[address][:] = values.reshape(-1)
        self.__cuda_array_interface__ = {
            "shape": values.shape,
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
            "stream": 7,
        }


def test_ids_born_on_the_gpu_are_checked_there(
    machine: cuda_stand_in.Machine, smallest: Smallest
) -> None:
    made, packed = smallest
    render = renderer(made, packed)
    labels = tiny.labels_array(2, made.spec)  # of 3 that a program takes: the rest is cleared
    np.testing.assert_array_equal(
        render.render_device(Born(machine, labels)), whole := render(labels)
    )
    assert "wait for 7" in machine.log
    for strange in (made.spec.classes, 255):
        wrong = labels[:1].copy()
        wrong[0, -1, -1] = strange
        with pytest.raises(BadInput, match=r"came from the GPU hold ids outside .* set's 12"):
            render.render_device(Born(machine, wrong))
    np.testing.assert_array_equal(render(labels[:1]), whole[:1])  # the flag is lowered again
    with pytest.raises(BadInput, match="expected an array on the GPU"):
        render.render_device(labels)
    with pytest.raises(BadInput, match=r"are uint8 \(2, 4\).*expected uint8 \[N, H, W\]"):
        render.render_device(Born(machine, labels[0]))


def test_less_memory_means_smaller_batches_of_the_same_pictures(
    machine: cuda_stand_in.Machine, smallest: Smallest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crn_fast.fused.runtime.SPARE", 0)
    made, packed = smallest
    labels = tiny.labels_array(2, made.spec)
    render = renderer(made, packed)
    needed, whole = render.bytes, render(labels)
    assert render.most == 3 and f"{needed / 1e6:.0f} MB" in render.device
    assert needed <= machine.capacity - machine.free <= needed + 4096
    machine.memory.clear()
    machine.capacity = needed - 1
    less = renderer(made, packed)
    assert less.most == 1 and less.bytes < needed
    np.testing.assert_array_equal(less(labels), whole)
    machine.memory.clear()
    machine.capacity = less.bytes - 1
    with pytest.raises(ResourceError, match=r"needs 0 MB of GPU memory for one layout; 0 MB are"):
        renderer(made, packed)


def test_the_lean_schedule_is_taken_when_nothing_else_fits(
    machine: cuda_stand_in.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crn_fast.fused.runtime.SPARE", 0)
    monkeypatch.setattr(ops, "LEAN_BYTES", 0)
    made = tiny.calm_checkpoint(dataclasses.replace(SPEC, widths=(16, 16), base=(4, 8)))
    packed = fused.pack(made.spec, made.tensors, "fp16", targets=("sm_90",))
    full = renderer(made, packed)
    machine.memory.clear()
    machine.capacity = full.bytes - 1
    lean = renderer(made, packed)
    assert "the lean schedule" in lean.device and lean.bytes < full.bytes
    labels = tiny.labels_array(1, made.spec)
    assert np.abs(lean(labels) - tiny.oracle(made, labels).clip(0, 255)).max() < BOUNDS["fp16"]


def changed(packed: dict[str, np.ndarray], change: Any) -> dict[str, np.ndarray]:
    """The tensors after a change of the first program of sm_90."""
    found = Programs.from_bytes(packed["sm_90.program"].tobytes())
    blob = np.frombuffer(change(found).to_bytes(), np.uint8)
    return packed | {"sm_90.program": blob}


def with_argument(kernel: str, position: int, change: Any) -> Any:
    """A change of one argument of the last launch of a kernel."""

    def apply(found: Programs) -> Programs:
        first = found.programs[0]
        number = max(
            i for i, x in enumerate(first.launches) if found.kernels[x.kernel].name == kernel
        )
        launch = first.launches[number]
        arguments = list(launch.arguments)
        arguments[position] = change(arguments[position])
        launches = list(first.launches)
        launches[number] = launch._replace(arguments=tuple(arguments))
        program_ = dataclasses.replace(first, launches=tuple(launches))
        return dataclasses.replace(found, programs=(program_, *found.programs[1:]))

    return apply


def box(**fields: Any) -> Any:
    return lambda found: found._replace(**fields)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            with_argument("apply_kernel", 0, lambda r: r._replace(start=1 << 40)),
            "is outside of its",
        ),
        (with_argument("apply_kernel", 0, lambda r: r._replace(start=-256)), "is outside of its"),
        (with_argument("apply_kernel", 0, lambda r: r._replace(start=8)), "is not aligned"),
        (with_argument("apply_kernel", 0, lambda r: r._replace(where="gpu")), "there is no 'gpu'"),
        (with_argument("apply_kernel", 0, lambda r: 7), "is 7; expected ptr"),
        (with_argument("apply_kernel", 5, lambda i: 2**31), "is 2147483648"),
        (with_argument("apply_kernel", 5, lambda i: 1.5), "is 1.5; expected i32"),
        (with_argument("apply_kernel", 4, lambda q: 1e39), "is 1e[+]39"),
        (with_argument("convolve", 0, box(shape=(1, 9999, 4, 16))), "larger than its region"),
        (with_argument("convolve", 0, box(strides=(128, 64, 16))), "axes"),
        (with_argument("convolve", 0, box(strides=(128, 64, 15, 1))), "strides"),
        (with_argument("convolve", 0, box(box=(1, 512, 4, 16))), "box"),
        (with_argument("convolve", 0, box(dtype=77)), "77"),
        (with_argument("convolve", 0, box(swizzle=9)), "swizzle 9"),
        (lambda p: dataclasses.replace(p, programs=()), "numbers of layouts"),
        (lambda p: dataclasses.replace(p, programs=p.programs * 2), "numbers of layouts"),
        (
            lambda p: dataclasses.replace(
                p, kernels=(p.kernels[0]._replace(shared=1 << 20), *p.kernels[1:])
            ),
            "shared memory",
        ),
        (
            lambda p: dataclasses.replace(
                p, kernels=(p.kernels[0]._replace(cubin=99), *p.kernels[1:])
            ),
            "cubin.99",
        ),
        (
            lambda p: dataclasses.replace(
                p, kernels=(p.kernels[0]._replace(parameters=("ptr",)), *p.kernels[1:])
            ),
            "shorter|longer",
        ),
        (
            lambda p: dataclasses.replace(
                p,
                programs=(
                    dataclasses.replace(
                        p.programs[0],
                        launches=(p.programs[0].launches[0]._replace(grid=(1, 70000, 1)),),
                    ),
                ),
            ),
            "grid",
        ),
        (lambda p: dataclasses.replace(p, kernels=p.kernels[:-1]), "no kernel"),
    ],
)
def test_programs_that_leave_what_they_own_are_refused(
    change: Any, message: str, smallest: Smallest
) -> None:
    made, packed = smallest
    with pytest.raises(BadInput, match=rf"net.crn: its program for sm_90 is damaged.*({message})"):
        fused.check("net.crn", made.spec, changed(packed, change))


@pytest.mark.parametrize(
    "change",
    [
        with_argument("apply_kernel", 0, lambda r: r._replace(start=r.start + 256)),
        with_argument("apply_kernel", 8, lambda n: n - 1),
        with_argument("convolve", 0, lambda b: b._replace(strides=(*b.strides[:1], 32, 16, 1))),
        with_argument("pending_norm", 1, lambda r: r._replace(where="weight.known_ids")),
    ],
)
def test_a_wrong_argument_gives_a_wrong_picture(
    change: Any, smallest: Smallest, machine: cuda_stand_in.Machine
) -> None:
    """What this file's other tests compare would show it; or the stand-in stops."""
    made, packed = smallest
    labels = tiny.labels_array(1, made.spec)
    right = fused.load(made.spec, packed, "auto", None, None)(labels)
    wrong = changed(packed, change)
    fused.check("net.crn", made.spec, wrong)
    try:
        found = fused.load(made.spec, wrong, "auto", None, None)(labels)
    except AssertionError:
        return
    assert not np.array_equal(found, right)


def test_a_tampered_file_reaches_no_driver(
    machine: cuda_stand_in.Machine, tmp_path: Path, smallest: Smallest
) -> None:
    made, _ = smallest
    path = tmp_path / "net.crn"
    build_engine(made, path, backend="fused", options={"targets": ("sm_90",)})
    whole = path.read_bytes()
    rng = np.random.default_rng(3)
    for _ in range(60):
        damaged = bytearray(whole)
        for at in rng.integers(8, len(whole), rng.integers(1, 4)):
            damaged[at] ^= int(rng.integers(1, 256))
        path.write_bytes(damaged)
        with pytest.raises((BadInput, Mismatch)):
            Engine.open(path)
    path.write_bytes(whole)
    (tmp_path / "config/crn_fast/engine.key").unlink()
    with pytest.raises(BadInput, match=r"signed by another user .*--trust-engine"):
        Engine.open(path)
    assert "load" not in machine.log and "kernel" not in machine.log


def test_mismatches_are_explained(
    machine: cuda_stand_in.Machine, smallest: Smallest, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, packed = smallest
    machine.capability = (8, 6)
    message = "compiled for sm_90; the GPU here, stand-in, is sm_86"
    with pytest.raises(Outdated, match=message) as raised:
        fused.load(made.spec, packed, "auto", None, None)
    assert raised.value.options == {"target": "sm_86"}
    with pytest.raises(Outdated, match="computes in fp16, not bf16") as raised:
        fused.load(made.spec, packed, "bf16", None, None)
    assert raised.value.options == {"precision": "bf16"}
    with pytest.raises(Unavailable, match="--device 3: the driver has 1 GPUs"):
        fused.load(made.spec, packed, "auto", 3, None)
    machine.capability = (9, 0)

    def refuse(module: Any, image: Any) -> int:
        return 209

    right = cuda_stand_in.library(machine)
    right.cuModuleLoadData = refuse
    monkeypatch.setattr(library.ctypes, "CDLL", lambda name: right)
    message = r"does not take the kernel \w+ .*error 209, driver \d"
    with pytest.raises(Outdated, match=message):
        fused.load(made.spec, packed, "auto", None, None)
    with pytest.raises(BadInput, match=r"holds no compiled programs .* build it again"):
        fused.check("old.crn", made.spec, fused.prepare(made.spec, made.tensors, "fp16"))
    with pytest.raises(BadInput, match=r"unexpected stages.0"):
        fused.check("net.crn", made.spec, packed | {"stages.0": np.zeros(1, np.float32)})


def test_targets_and_batches(machine: cuda_stand_in.Machine, smallest: Smallest) -> None:
    made, packed = smallest
    assert fused.describe(packed)["target"] == "sm_90"
    build = [made.spec, made.tensors, "fp16"]
    here = fused.About.of("x", fused.pack(*build))
    assert here.targets == ("sm_90",) and here.batch == 1
    for options, message in (
        ({"targets": ("sm_75",)}, "--target sm_75: fused compiles for sm_80, sm_86"),
        ({"targets": ("gfx942",)}, "--target gfx942"),
        ({"batch": (1, 65)}, "--batch is 1 to 65"),
        ({"batch": (0, 1)}, "--batch is 0 to 1"),
    ):
        with pytest.raises(UsageError, match=message):
            fused.pack(*build, **options)
    with pytest.raises(UsageError, match="--target sm_86: fp8 needs sm_89"):
        fused.pack(made.spec, made.tensors, "fp8", targets=("sm_86",))
    with pytest.raises(Unavailable, match=r"--tune times on the GPU .* here is sm_90"):
        fused.pack(*build, targets=("sm_80",), tune=True)
    programs = program.read("x", made.spec, packed, "sm_90")
    assert [p.layouts for p in programs.programs] == [1, 3]
    assert "launches of" in fused.estimate(made.spec, "fp16", ("sm_90", "sm_80"))


def test_without_a_gpu_a_target_must_be_named(smallest: Smallest) -> None:
    if fused.driver.capability() is not None:
        pytest.skip("this machine has a GPU")
    made, _ = smallest
    with pytest.raises(UsageError, match=r"no GPU here .* as in --target sm_90"):
        fused.pack(made.spec, made.tensors, "fp16")
    with pytest.raises(Unavailable, match=r"--tune .* here is none"):
        fused.pack(made.spec, made.tensors, "fp16", targets=("sm_90",), tune=True)


def test_regions_and_boxes_survive_the_file(smallest: Smallest) -> None:
    _, packed = smallest
    found = Programs.from_bytes(packed["sm_90.program"].tobytes())
    assert Programs.from_bytes(found.to_bytes()) == found
    arguments = [a for p in found.programs for x in p.launches for a in x.arguments]
    assert {type(a) for a in arguments} == {Region, Box, int, float}


@pytest.mark.parametrize("package", ["pycuda.driver", "cuda.core"])
def test_neither_torch_nor_triton_is_needed(
    package: str, smallest: Smallest, machine: cuda_stand_in.Machine, tmp_path: Path
) -> None:
    made, _ = smallest
    path = tmp_path / "net.crn"
    build_engine(made, path, backend="fused", options={"targets": ("sm_90",), "batch": (1, 2)})
    command = [sys.executable, "-P", str(HERE / "run_engine.py"), str(path), package]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert "graphs" in ran.stdout and "stand-in, sm_90" in ran.stdout


@pytest.fixture(scope="module")
def machine_code(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What `compile_program` says, by target."""
    if os.uname().machine != "x86_64":
        pytest.skip("Triton's assembler is for x86-64")
    folder = tmp_path_factory.mktemp("triton")
    command = [sys.executable, "-P", str(HERE / "ops/compile_program.py"), "sm_80", "sm_90"]
    paths = os.pathsep.join([str(HERE), *sys.path])
    environment = {**os.environ, "PYTHONPATH": paths, "TRITON_CACHE_DIR": str(folder)}
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder)
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_parameters_are_those_of_the_machine_code(
    target: str, machine_code: dict[str, Any]
) -> None:
    """The list that the PTX declares, by size and alignment, is the one that is packed."""
    found = machine_code[target]
    kernels = {row["kernel"] for row in found["rows"]}
    assert {"find_strange", "halve", "apply_kernel", "convolve", "head_kernel"} <= kernels
    for row in found["rows"]:
        assert row["declared"] == row["packed"], row["kernel"]
    maps = [size for row in found["rows"] for size, _ in row["packed"] if size == 128]
    assert bool(maps) == bool(found["boxes"]) == (target == "sm_90")
    for dtype, swizzle, box_, shape in found["boxes"]:
        assert (dtype, len(box_)) == (6, len(shape)) and swizzle in (1, 2, 3)
