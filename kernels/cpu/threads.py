"""How many threads are worth starting: the CPUs that this process may use, not those installed."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """CPUs this process may use: its affinity mask, within its cgroup's quota. At least 1."""
    affinity = getattr(os, "sched_getaffinity", None)
    cpus = len(affinity(0)) if affinity else os.cpu_count() or 1
    quota = cgroup_quota()
    return max(1, cpus if quota is None else min(cpus, ceil(quota)))


def cgroup_quota(root: Path = CGROUP, membership: Path = Path("/proc/self/cgroup")) -> float | None:
    """CPUs' worth of time that the control groups of this process allow, or None for no limit.

    Source: the kernel's Documentation/admin-guide/cgroup-v2.rst (`cpu.max`, which every ancestor
    limits too) and scheduler/sched-bwc.rst (version 1: `cpu.cfs_quota_us`).
    """
    limits = []
    group = root / _version_2_group(membership)
    for folder in (group, *group.parents):
        limits.append(_ratio(_read(folder / "cpu.max")))
        if folder == root:
            break
    version_1 = root / "cpu"
    quota, period = (_read(version_1 / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
    limits.append(_ratio(f"{quota} {period}"))
    return min((limit for limit in limits if limit is not None), default=None)


def _version_2_group(membership: Path) -> str:
    for line in _read(membership).splitlines():
        if line.startswith("0::"):
            return line.removeprefix("0::").strip().lstrip("/")
    return ""


def _ratio(quota_and_period: str) -> float | None:
    """'150000 100000' -> 1.5; None for 'max 100000', -1 (version 1: no limit) or no file."""
    try:
        quota, period = map(int, quota_and_period.split())
    except ValueError:
        return None
    return quota / period if quota > 0 and period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
