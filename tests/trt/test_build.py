"""Real engines of TensorRT-RTX, built with no GPU, and what is found in their plans."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny

pytest.importorskip("tensorrt_rtx", reason="needs TensorRT-RTX")

from crn_fast import cli, container, fp8, layout, trust
from crn_fast.backends import trt
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, Mismatch, ResourceError, UsageError
from crn_fast.layout import from_array
from crn_fast.manifest import Manifest
from crn_fast.palette import label_set
from crn_fast.spec import PRESETS, CascadeSpec
from crn_fast.trt import build, flavour, plan

FLAVOUR = flavour.load(("tensorrt_rtx",))


def weights(spec: CascadeSpec) -> dict[str, np.ndarray]:
    """A million random values again and again, shifted: quick, and no two tensors are equal."""
    values = np.random.default_rng(0).standard_normal(1_000_003, dtype=np.float32) * 0.05
    return {
        name: np.resize(np.roll(values, i), shape)
        for i, (name, shape) in enumerate(spec.tensors().items())
    }


def read(spec: CascadeSpec, precision: str, **options: Any) -> tuple[plan.Plan, int]:
    blob = build.build(FLAVOUR, spec, weights(spec), precision, **options)
    return plan.read(blob), len(blob)


@pytest.mark.parametrize("name", ["256p", "1024p"])
def test_the_authors_networks(name: str) -> None:
    spec = PRESETS[name]
    found, size = read(spec, "fp16")
    names = [kernel.name for kernel in found.kernels]
    stages = len(spec.stages)
    # Norm, leaky ReLU, upsampling and concatenation are one kernel at every stage but the first.
    fused = [kernel for kernel in found.kernels if kernel.name.endswith("ResiConc")]
    assert len(fused) == stages - 1
    assert all("SqrtDiv" in kernel.name and "Max" in kernel.name for kernel in fused)
    assert not [name for name in names if "Resi" in name and not name.endswith("ResiConc")]
    # Two means for each convolution, in float32, by many blocks; the map itself is never copied
    # to float32, and never transposed.
    means = [kernel for kernel in found.kernels if kernel.name.endswith("Mean")]
    assert len(means) == 2 * 2 * stages
    for kernel in means:
        assert {tensor.dtype for tensor in kernel.outputs} == {"float"}
        assert kernel.blocks > 100
    assert not [name for name in names if "nor" in name.lower()]
    largest = max(s.channels * s.height * s.width for s in spec.stages[1:])
    wide = [t for k in found.kernels for t in k.outputs if t.dtype == "float"]
    assert max(tensor.bytes for tensor in wide) < largest
    labels = [kernel.label for kernel in found.kernels if kernel.name == "convolution"]
    assert len(labels) == 2 * stages + 1
    assert labels[0].startswith("stages.0.conv1.convolution")
    assert names.count("pooling") == stages - 1
    # The label map comes as uint8, and pictures leave as uint8.
    tensors = {t for k in found.kernels for t in (*k.inputs, *k.outputs) if t.dtype == "uint8"}
    assert {t.shape for t in tensors} == {(1, *spec.size), (1, spec.images, *spec.size, 3)}
    estimated, memory = build.estimate(spec, "fp16", 1)
    assert estimated < size < 1.1 * estimated
    assert 0.8 * found.workspace < memory < 1.25 * found.workspace


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_precisions(precision: str) -> None:
    found, _ = read(tiny.SPEC, precision)
    tensors = {t.dtype for k in found.kernels if k.name == "convolution" for t in k.outputs}
    assert tensors <= {"float"} if precision != "bf16" else "half" not in tensors


def test_fp8_convolutions_are_fp8(monkeypatch: pytest.MonkeyPatch) -> None:
    """And what writes their input is still one kernel; their results are no float32 maps."""
    monkeypatch.setenv(fp8.VARIABLE, "1,2,3")
    spec = CascadeSpec(widths=(64, 64, 64, 32), base=(16, 32), classes=20)
    found, _ = read(spec, "fp8", targets=("sm_89", "sm_120"))
    narrow = [
        k for k in found.kernels if k.name == "convolution" and k.inputs[0].dtype == "fp8_e4m3"
    ]
    assert len(narrow) == 6
    for kernel in narrow:
        assert kernel.inputs[1].dtype == "fp8_e4m3", "the weights"
        assert {tensor.dtype for tensor in kernel.outputs} == {"half"}
    writers = [k for k in found.kernels if any(t.dtype == "fp8_e4m3" for t in k.outputs)]
    assert len(writers) == 6 and all("SqrtDiv" in kernel.name for kernel in writers)
    assert sum("Resi" in k.name and k.name.endswith("Conc") for k in writers) == 3


@pytest.mark.parametrize(
    ("targets", "accelerators"),
    [((), {"sm80"}), (("sm_75",), {"sm75"}), (("sm_89", "sm_120"), {"sm89", "sm120"})],
)
def test_targets(targets: tuple[str, ...], accelerators: set[str]) -> None:
    found, _ = read(tiny.SPEC, "fp16", targets=targets)
    assert set(found.accelerators) == accelerators


@pytest.mark.parametrize("batch", [(3, 3), (1, 4)])
def test_batches(batch: tuple[int, int]) -> None:
    found, _ = read(tiny.SPEC, "fp16", batch=batch)
    assert found.kernels


def test_progress_is_told() -> None:
    told: list[tuple[str, int, int]] = []
    read(tiny.SPEC, "fp16", progress=lambda *step: told.append(step))
    assert all(0 <= done <= steps for _, done, steps in told)
    assert told[-1][1] == told[-1][2]
    assert len({phase for phase, _, _ in told}) > 2


def test_ctrl_c_stops_and_leaves_nothing(tmp_path: Path) -> None:
    """In a process of its own: its builder is stopped half-way."""
    tiny.save_checkpoint(tmp_path / "net.safetensors")
    script = (
        "import os, signal, sys; from crn_fast import cli; from crn_fast.trt import build\n"
        "real = build._monitor\n"
        "def monitor(trt, progress, interrupted):\n"
        "    return real(trt, lambda *a: os.kill(os.getpid(), signal.SIGINT), interrupted)\n"
        "build._monitor = monitor\n"
        "cli.main(['build-engine', 'net.safetensors', '--backend', 'trt'])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 130, done.stderr
    assert "interrupted" in done.stderr and "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["net.safetensors"]


def test_a_failed_build_gives_tensorrt_s_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network without an output, which is refused before anything is compiled."""
    monkeypatch.setattr(build.network, "define", lambda *_: [])
    with pytest.raises(ResourceError, match=r"TensorRT-RTX .* could not build .* at least one out"):
        build.build(FLAVOUR, tiny.SPEC, weights(tiny.SPEC), "fp16")


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Call crn-fast in a folder with net.safetensors and layout.png."""
    monkeypatch.chdir(tmp_path)
    tiny.save_checkpoint(Path("net.safetensors"))
    layout.write(from_array(tiny.labels_array()[0], label_set("camvid")), "layout.png")

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(arguments))
        out, err = capfd.readouterr()
        code = exited.value.code
        assert isinstance(code, int)
        return code, out, err

    return call


def test_the_engine_file(run: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run(
        "build-engine", "net.safetensors", "--backend", "trt", "--target", "sm_89,sm_120",
        "--batch", "1-4", "--precision", "bf16",
    )  # fmt: skip
    assert (code, out) == (0, "net.crn\n"), err
    packed, metadata = container.read("net.crn")
    manifest = Manifest.from_metadata("net.crn", metadata)
    assert (manifest.backend, manifest.precision, manifest.target) == (
        "trt",
        "bf16",
        "sm_89,sm_120",
    )
    assert manifest.built_with["tensorrt_rtx"] == FLAVOUR.version
    assert manifest.built_with["batch"] == "1 to 4"
    assert manifest.checkpoint_sha256 == tiny.make_checkpoint().sha256()
    assert metadata[trust.SIGNATURE]
    assert run("engine", "extract", "net.crn")[:2] == (0, "net.plan\n")
    assert Path("net.plan").read_bytes() == packed["plan"].tobytes()
    code, out, err = run("engine", "kernels", "net.crn")
    assert code == 0 and "convolution" in out and "sm120" in err
    code, _, err = run("engine", "rebuild", "net.crn", "net.safetensors", "--force")
    assert code == 0, err
    again = Manifest.from_metadata("net.crn", container.read_metadata("net.crn"))
    assert again == manifest


def test_a_dry_run_writes_nothing(run: Callable[..., tuple[int, str, str]]) -> None:
    before = sorted(Path().iterdir())
    code, out, err = run("build-engine", "net.safetensors", "--backend", "trt", "--dry-run")
    assert (code, out) == (0, "")
    assert "MB of GPU memory" in err
    assert sorted(Path().iterdir()) == before


def test_fp8_says_of_which_stages(
    run: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before it is built and in the file; a GPU that is named twice is built for once."""
    asked = "build-engine net.safetensors --backend trt --precision fp8 --target sm_89,sm_89"
    assert "fp8 in no stage: a plan" in run(*asked.split(), "--dry-run")[2]
    monkeypatch.setenv(fp8.VARIABLE, "2,1")
    assert "fp8 in stages 1,2: a plan" in run(*asked.split(), "--dry-run")[2]
    assert run(*asked.split())[0] == 0
    manifest = Manifest.from_metadata("net.crn", container.read_metadata("net.crn"))
    assert (manifest.target, manifest.built_with["fp8 stages"]) == ("sm_89", "1,2")


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ("--backend trt --target sm_90", 2, ["sm_90", "sm_89", "--backend fused"]),
        ("--backend trt --target this,sm_89", 2, ["cannot be combined"]),
        ("--backend trt --target sm_89,", 2, ["--target", "empty"]),
        ("--backend trt --batch 0", 2, ["--batch"]),
        ("--backend trt --batch 4-2", 2, ["--batch"]),
        ("--backend trt --batch many", 2, ["many"]),
        ("--backend native --target sm_89", 2, ["native", "--target"]),
        ("--backend native --batch 2", 2, ["native", "--batch"]),
        ("--backend native --timing-cache off", 2, ["native", "--timing-cache"]),
        ("--backend trt --precision fp8", 2, ["fp8", "sm_89", "--target"]),
        ("--backend trt --precision fp8 --target sm_120,sm_86", 2, ["sm_86 has none"]),
        ("--backend trt --verify", 8, ["--verify", "trt cannot run here"]),
    ],
)
def test_mistakes(
    arguments: str, code: int, parts: list[str], run: Callable[..., tuple[int, str, str]]
) -> None:
    before = sorted(Path().iterdir())
    found, out, err = run("build-engine", "net.safetensors", *arguments.split())
    assert (found, out) == (code, ""), err
    assert all(part in err for part in parts), err
    assert sorted(Path().iterdir()) == before


def test_rendering_without_a_driver_says_so(run: Callable[..., tuple[int, str, str]]) -> None:
    assert run("build-engine", "net.safetensors", "--backend", "trt")[0] == 0
    if trt.available() is None:
        pytest.skip("a GPU is here")
    code, _, err = run("render", "--layout", "layout.png", "-m", "net.crn")
    assert code == 8
    assert any(word in err for word in ("driver", "pycuda", "supports")), err


@pytest.fixture(scope="module")
def packed() -> dict[str, np.ndarray]:
    return trt.pack(tiny.SPEC, tiny.make_checkpoint().tensors, "auto")


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"version": "9.9"}, Mismatch, r"TensorRT-RTX 9\.9; here is "),
        ({"flavour": "openvino"}, Mismatch, "openvino"),
        ({"batch": [3, 1]}, BadInput, "out of range"),
        ({"target": 7}, BadInput, "out of range"),
        ({"more": "x"}, BadInput, "cannot be read"),
    ],
)
def test_what_the_plan_says_of_itself(
    change: dict[str, Any], error: type[Exception], named: str, packed: dict[str, np.ndarray]
) -> None:
    about = json.loads(packed["about"].tobytes()) | change
    changed = packed | {"about": np.frombuffer(json.dumps(about).encode(), np.uint8)}
    step = trt.check if error is BadInput else trt.load
    arguments = ("x.crn", tiny.SPEC, changed) if error is BadInput else ()
    with pytest.raises(error, match=named):
        step(*(arguments or (tiny.SPEC, changed, "auto", None, None)))


def test_the_form_of_the_payload(packed: dict[str, np.ndarray]) -> None:
    trt.check("x.crn", tiny.SPEC, packed)
    for changed, named in (
        ({"plan": packed["plan"]}, "missing about"),
        (packed | {"more": packed["plan"]}, "unexpected more"),
        (packed | {"plan": np.zeros(3, np.float32)}, "plan is no row of bytes"),
        (packed | {"plan": np.zeros(0, np.uint8)}, "plan is no row of bytes"),
    ):
        with pytest.raises(BadInput, match=named):
            trt.check("x.crn", tiny.SPEC, changed)


def test_another_precision_is_a_mismatch(packed: dict[str, np.ndarray]) -> None:
    with pytest.raises(Mismatch, match="computes in fp16, not bf16"):
        trt.load(tiny.SPEC, packed, "bf16", None, None)
    with pytest.raises(UsageError, match="precision is 'int8'; expected one of auto"):
        trt.load(tiny.SPEC, packed, "int8", None, None)


@pytest.mark.parametrize(
    ("capability", "target", "fits"),
    [
        ((8, 9), build.PORTABLE, True),
        ((7, 5), build.PORTABLE, False),
        ((8, 9), "sm_80,sm_89", True),
        ((12, 0), "sm_80,sm_89", False),
        ((9, 0), "sm_90", True),
    ],
)
def test_the_gpu_must_be_one_it_was_built_for(
    capability: tuple[int, int], target: str, fits: bool
) -> None:
    about = build.About("tensorrt_rtx", "1", target, "fp16", (1, 1))
    gpu: Any = type("Gpu", (), {"capability": capability, "gpu": "stand-in"})()
    if fits:
        trt._check_gpu(about, gpu)
        return
    with pytest.raises(Mismatch, match=rf"built for {target}; the GPU here, stand-in, is sm_"):
        trt._check_gpu(about, gpu)


def test_hopper_is_passed_over_by_rtx() -> None:
    assert "sm_90: install TensorRT itself" in (trt._why_not_this_gpu(FLAVOUR, (9, 0)) or "")
    assert trt._why_not_this_gpu(FLAVOUR, (8, 9)) is None


@pytest.mark.gpu
def test_renders_on_a_gpu(run: Callable[..., tuple[int, str, str]]) -> None:
    if reason := trt.available():
        pytest.skip(reason)
    labels = tiny.labels_array(3)
    expected = Engine.open("net.safetensors", backend="eager", precision="fp32").render(labels)
    for precision, allowed in (("fp32", 1), ("tf32", 2), ("fp16", 2), ("bf16", 9)):
        code, _, err = run(
            "build-engine", "net.safetensors", "--backend", "trt", "--precision", precision,
            "--batch", "1-2", "--force",
        )  # fmt: skip
        assert code == 0, err
        found = Engine.open("net.crn").render(labels).astype(int)
        assert np.abs(found - expected).max() <= allowed, precision
