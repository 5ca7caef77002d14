"""The suites on a tiny network: what they measure is judged, and what is wrong has no time.

No time is looked at.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle and most peers need torch")
pytest.importorskip("suites", reason="benchmarks/ is not in the sdist")

import agree
import alternative_frames
import alternatives
import bench_subjects
import op_times
import scaling
import startup
import training_steps
from bench_subjects import CEILINGS, SPEC, InProcess
from crn_fast.bench import frame, inputs, origin
from crn_fast.bench.inputs import Inputs
from crn_fast.kernels import cpu
from crn_fast.measure import rows
from crn_fast.measure.rows import Row

if reason := cpu.available():
    pytest.skip(reason, allow_module_level=True)

SUITES = Path(__file__).parents[2] / "benchmarks"
ORIGIN = origin.of("test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return bench_subjects.prepare(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def thrifty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(op_times.ceilings, "measure", lambda threads: CEILINGS)
    monkeypatch.setattr(frame, "PAUSE", 0.0)
    monkeypatch.setattr(frame, "Child", InProcess)


def quiet(message: str) -> None:
    pass


def test_every_op_is_judged_and_timed(prepared: Inputs) -> None:
    found = op_times.measure(prepared, 1, 3, "float64", ORIGIN, quiet)
    assert [row.case["op"] for row in found] == op_times.names_of(SPEC)
    features = [row.error.relative for row in found if row.error and "stage" in str(row.case["op"])]
    assert all(0 < error < 1e-5 for error in features)
    direct = sum(row.gflops * row.time.median * 1e9 for row in found if row.gflops and row.time)
    assert direct == pytest.approx(SPEC.flops())
    assert all(len(row.seconds) == 3 for row in found)


@pytest.mark.parametrize("op", ["refine", "conv", "head", "to_uint8"])
def test_one_wrong_element_of_one_op_is_found(
    op: str, prepared: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(cpu, op)

    def damaged(*arguments: Any) -> Any:
        result = right(*arguments)
        array = result.raw if isinstance(result, cpu.Features) else result
        array.reshape(-1)[37] += 3
        return result

    monkeypatch.setattr(cpu, op, damaged)
    found = op_times.measure(prepared, 1, 1, "float64", ORIGIN, quiet)
    assert all(row.time is None and row.reason for row in found)
    (wrong,) = (row for row in found if row.wrong)
    assert str(wrong.case["op"]).endswith(op) and "no time is taken" in str(wrong.reason)


def test_an_axis_has_exponents_of_what_it_varies(
    prepared: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scaling, "BASES", ((1, 2), (2, 4)))
    points = scaling.points("size", str(bench_subjects.model(tmp_path)), 1, False)
    prepare = partial(scaling_inputs, tmp_path / "work")
    found = scaling.measure(points, prepare, 2, ORIGIN, quiet)
    assert [(row.subject, row.case["height"]) for row in found] == [
        *(("native", 4), ("eager", 4), ("native", 8), ("eager", 8))
    ]
    assert all(row.exponents.keys() == {"operations", "bytes"} for row in found)
    assert found[2].ratios.keys() == {"eager", f"native {64 * 64 * 2}"}


def scaling_inputs(folder: Path, network: str, **given: Any) -> Inputs:
    return inputs.prepare(network, folder, **given)


def test_exponents_are_those_of_a_power() -> None:
    def row(operations: float) -> Row:
        seconds = 3e-9 * operations**0.5
        return Row(
            *("scaling", {"axis": "size"}, "native", "", ORIGIN),
            time=rows.Spread(seconds, seconds, seconds, 3),
            error=rows.Error(0.1, 0.1, 60.0, "float64"),
            gflops=operations / seconds,
            gbs=operations**2 / seconds,
        )

    found = [row(operations) for operations in (1e3, 1e4, 1e6)]
    assert scaling._fit(found[0], found) == {"operations": 0.5, "bytes": 0.25}


@pytest.mark.parametrize("axis", scaling.AXES)
def test_quick_axes_begin_like_the_others(axis: str) -> None:
    quick, full = (scaling.points(axis, "street-256", 2, quick) for quick in (True, False))
    assert full[: len(quick)] == quick and len(quick) >= 2


def test_what_a_process_prints_is_judged(prepared: Inputs, monkeypatch: pytest.MonkeyPatch) -> None:
    found = startup.measure(prepared, startup.SUBJECTS, 1, 1, ORIGIN, quiet)
    assert [row.subject for row in found if row.time] == [*startup.SUBJECTS]
    by_name = {row.subject: row for row in found}
    assert {"start", "open", "cold frame", "write"} == by_name["one frame"].parts.keys()
    assert "warm frames" in by_name["five frames"].parts
    monkeypatch.setitem(startup.COMMANDS, "import", ("-c", "print('something else')"))
    (row,) = startup.measure(prepared, ["import"], 1, 1, ORIGIN, quiet)
    assert row.wrong and row.time is None


def test_a_step_is_judged_by_its_gradients(
    prepared: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (row,) = training_steps.measure(prepared, ["plain"], 1, 1, ORIGIN, quiet)
    assert row.reason == "the loss is of one picture; tiny makes 2"
    path = bench_subjects.model(tmp_path, dataclasses.replace(SPEC, images=1))
    prepared = inputs.prepare(str(path), tmp_path / "work")
    monkeypatch.setattr(training_steps, "Child", InProcess)
    found = training_steps.measure(prepared, ["plain", "recompute"], 1, 2, ORIGIN, quiet)
    assert [row.subject for row in found if row.time] == ["plain", "recompute"]
    assert all(row.error and row.error.psnr is None for row in found)
    gradients = prepared.model.parent / "tiny.train" / "gradients.float64.npy"
    np.save(gradients, np.load(gradients) * 1.5)
    (row,) = training_steps.measure(prepared, ["plain"], 1, 1, ORIGIN, quiet)
    assert row.wrong and row.time is None


def test_another_network_is_judged_by_itself_in_float64(
    prepared: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    def small(classes: int, size: tuple[int, int]) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Conv2d(classes, 3, 3, padding=1), torch.nn.Tanh())

    monkeypatch.setattr(alternatives, "NETWORKS", {"small": small})
    monkeypatch.setattr(alternative_frames, "MODES", ("eager",))
    monkeypatch.setattr(alternative_frames, "Child", InProcess)
    arguments = ([prepared], ["small"], 1, 2, ORIGIN, quiet)
    ours, other = alternative_frames.measure(*arguments)
    assert (ours.subject, other.subject) == ("native tiny", "small eager")
    height, width = SPEC.size
    assert other.time is not None and other.gflops is not None
    operations = other.gflops * other.time.median * 1e9
    assert operations == pytest.approx(2 * 9 * SPEC.classes * 3 * height * width)
    assert other.ratios.keys() == {"native tiny"}
    (oracle,) = prepared.model.parent.glob("small.*.float64.npy")
    np.save(oracle, np.load(oracle)[:, :, ::-1])
    assert alternative_frames.measure(*arguments)[0].wrong


def test_pytest_benchmark_is_given_the_rounds_that_were_measured(tmp_path: Path) -> None:
    pytest.importorskip("pytest_benchmark", reason="runs the suites")
    model, made = bench_subjects.model(tmp_path), tmp_path / "made.json"
    command = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        str(SUITES),
        "-k",
        "test_frame and (native or trt)",
    ]
    options = [
        "--quick",
        "--network",
        str(model),
        "--rounds",
        "3",
        "--work",
        str(tmp_path / "work"),
    ]
    more = [
        "--rows",
        str(tmp_path / "rows"),
        "--benchmark-json",
        str(made),
        "-p",
        "no:cacheprovider",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, *options, *more, "--threads", "1"],
        env=environment,
        cwd=SUITES.parent,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    found = {row.subject: row for row in rows.read(tmp_path / "rows" / "frame.jsonl")}
    assert found.keys() == {"native", "trt"}
    (told,) = json.loads(made.read_text())["benchmarks"]
    row = found["native"]
    assert row.time is not None
    assert told["stats"]["data"] == pytest.approx(row.seconds)
    assert told["stats"]["median"] == pytest.approx(row.time.median)
    assert told["group"] == "frame tiny"
    assert f"frame: not measured: trt: {found['trt'].reason}" in result.stdout


def test_two_runs_are_compared_ratio_by_ratio(tmp_path: Path) -> None:
    def row(ratio: float, wide: float) -> Row:
        return Row(
            *("frame", {"network": "a"}, "native", "", ORIGIN),
            time=rows.Spread(1.0, 1.0, 1.0, 9),
            error=rows.Error(0.1, 0.1, 60.0, "float64"),
            ratios={"eager": rows.Spread(ratio, ratio * (1 - wide), ratio * (1 + wide), 9)},
        )

    path = tmp_path / "frame.jsonl"
    command = [sys.executable, "-P", str(SUITES / "agree.py"), str(tmp_path)]

    def compare() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True)

    rows.append(path, [row(9.0, 0.01)])
    assert compare().returncode == 3
    rows.append(path, [row(2.0, 0.01), row(2.1, 0.01)])
    assert "1 ratios: 1 within a tenth; 0 noisy" in compare().stdout
    rows.append(path, [row(3.0, 0.01)])
    assert compare().returncode == 7
    rows.append(path, [row(2.0, 0.2)])
    assert "1 noisy, of which 1 are not within a tenth" in compare().stdout
    assert not agree.agrees(agree.ratios([row(2.0, 0.0), row(3.0, 0.0)])[0][0])
