"""Engines compared with float32 before they are kept: native for real, TensorRT's by a stand-in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="native is compared with the eager backend, which needs torch")

from crn_fast import backends, cli, verify
from crn_fast.backends import native, trt
from crn_fast.engine import Engine
from crn_fast.errors import CheckFailed, Mismatch, Unavailable
from crn_fast.palette import label_set
from crn_fast.spec import PRESETS, CascadeSpec
from crn_fast.trt.build import About

SPEC = CascadeSpec(widths=(24, 20, 16, 9), base=(4, 8), classes=12)
"""Pictures of 32x64, in which 16x32 blocks have room."""

needs_native = pytest.mark.skipif(
    native.available() is not None, reason="the compiled ops are missing"
)


@pytest.fixture
def run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """Build net.crn of net.safetensors in an empty folder: exit code and what it said."""
    monkeypatch.chdir(tmp_path)
    tiny.checkpoint.save("net.safetensors", tiny.calm_checkpoint(SPEC))

    def call(*arguments: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(["build-engine", "net.safetensors", *arguments])
        code = exited.value.code
        assert isinstance(code, int)
        return code, capfd.readouterr().err

    return call


def files() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@needs_native
def test_what_is_right_is_kept(run: Callable[..., tuple[int, str]]) -> None:
    code, err = run("--backend", "native")
    assert code == 0, err
    # The street alone, then two different layouts at a time.
    assert "verified against eager in float32: 3 pictures, largest difference" in err
    assert all(part in err for part in (" calls: p50 ", ", p90 ", ", p99 "))
    assert files() == ["net.crn", "net.safetensors"]
    assert Path("net.crn").stat().st_mode & 0o777 == Path("net.safetensors").stat().st_mode & 0o777
    assert Engine.open("net.crn").backend == "native"


def wrong_pack(monkeypatch: pytest.MonkeyPatch) -> None:
    """One channel's shift is off."""
    right = native.pack

    def pack(*arguments: Any, **options: Any) -> dict[str, np.ndarray]:
        packed = right(*arguments, **options)
        packed["stages.2.conv2.beta"] = packed["stages.2.conv2.beta"].copy()
        packed["stages.2.conv2.beta"][3] += 1
        return packed

    monkeypatch.setattr(native, "pack", pack)


def wrong_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where two layouts come at a time, and there in one value."""
    right = native.NativeRenderer.__call__

    def call(self: Any, labels: np.ndarray) -> np.ndarray:
        found = right(self, labels)
        found[1:2, 0, 7, 5, 1] ^= 16
        return found

    monkeypatch.setattr(native.NativeRenderer, "__call__", call)


@needs_native
@pytest.mark.parametrize("fault", [wrong_pack, wrong_second])
def test_what_is_wrong_is_not_written(
    fault: Callable[[pytest.MonkeyPatch], None],
    run: Callable[..., tuple[int, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fault(monkeypatch)
    code, err = run("--backend", "native")
    assert code == 7, err
    assert "net.crn: layout '" in err and "levels apart" in err and "eager in float32 has" in err
    if fault is wrong_second:
        assert "layout 'blocks', 2 at a time: picture 0 has" in err
        assert "at row 7, column 5, green" in err
    assert files() == ["net.safetensors"]
    Path("net.crn").write_bytes(b"before")
    assert run("--backend", "native", "--force")[0] == 7
    assert Path("net.crn").read_bytes() == b"before" and len(files()) == 2
    assert run("--backend", "native", "--force", "--no-verify")[0] == 0


@needs_native
def test_what_is_said_beforehand(
    run: Callable[..., tuple[int, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "would verify it" in run("--backend", "native", "--dry-run")[1]
    assert "would not verify it: not asked for" in run(
        "--backend", "native", "--dry-run", "--no-verify"
    )[1]  # fmt: skip
    monkeypatch.setattr(backends.get("eager"), "available", lambda: "no torch")
    said = "there is nothing to compare native with (eager: no torch)"
    code, err = run("--backend", "native", "--verify")
    assert code == 8 and said in err
    assert files() == ["net.safetensors"]
    code, err = run("--backend", "native")
    assert code == 0 and f"not verified: {said}" in err


@needs_native
def test_eager_is_compared_with_native(run: Callable[..., tuple[int, str]]) -> None:
    code, err = run("--backend", "eager", "--precision", "fp32")
    assert code == 0 and "verified against native in float32" in err, err


class StandIn:
    """A plan that renders what native does, but for one value that is `off`."""

    device, precision = "stand-in", "fp16"

    def __init__(self, off: int) -> None:
        made = tiny.calm_checkpoint(SPEC)
        packed = native.pack(SPEC, made.tensors, "fp32")
        self.off, self.sizes = off, list[int]()
        self.right = native.load(SPEC, packed, "fp32", None, None)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        self.sizes.append(len(labels))
        found = self.right(labels)
        value = found[0, 0, 0, 0, 0]
        found[0, 0, 0, 0, 0] = value + self.off if value < 128 else value - self.off
        return found

    def timings(self, labels: np.ndarray) -> dict[str, float]:
        assert labels.shape == (1, *SPEC.size)
        return {"upload": 0.001, "compute": 0.002, "download": 0.0005}


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> Callable[[StandIn], None]:
    """TensorRT that builds four bytes, and a GPU to run them on."""
    about = About("tensorrt_rtx", "1.7.1.116", "sm_89", "fp16", (1, 4))
    packed = {"plan": np.zeros(4, np.uint8), "about": np.frombuffer(about.to_bytes(), np.uint8)}
    for name in ("available", "available_to_build", "available_to_open"):
        monkeypatch.setattr(trt, name, lambda: None)
    monkeypatch.setattr(trt, "pack", lambda *_, **__: dict(packed))

    def load(made: StandIn | Exception) -> None:
        def give(*_: Any) -> StandIn:
            if isinstance(made, Exception):
                raise made
            return made

        monkeypatch.setattr(trt, "load", give)

    return load


@needs_native
def test_a_plan_is_verified_in_its_precision(
    run: Callable[..., tuple[int, str]], plans: Callable[[StandIn], None]
) -> None:
    near, far = StandIn(2), StandIn(3)
    plans(near)
    code, err = run("--backend", "trt", "--target", "sm_89")
    assert code == 0, err
    assert "verified against native in float32: 5 pictures" in err
    assert ", upload 1.000, compute 2.000, download 0.500" in err
    assert near.sizes[:2] == [1, 4], "as many layouts at a time as the plan takes"
    plans(far)
    code, err = run("--backend", "trt", "--target", "sm_89", "--force")
    assert code == 7 and "3 levels apart" in err and "fp16 may be 2 and 50 dB" in err, err


@needs_native
def test_an_engine_for_another_machine_is_kept_unless_verification_was_asked_for(
    run: Callable[..., tuple[int, str]], plans: Callable[[Any], None]
) -> None:
    plans(Mismatch("the plan was built for sm_120"))
    code, err = run("--backend", "trt", "--target", "sm_120")
    assert code == 0 and "not verified: net.crn: cannot be verified here" in err, err
    Path("net.crn").unlink()
    for arguments in (("--target", "sm_120", "--verify"), ()):
        code, err = run("--backend", "trt", *arguments)
        assert code == 4 and "add --no-verify: the plan was built for sm_120" in err, err
        assert files() == ["net.safetensors"]


def pictures(n: int = 2) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (n, 30, 40, 3), np.uint8)


@pytest.mark.parametrize("precision", list(verify.TOLERANCES))
def test_the_ruler(precision: str) -> None:
    """What is a level off passes; what is zero, shifted, or far off in one place does not."""
    expected = pictures()
    off = np.where(expected < 255, expected + 1, expected)
    off[:, 1:] = expected[:, 1:]
    levels, psnr = verify.compare("x", off, expected, precision, "y")
    assert levels == 1 and 60 < psnr < 65
    assert verify.compare("x", expected, expected, precision, "y") == (0, float("inf"))
    one = expected.copy()
    one[1, 29, 39, 2] ^= 128
    for wrong in (np.zeros_like(expected), np.roll(expected, 1, 1), expected[::-1], one):
        with pytest.raises(CheckFailed, match=r"x: picture \d has .* and y has"):
            verify.compare("x", wrong, expected, precision, "y")
    with pytest.raises(CheckFailed, match=r"picture 1 has .* row 29, column 39, blue.*128 levels"):
        verify.compare("x", one, expected, precision, "y")


def test_one_good_picture_does_not_hide_another() -> None:
    expected = pictures(2)
    noisy = expected.astype(int)
    noisy[1] += np.random.default_rng(1).integers(-2, 3, noisy[1].shape)
    with pytest.raises(CheckFailed, match=r"2 levels apart and 4\d\.\d dB; fp16"):
        verify.compare("x", noisy.clip(0, 255).astype(np.uint8), expected, "fp16", "y")


@pytest.mark.parametrize("name", ["camvid", "cityscapes", "nyu40"])
def test_layouts_have_every_class(name: str) -> None:
    labels = label_set(name)
    spec = CascadeSpec(widths=(4, 4, 4, 4), base=(5, 9), classes=labels.classes)
    for ids in verify.held_layouts(spec, labels).values():
        assert ids.shape == spec.size and ids.dtype == np.uint8
        assert set(np.unique(ids)) == set(range(labels.classes))


def test_a_large_network_renders_one_layout() -> None:
    assert list(verify.held_layouts(PRESETS["512p"], label_set("cityscapes"))) == ["street"]


def test_a_backend_that_cannot_run_is_not_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trt, "available_to_open", lambda: "no GPU")
    made = tiny.calm_checkpoint(SPEC)
    check = verify.Check(None, "trt", "net.crn", made)
    assert str(check) == "not verified: trt cannot run here (no GPU)"
    with pytest.raises(Unavailable, match="--verify: trt cannot run here"):
        verify.Check(True, "trt", "net.crn", made)
