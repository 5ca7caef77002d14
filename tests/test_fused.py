"""The whole cascade through the Triton ops: in the interpreter, or on a GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from ops.gpu_ops import DEVICE, Tile

# isort: split

import numpy as np
import torch

import tiny
from crn_fast import backends, cascade, container
from crn_fast.backends import fused
from crn_fast.checkpoint import Checkpoint
from crn_fast.engine import Engine, build_engine
from crn_fast.errors import BadInput, Mismatch, ResourceError, Unavailable, UsageError
from crn_fast.fused import frame, packed
from crn_fast.fused.ops import Choices, FusedOps
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.tuning import Shape
from crn_fast.spec import CascadeSpec

SPEC = CascadeSpec(widths=(7, 6, 4), base=(2, 3), classes=12, images=2)
TILE = Tile("apply", rows=8, wide=16, outputs=32, depth=32, warps=4, stages=2, tma=True)
BOUNDS = {"fp32": 0.02, "tf32": 1.5, "fp16": 1.5, "bf16": 12.0, "fp8": 40.0}
"""Precision -> largest difference in grey levels before rounding."""
NEEDS_GPU = pytest.mark.skipif(DEVICE == "cpu", reason="wrong in Triton's interpreter; needs a GPU")


def renderer(
    made: Checkpoint, precision: str = "fp32", arch: int = 90, form: str = ""
) -> fused.FusedRenderer:
    """On this machine's device, as if it were of `arch`; `form`: of refine, by the table."""
    choices = Choices(made.spec, arch, precision, {})
    weights = fused.pack(made.spec, made.tensors, precision)
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
    return fused.FusedRenderer(choices, weights, where, DEVICE)


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
        monkeypatch.setenv(packed.FP8_VARIABLE, "1,2")
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


def test_few_batch_sizes_are_kept() -> None:
    made = tiny.calm_checkpoint(CascadeSpec(widths=(4,), base=(1, 2), classes=12))
    render = renderer(made)
    for n in (1, 2, 3, 1):
        labels = tiny.labels_array(n, made.spec)
        assert np.abs(render(labels) - tiny.oracle(made, labels).clip(0, 255)).max() < 0.52
        assert len(render._frames) <= fused.FRAMES


def test_engine_files_hold_what_pack_gives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.calm_checkpoint(SPEC)
    for precision in fused.PRECISIONS:
        monkeypatch.setenv(packed.FP8_VARIABLE, "2")
        path = tmp_path / f"{precision}.crn"
        manifest = build_engine(made, path, backend="fused", precision=precision)
        assert (manifest.backend, manifest.precision) == ("fused", precision)
        tensors, _ = container.read(path)
        fused.check(str(path), SPEC, tensors)
        assert packed.precision_of(tensors, "auto") in (precision, "fp32")
    with pytest.raises(Mismatch, match=r"packed in fp8, not bf16: .*--precision bf16"):
        packed.precision_of(fused.pack(SPEC, made.tensors, "fp8"), "bf16")


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
    tensors = fused.pack(SPEC, tiny.calm_checkpoint(SPEC).tensors, "auto")
    if change is None:
        del tensors[name]
    else:
        tensors[name] = change
    with pytest.raises(BadInput, match=f"net.crn: .*{message}"):
        fused.check("net.crn", SPEC, tensors)


@pytest.mark.parametrize("precision", fused.PRECISIONS)
def test_packed_values_survive_the_file(precision: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(packed.FP8_VARIABLE, "1")
    made = tiny.calm_checkpoint(SPEC)
    tensors = fused.pack(SPEC, made.tensors, precision)
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
            fused.check("net.crn", SPEC, tensors)


def test_what_it_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.calm_checkpoint(SPEC)
    with pytest.raises(UsageError, match="precision is 'int8'; expected fp16, bf16"):
        fused.pack(SPEC, made.tensors, "int8")
    huge = {**made.tensors, "stages.1.conv2.weight": np.full((6, 6, 3, 3), 1e6, np.float32)}
    with pytest.raises(BadInput, match=r"stages.1.conv2.weight holds .* take --precision bf16"):
        fused.pack(SPEC, huge, "fp16")
    monkeypatch.setenv(packed.FP8_VARIABLE, "1,7")
    with pytest.raises(UsageError, match="names stage '7'; expected indices from 0 to 2"):
        fused.pack(SPEC, made.tensors, "fp8")
    weights = fused.pack(SPEC, made.tensors, "fp16")
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
def test_without_a_gpu_it_builds_but_does_not_open(tmp_path: Path) -> None:
    assert "no NVIDIA GPU" in str(fused.available())
    assert fused.available_to_build() is None
    build_engine(tiny.calm_checkpoint(SPEC), tmp_path / "net.crn", backend="fused")
    with pytest.raises(Unavailable, match="fused: torch finds no NVIDIA GPU"):
        Engine.open(tmp_path / "net.crn")


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
    with pytest.raises(ResourceError, match=r"out of memory \(no room for 17 bytes\); try fewer"):
        render(tiny.labels_array(1, render.choices.spec))


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


def test_a_table_serves_one_run() -> None:
    """Stages are counted; the same table twice would look for stages that are not there."""
    made = tiny.calm_checkpoint(SPEC)
    render = renderer(made)
    ops = FusedOps(Queue("meta"), render.choices)
    labels = torch.empty((1, *SPEC.size), dtype=torch.uint8, device="meta")
    cascade.render(ops, SPEC, render.weights, labels)
    with pytest.raises(IndexError):
        cascade.render(ops, SPEC, render.weights, labels)
