"""`crn-fast bench`: its exit codes, and that a slow and a wrong kernel are caught end to end.

A slow kernel does its work many times over, in a child process like any other; no time of the clock
is compared with anything but another of the same run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the oracle and most peers need torch")

import bench_subjects
from bench_subjects import CEILINGS, KERNEL
from crn_fast.bench import frame
from crn_fast.cli import main
from crn_fast.kernels import cpu
from crn_fast.measure import rows

if reason := cpu.available():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bench_subjects.model(tmp_path_factory.mktemp("model"))


@pytest.fixture(autouse=True)
def thrifty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame.ceilings, "measure", lambda threads: CEILINGS)
    monkeypatch.setattr(frame, "PAUSE", 0.0)
    monkeypatch.setattr(frame, "BURST", 0.01)
    monkeypatch.setitem(frame.SUBJECTS, "native", bench_subjects.native)


def bench(model: Path, *options: str) -> int:
    common = ("--backend", "native", "--threads", "1", "--work", str(model.parent / "work"))
    with pytest.raises(SystemExit) as ended:
        main(["bench", "-m", str(model), *common, *options])
    return int(ended.value.code or 0)


def test_a_slow_kernel_is_caught_and_a_wrong_one_has_no_time(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    before, after = tmp_path / "before.jsonl", tmp_path / "after.jsonl"
    rounds = ("--peers", "eager", "--rounds", "5")
    assert bench(model, *rounds, "--json", str(before)) == 0
    assert "times native" in capfd.readouterr().out
    limit = ("--baseline", str(before), "--max-regress", "50%")
    assert bench(model, *rounds, *limit) == 0
    assert "none has fallen by more than 50.0%" in capfd.readouterr().err

    monkeypatch.setenv(KERNEL, "slow")
    assert bench(model, *rounds, *limit, "--json", str(after)) == 7
    said = capfd.readouterr().err
    assert "eager's time is" in said and "was" in said and "allowed is -50.0%" in said

    monkeypatch.setenv(KERNEL, "wrong")
    assert bench(model, "--peers", "none", "--rounds", "1", "--json", str(after)) == 7
    assert "no time is taken" in capfd.readouterr().err
    row = rows.read(after)[-1]
    assert row.wrong and row.time is None and "no time is taken" in str(row.reason)


def test_rows_on_stdout_are_lines_of_json_and_another_case_is_a_mismatch(
    model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert bench(model, "--peers", "none", "--rounds", "3", "--json", "-") == 0
    (line,) = capfd.readouterr().out.splitlines()
    row = rows.Row.from_json(line)
    assert (row.subject, row.case["network"], row.case["threads"]) == ("native", "tiny", 1)
    (tmp_path / "rows.jsonl").write_text(f"{line}\n")
    options = ("--peers", "none", "--rounds", "3", "--baseline", str(tmp_path / "rows.jsonl"))
    assert bench(model, *options) == 4
    assert "holds no ratio that this run has" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--peers", "none,other"), 2, "--peers none: expected all, none, or some of"),
        (("--peers", "tensorflow"), 2, "--peers tensorflow"),
        (("--backend", "gpu"), 2, "--backend gpu: expected all"),
        (("--max-regress", "5 percent"), 2, "expected a share"),
        (("--size", "64x64"), 4, "makes pictures of 16x32"),
        (("--baseline", "none.jsonl"), 3, "no such file"),
        (("--baseline", "none.jsonl", "--rounds", "2"), 2, "3 at least"),
        (("--json", "no/such/folder.jsonl"), 5, "does not exist"),
    ],
)
def test_bad_options_are_said_before_anything_is_measured(
    options: tuple[str, ...], code: int, said: str, model: Path, capfd: Any
) -> None:
    assert bench(model, *options) == code
    assert said in capfd.readouterr().err


def test_a_missing_backend_is_exit_8(
    model: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cpu, "available", lambda: "the ops are not compiled")
    assert bench(model) == 8
    assert "--backend native: the ops are not compiled" in capfd.readouterr().err


def test_every_row_is_one_json_document(model: Path, capfd: pytest.CaptureFixture[str]) -> None:
    options = ("--peers", "none", "--rounds", "1", "--batch", "2", "--end-to-end", "--json", "-")
    assert bench(model, *options) == 0
    found = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["suite"] for row in found] == ["frame", "endtoend"]
    assert found[0]["case"]["batch"] == 2
