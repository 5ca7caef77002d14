"""Whole processes: judged by the files that they write."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle needs torch")

import bench_subjects
from crn_fast.bench import endtoend, origin
from crn_fast.kernels import cpu

if reason := cpu.available():
    pytest.skip(reason, allow_module_level=True)


def test_a_frame_has_parts_that_add_up(tmp_path: Path) -> None:
    made, source = bench_subjects.prepare(tmp_path), origin.of("test")
    (row,) = endtoend.measure(made, ["native"], 1, 1, tmp_path, source, lambda message: None)
    assert row.time is not None
    assert {"start", "open", "read", "render", "write"} <= row.parts.keys()
    assert sum(part.median for part in row.parts.values()) == pytest.approx(row.time.median)


def test_a_folder_is_judged_by_all_of_its_pictures(tmp_path: Path) -> None:
    made, source = bench_subjects.prepare(tmp_path, batch=2), origin.of("test")
    arguments = ("folder", 1, 1, tmp_path, source, lambda message: None)
    found = endtoend.measure_many(made, *arguments)
    assert [row.subject for row in found if row.time] == ["native", "one by one"]
    np.save(made.expected, np.load(made.expected)[::-1])
    wrong = endtoend.measure_many(made, *arguments)
    assert all(row.wrong and row.time is None for row in wrong)
