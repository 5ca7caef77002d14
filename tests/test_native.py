"""The whole cascade through the C++ ops: against float64, against eager, and without torch."""

from __future__ import annotations

import dataclasses
import mmap
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="the oracle needs torch")


from crn_fast import backends, cascade, container
from crn_fast.backends import native
from crn_fast.checkpoint import Checkpoint
from crn_fast.engine import Engine, build_engine
from crn_fast.errors import BadInput, ResourceError, Unavailable, UsageError
from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import TILES
from crn_fast.spec import CascadeSpec

SPECS = {
    "tiny": tiny.SPEC,
    "one stage": CascadeSpec(widths=(5,), base=(3, 4), classes=12),
    "one pixel": CascadeSpec(widths=(4, 6, 3), base=(1, 1), classes=12),
    "wider": CascadeSpec(widths=(40, 33, 24, 17), base=(3, 5), classes=12, images=6),
    "many stages": CascadeSpec(widths=(24, 20, 18, 16, 9, 7), base=(2, 3), classes=12),
}


def renderer(made: Checkpoint, threads: int | None = None) -> native.NativeRenderer:
    packed = native.pack(made.spec, made.tensors, "auto")
    return native.load(made.spec, packed, "auto", None, threads)


@pytest.mark.parametrize("isa", cpu.instruction_sets())
@pytest.mark.parametrize("tile", [None, *TILES])
@pytest.mark.parametrize("upsampling", ["align_corners", "half_pixel"])
@pytest.mark.parametrize("name", SPECS)
def test_is_the_network_of_the_oracle(
    name: str, upsampling: str, tile: int | None, isa: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if tile:
        monkeypatch.setenv(native.TILE_VARIABLE, str(tile))
    monkeypatch.setenv(cpu.ISA_VARIABLE, isa)
    spec = dataclasses.replace(SPECS[name], upsampling=upsampling)
    made, labels = tiny.calm_checkpoint(spec), tiny.labels_array(3, spec)
    native_renderer = renderer(made)
    assert native_renderer.device.endswith(isa)
    found = cascade.synthesize(native_renderer.ops, spec, native_renderer.weights, labels)
    expected = tiny.oracle(made, labels)
    assert found.shape == expected.shape == (3, spec.images, *spec.size, 3)
    assert expected.std() > 10
    # A fiftieth of the grey level that is allowed: nothing but float32 may part them.
    assert np.abs(found - expected).max() < 0.02
    assert np.abs(native_renderer(labels) - expected.clip(0, 255)).max() < 0.52


def test_the_same_bytes_for_any_number_of_threads() -> None:
    made = tiny.calm_checkpoint(SPECS["wider"])
    labels = tiny.labels_array(2, made.spec)
    one = renderer(made, 1)(labels)
    for threads in (1, 2, 3):
        assert renderer(made, threads)(labels).tobytes() == one.tobytes()


def test_equals_eager_within_rounding(tmp_path: Path) -> None:
    path = tiny.save_checkpoint(tmp_path / "net.safetensors")
    labels = tiny.labels_array(3)
    found, expected = (
        Engine.open(path, backend=name, precision="fp32").render(labels).astype(int)
        for name in ("native", "eager")
    )
    assert expected.std() > 10
    assert np.abs(found - expected).max() <= 1
    assert (found != expected).mean() < 0.01


@pytest.mark.parametrize("name", SPECS)
def test_an_engine_file_renders_as_its_checkpoint(name: str, tmp_path: Path) -> None:
    made = tiny.calm_checkpoint(SPECS[name])
    labels = tiny.labels_array(2, made.spec)
    manifest = build_engine(made, tmp_path / "net.crn", backend="native")
    assert (manifest.backend, manifest.precision) == ("native", "auto")
    engine = Engine.open(tmp_path / "net.crn", threads=2)
    assert (engine.backend, engine.precision) == ("native", "fp32")
    assert engine.device.startswith("cpu, 2 threads, ")
    assert engine.render(labels).tobytes() == renderer(made)(labels).tobytes()


def test_needs_no_torch(tmp_path: Path) -> None:
    tiny.save_checkpoint(tmp_path / "net.safetensors")
    np.save(tmp_path / "labels.npy", tiny.labels_array(2))
    script = """
import sys
sys.modules["torch"] = None  # an import of torch raises
import numpy as np
from crn_fast import Engine, build_engine
build_engine("net.safetensors", "net.crn")
engine = Engine.open("net.crn")
np.save("pictures.npy", engine.render(np.load("labels.npy")))
assert sys.modules["torch"] is None
print(engine.backend)
"""
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (ran.returncode, ran.stdout.strip()) == (0, "native"), ran.stderr
    expected = renderer(tiny.make_checkpoint())(tiny.labels_array(2))
    np.testing.assert_array_equal(np.load(tmp_path / "pictures.npy"), expected)


@pytest.mark.parametrize("gpu", [False, True])
def test_is_the_first_choice_without_a_gpu(gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "sees_gpu", lambda: gpu)
    name, _, passed = backends.choose()
    assert (name, passed) == ("eager" if gpu else "native", [])


def test_without_the_compiled_module_auto_passes_it_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "crn_fast.kernels.cpu._native", None)
    monkeypatch.setattr(backends, "sees_gpu", lambda: False)
    name, _, passed = backends.choose()
    assert name == "eager"
    assert len(passed) == 1 and passed[0].startswith("native: the compiled module")
    with pytest.raises(Unavailable, match="native: the compiled module"):
        backends.choose("native")


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("head.bias", None, "missing head.bias"),
        ("head.weight", np.zeros((1, 4, 16), np.float32), r"\(1, 4, 16\); its spec says"),
        ("stages.0.conv1.weight", np.zeros((1, 25, 12, 16), np.float32), r"\(1, 25, 12, 16\)"),
        ("stages.2.conv1.table", np.zeros((9, 12, 16), np.float32), r"float32 \(10, 12, 16\)"),
        ("stages.1.conv2.gamma", np.zeros(6, np.float16), "is float16"),
        ("stages.1.conv1.table", np.zeros((10, 12, 16), np.float32), "unexpected stages.1.conv1.t"),
    ],
)
def test_an_engine_with_other_tensors_is_refused(
    name: str, change: np.ndarray | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "net.crn"
    build_engine(tiny.make_checkpoint(), path, backend="native")
    packed, metadata = container.read(path)
    if change is None:
        del packed[name]
    else:
        packed[name] = change
    own = {k: v for k, v in metadata.items() if not k.endswith("_sha256") or k.startswith("check")}
    container.write(path, packed, own)
    with pytest.raises(BadInput, match=f"net.crn: .*{message}"):
        Engine.open(path)


def test_what_it_cannot_do_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    made = tiny.make_checkpoint()
    packed = native.pack(made.spec, made.tensors, "auto")
    with pytest.raises(Unavailable, match="--device 0: the backend native runs on the CPU"):
        native.load(made.spec, packed, "auto", 0, None)
    with pytest.raises(Unavailable, match="native: has no bf16 here; it has fp32: take"):
        native.load(made.spec, packed, "bf16", None, None)
    with pytest.raises(UsageError, match="precision is 'int8'; expected one of auto, fp32, tf32"):
        native.load(made.spec, packed, "int8", None, None)
    with pytest.raises(UsageError, match="--threads is 0; expected 1 to 1024"):
        native.load(made.spec, packed, "auto", None, 0)
    monkeypatch.setenv(cpu.ISA_VARIABLE, "mmx")
    with pytest.raises(UsageError, match="CRN_FAST_ISA is 'mmx'; expected one that this CPU runs"):
        native.load(made.spec, packed, "auto", None, None)
    monkeypatch.setenv(native.TILE_VARIABLE, "5")
    with pytest.raises(UsageError, match="CRN_FAST_TILE is '5'; expected one of 1, 4, 6"):
        native.pack(made.spec, made.tensors, "auto")


def test_out_of_memory_is_a_resource_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_room(*_: object) -> None:
        raise MemoryError("no room for 17 bytes")

    render = renderer(tiny.make_checkpoint())
    monkeypatch.setattr(cpu, "head", no_room)
    message = r"out of memory: 0.0 MB more needed, [\d,.]+ MB free \(no room for 17 bytes\)"
    with pytest.raises(ResourceError, match=message):
        render(tiny.labels_array())


def test_tuned_tiles_are_stored_and_render_the_same_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.calm_checkpoint(SPECS["wider"])
    labels = tiny.labels_array(2, made.spec)
    monkeypatch.setattr(native, "fastest_tile", lambda shape: 4 if shape.classes else 6)
    heard: list[tuple[str, int, int]] = []
    options = {"tune": True, "progress": lambda *said: heard.append(said)}
    build_engine(made, tmp_path / "net.crn", backend="native", options=options)
    packed, _ = container.read(tmp_path / "net.crn")
    for name, tensor in packed.items():
        if name.endswith("conv1.weight"):
            assert tensor.shape[1] == 36
        elif name.endswith("conv2.weight"):
            assert tensor.shape[1] == 64
    assert heard[0][0] == "tune" and len(heard) == heard[0][2] == 2 * len(made.spec.stages)
    found = Engine.open(tmp_path / "net.crn").render(labels)
    assert np.abs(found - tiny.oracle(made, labels).clip(0, 255)).max() < 0.52


def test_large_weights_are_given_back_and_the_picture_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny.calm_checkpoint(SPECS["wider"])
    labels = tiny.labels_array(2, made.spec)
    expected = renderer(made)(labels)
    build_engine(made, tmp_path / "net.crn", backend="native")
    monkeypatch.setattr(native, "LEAN_BYTES", 0)
    engine = Engine.open(tmp_path / "net.crn")
    release, sizes = container.release, list[int]()
    monkeypatch.setattr(container, "release", lambda t: (release(t), sizes.append(t.nbytes)))
    for _ in range(2):
        np.testing.assert_array_equal(engine.render(labels), expected)
    convolutions = 2 * len(made.spec.stages)
    assert len(sizes) == 2 * convolutions
    assert max(sizes) > mmap.PAGESIZE, "nothing was given back"


def test_layouts_of_any_number_by_turns() -> None:
    made = tiny.calm_checkpoint(SPECS["wider"])
    labels = tiny.labels_array(3, made.spec)
    one = renderer(made)
    whole = one(labels)
    for n in (1, 3, 2, 1):
        np.testing.assert_array_equal(one(labels[:n]), whole[:n])
