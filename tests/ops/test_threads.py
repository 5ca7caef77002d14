"""The number of threads against made-up control groups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from crn_fast.kernels.cpu import threads


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, None),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "400000 100000\n", "a/cpu.max": "max 100000\n"}, 4.0),
        ({"cpu.max": "max 100000\n", "a/cpu.max": "200000 100000\n"}, 2.0),
        ({"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "50000 100000\n"}, 0.5),
        ({"a/b/cpu.max": "damaged"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.5),
    ],
)
def test_the_tightest_quota_counts(
    files: dict[str, str], quota: float | None, tmp_path: Path
) -> None:
    root = tmp_path / "cgroup"
    for name, text in files.items():
        write(root / name, text)
    write(tmp_path / "membership", "1:cpu:/ignored\n0::/a/b\n")
    assert threads.cgroup_quota(root, tmp_path / "membership") == quota


def test_a_system_without_control_groups_has_no_quota(tmp_path: Path) -> None:
    assert threads.cgroup_quota(tmp_path / "none", tmp_path / "missing") is None


@pytest.mark.parametrize(("quota", "cpus"), [(None, 8), (0.2, 1), (1.5, 2), (3.0, 3), (64.0, 8)])
def test_quota_caps_the_affinity(
    quota: float | None, cpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(threads, "cgroup_quota", lambda: quota)
    assert threads.usable_cpus() == cpus
