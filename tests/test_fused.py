"""The whole cascade through the Triton ops: in the interpreter, or on a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from ops.gpu_ops import DEVICE, Tile

# isort: split

import numpy as np
import torch

import tiny
from crn_fast import backends, cascade, fp8
from crn_fast.backends import fused
from crn_fast.checkpoint import Checkpoint
from crn_fast.cuda import driver
from crn_fast.engine import Engine, build_engine
from crn_fast.errors import BadInput, Mismatch, ResourceError, Unavailable, UsageError
from crn_fast.fused import frame, just_in_time, packed, program
from crn_fast.fused.just_in_time import FusedRenderer
from crn_fast.fused.ops import Choices, FusedOps
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.tuning import Shape
from crn_fast.spec import PRESETS, CascadeSpec

SPEC = CascadeSpec(widths=(7, 6, 4), base=(2, 3), classes=12, images=2)
TILE = Tile("apply", rows=8, wide=16, outputs=32, depth=32, warps=4, stages=2, tma=True)
BOUNDS = {"fp32": 0.02, "tf32": 1.5, "fp16": 1.5, "bf16": 12.0, "fp8": 40.0}
"""Precision -> largest difference in grey levels before rounding."""
NEEDS_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="wrong in Triton's interpreter; needs a GPU")


def renderer(
    made: Checkpoint, precision: str = "fp32", arch: int = 90, form: str = ""
) -> FusedRenderer:
    """On this machine's device, as if it were of `arch`; `form`: of refine, by the table."""
    choices = Choices(made.spec, arch, precision, {})
    weights = fused.prepare(made.spec, made.tensors, precision)
    where = torch.device(DEVICE, 0) if DEVICE == "cuda" else torch.device(DEVICE)
    if form:
        table = {}
        for stage in made.spec.stages[1:]:
            shape = Shape(
                precision,
                stage.height,
                stage.width,
                stage.features,
                stage.classes,
                stage.channels,
                made.spec.upsampling,
            )
            outputs = 128 if form == "fold" else 32
            table[shape.key] = dataclasses.replace(TILE, form=form, outputs=outputs)
        choices = Choices(made.spec, arch, precision, table)
    return FusedRenderer(choices, weights, where, DEVICE)


@pytest.mark.parametrize(
    ("upsampling", "precision", "arch", "form"),
    [
        ("align_corners", "fp32", 90, ""),
        ("half_pixel", "fp32", 80, ""),
        ("half_pixel", "fp32", 90, "fold"),
        ("align_corners", "fp16", 120, ""),
        ("half_pixel", "fp16", 90, "fold"),
        ("align_corners", "fp16", 86, "on_load"),
        pytest.param("align_corners", "bf16", 90, "", marks=NEEDS_GPU),
        pytest.param("half_pixel", "fp8", 90, "", marks=NEEDS_GPU),
    ],
)
def test_is_the_network_of_the_oracle(
    upsampling: str, precision: str, arch: int, form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if precision == "fp8":
        monkeypatch.setenv(fp8.VARIABLE, "1,2")
    made = tiny.calm_checkpoint(dataclasses.replace(SPEC, upsampling=upsampling))
    labels = tiny.labels_array(2, made.spec)
    render = renderer(made, precision, arch, form)
    found, expected = render(labels), tiny.oracle(made, labels)
    assert found.shape == expected.shape == (2, 2, 8, 12, 3) and found.dtype == np.uint8
    assert expected.std() > 10
    error = np.abs(found - expected.clip(0, 255)).max()
    assert error < 0.5 + BOUNDS[precision]


def test_buffers_are_planned_once_and_hold_no_leftovers() -> None:
    made = tiny.calm_checkpoint(SPEC)
    labels = tiny.labels_array(1, SPEC)
    render = renderer(made)
    first = render(labels)
    held = render.frame(1)
    assert held is render.frame(1)
    rehearsed = frame.rehearse(render.choices, render.weights, 1)
    assert held.bytes == held.arena.numel() == rehearsed.plan().bytes
    held.arena.fill_(0x7F)  # NaN, near enough, in every type
    np.testing.assert_array_equal(render(labels), first)
    other = (labels + 1) % SPEC.classes
    assert (render(other) != first).any()
    np.testing.assert_array_equal(render(labels), first)


def test_memory_of_the_authors_network() -> None:
    """Buffers beside the weights, 1024x2048, one layout, fp16."""
    spec = CascadeSpec(widths=(1024,) * 5 + (512, 512, 128, 32))
    choices = Choices(spec, 90, "fp16", {})
    weights = packed.blank(spec, "fp16")
    queue = frame.rehearse(choices, weights, 1)
    assert 0.8e9 < queue.plan().bytes < 0.9e9
    assert len(queue.launches) < 80


@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("name", sorted(PRESETS))
def test_every_grid_is_one_that_cuda_takes(name: str, upsampling: Any) -> None:
    spec = dataclasses.replace(PRESETS[name], upsampling=upsampling)
    for precision in ("fp16", "fp8", "fp32"):
        for arch in (80, 90, 120):
            choices = Choices(spec, arch, precision, {})
            weights = choices.fold(packed.blank(spec, precision))
            for schedule in (choices, choices.leaner()):
                for launch in frame.rehearse(schedule, weights, 2).launches:
                    inside = zip(launch.grid, program.LARGEST_GRID, strict=True)
                    assert all(1 <= n <= most for n, most in inside), (launch.kernel, launch.grid)


def test_few_batch_sizes_are_kept() -> None:
    made = tiny.calm_checkpoint(CascadeSpec(widths=(4,), base=(1, 2), classes=12))
    render = renderer(made)
    for n in (1, 2, 3, 1):
        labels = tiny.labels_array(n, made.spec)
        assert np.abs(render(labels) - tiny.oracle(made, labels).clip(0, 255)).max() < 0.52
        assert len(render._frames) <= just_in_time.FRAMES


def test_the_precision_is_read_from_the_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.calm_checkpoint(SPEC)
    monkeypatch.setenv(fp8.VARIABLE, "2")
    for precision in fused.PRECISIONS:
        tensors = fused.prepare(SPEC, made.tensors, precision)
        packed.check("net", SPEC, tensors)
        assert packed.precision_of(tensors, "auto") in (precision, "fp32")
    with pytest.raises(Mismatch, match=r"packed in fp8, not bf16: .*--precision bf16"):
        packed.precision_of(fused.prepare(SPEC, made.tensors, "fp8"), "bf16")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head.bias", None, "missing head.bias"),
        ("stages.0.conv1.weight", np.zeros((9, 16, 16), np.float16), "unexpected stages.0.conv1.w"),
        ("stages.1.conv2.weight", np.zeros((9, 16, 32), np.float16), r"\(9, 16, 32\); its"),
        ("stages.1.conv2.weight", np.zeros((9, 16, 16), np.float32), "is float32 .*says float16"),
        ("stages.1.conv2.weight", np.zeros((9, 16, 16), np.uint8), "is uint8 .*says float16"),
        ("stages.1.conv1.layout", np.full((9, 16, 16), np.inf, np.float16), "no finite numbers"),
        ("stages.0.conv1.layout", np.zeros((9, 16, 16), np.uint8), r"says uint8 \(9, 16, 16, 2\)"),
        ("stages.1.conv2.gamma", np.zeros(6, np.float16), "is float16"),
    ],
)
def test_other_tensors_are_refused(name: str, change: np.ndarray | None, message: str) -> None:
    tensors = fused.prepare(SPEC, tiny.calm_checkpoint(SPEC).tensors, "auto")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change
    with pytest.raises(BadInput, match=rf"net.crn: .*{message}"):
        packed.check("net.crn", SPEC, tensors)


@pytest.mark.parametrize("precision", fused.PRECISIONS)
def test_packed_values_survive_the_file(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fp8.VARIABLE, "1")
    made = tiny.calm_checkpoint(SPEC)
    tensors = fused.prepare(SPEC, made.tensors, precision)
    weights = packed.unpack(SPEC, tensors, torch.device("cpu"))
    conv = weights.stages[1].conv2
    found = conv.weight.double().view(3, 3, 16, 16).permute(2, 3, 0, 1)[:6, :6]
    if precision == "fp8":
        found = found * conv.channel_scale.double()[:6, None, None, None] * conv.quantum
    exact = torch.from_numpy(made.tensors["stages.1.conv2.weight"]).double()
    bound = {"fp8": 2**-4, "fp16": 2**-11, "bf16": 2**-8}.get(precision, 1e-7)
    assert ((found - exact).abs() <= exact.abs() * bound + exact.abs().max() * 2**-14).all()
    name = "stages.2.conv1.layout"
    for i, bits in ((1, 0x7F), (0, 0x80)):
        if precision == "bf16":
            tensors[name][0, 0, 0, i] = bits  # an infinity, in the end
    if precision == "bf16":
        with pytest.raises(BadInput, match="no finite numbers"):
            packed.check("net.crn", SPEC, tensors)


def test_what_it_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.calm_checkpoint(SPEC)
    with pytest.raises(UsageError, match="precision is 'int8'; expected fp16, bf16"):
        fused.prepare(SPEC, made.tensors, "int8")
    huge = {**made.tensors, "stages.1.conv2.weight": np.full((6, 6, 3, 3), 1e6, np.float32)}
    with pytest.raises(BadInput, match=r"stages.1.conv2.weight holds .* take --precision bf16"):
        fused.prepare(SPEC, huge, "fp16")
    monkeypatch.setenv(fp8.VARIABLE, "1,7")
    with pytest.raises(UsageError, match="names stage '7'; expected indices from 0 to 2"):
        fused.prepare(SPEC, made.tensors, "fp8")
    weights = fused.prepare(SPEC, made.tensors, "fp16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (7, 5))
    assert "the GPU is sm_75; sm_80 or newer" in str(fused.available())
    with pytest.raises(Mismatch, match="cuda:0 is sm_75; fused in fp16 needs sm_80"):
        fused.load(SPEC, weights, "auto", None, None)
    with pytest.raises(Unavailable, match="--device 3: this torch sees 1 GPUs"):
        fused.load(SPEC, weights, "auto", 3, None)
    with pytest.raises(Mismatch, match="packed in fp16, not fp32"):
        fused.load(SPEC, weights, "fp32", None, None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_a_gpu_checkpoints_do_not_open(tmp_path: Path) -> None:
    assert "no NVIDIA GPU" in str(fused.available())
    assert fused.available_to_build() is None
    path = tiny.save_checkpoint(tmp_path / "net.safetensors", SPEC)
    with pytest.raises(Unavailable, match="fused: torch finds no NVIDIA GPU"):
        Engine.open(path, backend="fused")


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "why_no_torch", lambda: "torch cannot be imported")
    assert "torch cannot be imported; an engine file, built elsewhere" in str(fused.available())
    if not torch.cuda.is_available():
        assert "there is no NVIDIA driver here" in str(fused.available_to_open())


def test_is_chosen_by_name_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "sees_gpu", lambda: True)
    monkeypatch.setattr(fused, "available", lambda: None)
    assert backends.choose()[0] != "fused"
    assert backends.choose("fused")[0] == "fused"


def test_out_of_memory_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    render = renderer(tiny.calm_checkpoint(CascadeSpec(widths=(4,), base=(1, 2), classes=12)))

    def no_room(*_: object) -> None:
        raise MemoryError("no room for 17 bytes")

    monkeypatch.setattr(frame.Frame, "render", no_room)
    message = r"out of memory: 0.0 MB more needed, [\d,.]+ MB free \(no room for 17 bytes\)"
    with pytest.raises(ResourceError, match=message):
        render(tiny.labels_array(1, render.choices.spec))


def test_the_lean_schedule_is_chosen_and_told_before_the_first_picture(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = tiny.calm_checkpoint(CascadeSpec(widths=(4, 4), base=(1, 2), classes=12))
    render, labels = renderer(made), tiny.labels_array(3, made.spec)
    whole, right = render(labels), frame.Frame.__init__
    made_for: list[tuple[int, bool]] = []
    lean_fits = True

    def limited(self: frame.Frame, choices: Choices, weights: object, n: int, *rest: Any) -> None:
        made_for.append((n, choices.lean))
        if n > 1 or not (choices.lean and lean_fits):
            raise ResourceError(f"{n} layouts need 9 MB")
        right(self, choices, weights, n, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(frame.Frame, "__init__", limited)
    lean = renderer(made)
    assert "lean schedule" in lean.device
    np.testing.assert_array_equal(lean(labels), whole)
    assert made_for == [(1, False), (1, True), (3, True), (1, True)]
    # Later its other values would come between two pictures.
    render._frames.clear()
    del made_for[:]
    with pytest.raises(ResourceError, match="1 layouts need 9 MB"):
        render(labels)
    assert made_for == [(3, False), (1, False)] and "lean" not in render.device
    lean_fits = False
    with pytest.raises(ResourceError, match="1 layouts need 9 MB"):
        renderer(made)


def test_ids_born_on_the_device_are_checked_there() -> None:
    made = tiny.calm_checkpoint(CascadeSpec(widths=(4, 4), base=(1, 2), classes=12))
    render, labels = renderer(made), torch.from_numpy(tiny.labels_array(2, made.spec)).to(DEVICE)
    whole = render.render_device(labels)
    np.testing.assert_array_equal(whole, render(labels.cpu().numpy()))
    for strange in (12, 255):
        wrong = labels.clone()
        wrong[1, -1, -1] = strange
        with pytest.raises(BadInput, match=r"came from the GPU hold ids outside .* set's 12"):
            render.render_device(wrong)
    np.testing.assert_array_equal(render.render_device(labels), whole)
    with pytest.raises(BadInput, match=r"are torch.int64 \(2, 2, 4\); expected uint8"):
        render.render_device(labels.long())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", fused.PRECISIONS)
def test_close_to_eager_on_a_gpu(precision: str, tmp_path: Path) -> None:
    spec = CascadeSpec(widths=(192, 160, 128, 64, 32), base=(4, 8), classes=12, images=3)
    path = tiny.save_checkpoint(tmp_path / "net.safetensors", spec)
    labels = tiny.labels_array(2, spec)
    engine = Engine.open(path, backend="fused", precision=precision)
    found = engine.render(labels).astype(float)
    expected = Engine.open(path, backend="eager", precision="fp32").render(labels)
    assert expected.std() > 10
    assert np.abs(found - expected).mean() < {"fp8": 8, "bf16": 2}.get(precision, 0.3)
    np.testing.assert_array_equal(engine.render(labels), found)


@pytest.mark.gpu
@pytest.mark.parametrize("package", list(driver.IMPLEMENTATIONS))
@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_an_engine_file_is_the_checkpoint_on_a_gpu(
    package: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(package)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    only = {package: driver.IMPLEMENTATIONS[package]}
    monkeypatch.setattr(driver, "IMPLEMENTATIONS", only)
    spec = CascadeSpec(widths=(192, 160, 128, 64, 32), base=(4, 8), classes=12, images=3)
    path = tiny.save_checkpoint(tmp_path / "net.safetensors", spec)
    out, labels = tmp_path / "net.crn", tiny.labels_array(5, spec)
    build_engine(path, out, backend="fused", precision=precision, options={"batch": (1, 2)})
    found = Engine.open(out).render(labels)
    expected = Engine.open(path, backend="fused", precision=precision).render(labels)
    np.testing.assert_array_equal(found, expected)


def test_a_table_serves_one_run() -> None:
    """Stages are counted; the same table twice would look for stages that are not there."""
    made = tiny.calm_checkpoint(SPEC)
    render = renderer(made)
    ops = FusedOps(Queue("meta"), render.choices)
    labels = torch.empty((1, *SPEC.size), dtype=torch.uint8, device="meta")
    cascade.render(ops, SPEC, render.weights, labels)
    with pytest.raises(IndexError):
        cascade.render(ops, SPEC, render.weights, labels)
