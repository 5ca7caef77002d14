"""Rows: they come back as they were, only grow, and never hold a time without an error."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from crn_fast.errors import BadInput, ResourceError
from crn_fast.measure import rows
from crn_fast.measure.gate import Error, Passed
from crn_fast.measure.machine import describe
from crn_fast.measure.memory import Memory
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Spread, Timing

ORIGIN = Origin("2026-01-01 1", "python bench.py", describe(), {"python": "3.11"}, "abc")
CASE = {"network": "256p", "batch": 1, "threads": 2}
ORACLE = np.arange(12.0)


def timing(seconds: tuple[float, ...] = (2.0, 1.0, 3.0)) -> Timing:
    return Timing("native", "fp32", Passed("native", ORACLE + 0.5, ORACLE, 1.0, "float64"), seconds)


def full() -> Row:
    return rows.measured(
        *("frame", CASE, timing(), ORIGIN),
        operations=4e9,
        moved=6e9,
        ratios={"eager": Spread(4.0, 3.9, 4.1, 3)},
        parts={"start": Spread(0.1, 0.1, 0.2, 3)},
        shares={"effective": 1.5},
        ceilings={"numpy": 190.0, "copy": 27.5},
        memory={"run": Memory(5, 4, 3, None), "start": Memory(5, 4, 3, 2)},
        contention=0.25,
    )


def missing() -> Row:
    return Row("frame", CASE, "openvino", "", ORIGIN, reason="openvino cannot be imported")


def test_figures_follow_from_the_median() -> None:
    row = full()
    assert row.time == Spread.of([2.0, 1.0, 3.0])
    assert (row.gflops, row.gbs) == (2.0, 3.0)
    assert row.error is not None and row.error.largest == 0.5
    assert not row.noisy
    assert dataclasses.replace(row, ratios={}).noisy


def test_rows_come_back_and_only_grow(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows.append(path, [full(), missing()])
    before = path.read_bytes()
    rows.append(path, [missing()])
    assert path.read_bytes().startswith(before)
    assert rows.read(path) == [full(), missing(), missing()]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"error": None}, "expected a time and an error"),
        ({"time": None}, "expected a time and an error"),
        ({"reason": "it failed"}, "has figures"),
        ({"gflops": float("nan")}, "no number"),
        ({"schema": "crn_fast.benchmark/0"}, "this crn_fast reads"),
    ],
)
def test_what_does_not_belong_together_is_no_row(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        dataclasses.replace(full(), **changes)


def test_a_reason_has_no_figures() -> None:
    with pytest.raises(BadInput, match="has figures"):
        dataclasses.replace(missing(), gbs=1.0)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda row: row.pop("error"), "expected a time and an error"),
        (lambda row: row.pop("suite"), "suite"),
        (lambda row: row.update(colour="red"), "colour"),
        (lambda row: row.update(schema="crn_fast.benchmark/2"), "reads"),
        (lambda row: row["time"].update(median="1"), "median"),
        (lambda row: row["time"].pop("n"), "n"),
        (lambda row: row.update(ratios=[1]), "ratios"),
        (lambda row: row["ratios"].update(eager=4.0), "Spread"),
        (lambda row: row["case"].update(threads=[2]), "threads"),
        (lambda row: row["memory"]["run"].update(peak=1.5), "peak"),
        (lambda row: row["origin"]["machine"].update(cpus=True), "cpus"),
    ],
)
def test_a_damaged_line_is_named(change: Any, said: str, tmp_path: Path) -> None:
    row = json.loads(full().to_json())
    change(row)
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{missing().to_json()}\n{json.dumps(row)}\n")
    with pytest.raises(BadInput, match=f"rows.jsonl, line 2: .*{said}"):
        rows.read(path)


@pytest.mark.parametrize("line", ["", "{", "3", "null", '["suite"]', "NaN", "[" * 100_000])
def test_what_is_no_row_is_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{line}\n")
    with pytest.raises(BadInput, match="line 1"):
        rows.read(path)


def test_a_torn_file_is_not_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(full().to_json())
    with pytest.raises(BadInput, match="not whole"):
        rows.append(path, [full()])
    assert path.read_text() == full().to_json()


def test_a_missing_folder_or_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="does not exist"):
        rows.append(tmp_path / "none" / "rows.jsonl", [full()])
    with pytest.raises(BadInput, match="no such file"):
        rows.read(tmp_path / "rows.jsonl")


def test_the_error_is_the_gates() -> None:
    assert full().error == Error(
        0.5, pytest.approx(0.5 / ORACLE.std()), pytest.approx(54.15, abs=0.01), "float64"
    )
