"""Memory: what a run allocates is seen, and gone when the next one starts."""

from __future__ import annotations

import mmap
import sys
from pathlib import Path

import numpy as np
import pytest

from crn_fast.errors import Unavailable
from crn_fast.measure import memory

MIB = 1 << 20
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads Linux's /proc")


@linux
def test_a_short_peak_is_seen_and_belongs_to_its_run() -> None:
    _, idle = memory.watch(lambda: None)
    result, busy = memory.watch(lambda: int(np.ones(200 * MIB, np.uint8)[-1]))
    _, after = memory.watch(lambda: None)
    assert result == 1
    assert busy.peak - idle.peak > 190 * MIB
    assert abs(after.peak - idle.peak) < 30 * MIB
    assert busy.weights is None


@linux
def test_pages_of_a_mapped_file_count_apart(tmp_path: Path) -> None:
    path = tmp_path / "a file of weights.crn"
    path.write_bytes(b"x" * (32 * MIB))

    def touch() -> int:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as pages:
            return sum(pages[: 16 * MIB : mmap.PAGESIZE]) + memory_now(path)

    _, before = memory.watch(lambda: None, path)
    _, found = memory.watch(lambda: [touch() for _ in range(20)], path)
    assert before.weights == 0
    assert found.weights is not None
    assert 16 * MIB <= found.weights <= 32 * MIB


def memory_now(path: Path) -> int:
    return memory.resident(path, Path("/proc/self/smaps").read_text())


def test_only_the_named_files_pages_are_summed(tmp_path: Path) -> None:
    path = (tmp_path / "w.crn").resolve()
    smaps = "\n".join(
        [
            f"7f00-7f01 r--p 00000000 fe:00 12 {path}",
            *("Size: 400 kB", "Rss: 12 kB", "VmFlags: rd mr"),
            f"7f01-7f02 r--p 00000000 fe:00 12 {path}.other",
            "Rss: 1000 kB",
            "7f02-7f03 rw-p 00000000 00:00 0",
            "Rss: 2000 kB",
            f"7f03-7f04 r--p 00000000 fe:00 12 {path}",
            "Rss: 4 kB",
        ]
    )
    assert memory.resident(path, smaps) == 16 * 1024


def test_without_proc_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(memory, "PROC", tmp_path / "none")
    with pytest.raises(Unavailable, match="not measured"):
        memory.watch(lambda: None)
