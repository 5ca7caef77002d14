"""The model repository for Triton Inference Server: its form, and what the server cannot run."""

from __future__ import annotations

from pathlib import Path

import pytest

import tiny
from crn_fast.errors import Mismatch, ResourceError
from crn_fast.trt import triton_server
from crn_fast.trt.build import About


def test_a_fixed_batch_is_the_first_dimension() -> None:
    text = triton_server.configuration("net", tiny.SPEC, "tensorrt", (1, 1))
    assert "max_batch_size: 0" in text
    assert "dims: [ 1, 12, 20 ]" in text and "dims: [ 1, 2, 12, 20, 3 ]" in text
    assert "dynamic_batching" not in text


def test_a_range_is_left_to_the_server() -> None:
    text = triton_server.configuration("net", tiny.SPEC, "tensorrt", (1, 6))
    assert "max_batch_size: 6" in text
    assert "dims: [ 12, 20 ]" in text and "dims: [ 2, 12, 20, 3 ]" in text
    assert "dynamic_batching" in text


def test_only_tensorrt_s_own_plans_are_served() -> None:
    triton_server.check_served("x", About("tensorrt", "11.1.0", "sm_90", "fp16", (1, 1)))
    with pytest.raises(Mismatch, match="TensorRT-RTX, and Triton"):
        triton_server.check_served("x", About("tensorrt_rtx", "1.7", "sm_80", "fp16", (1, 1)))


def test_a_failed_write_leaves_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        triton_server.write(tmp_path / "net", tiny.SPEC, b"x", "model.plan", "tensorrt", (1, 1))
    assert not list(tmp_path.iterdir())
