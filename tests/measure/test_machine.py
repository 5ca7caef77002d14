"""What a row says of where it was taken."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from crn_fast.kernels import cpu
from crn_fast.measure import machine


def test_the_machine_has_a_name() -> None:
    found = machine.describe(gpu="a GPU")
    assert found.cpu and found.system and found.cpus >= 1
    assert found.gpu == "a GPU"
    if cpu.available() is None:
        assert found.instruction_set in cpu.instruction_sets()


def test_a_forced_instruction_set_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    if cpu.available() is not None:
        pytest.skip("no compiled ops here")
    monkeypatch.setenv(cpu.ISA_VARIABLE, "portable")
    assert machine.describe().instruction_set == "portable"


def test_versions_leave_out_what_is_not_there() -> None:
    assert set(machine.versions(["numpy", "no-such-package"])) == {"python", "numpy"}


def test_the_commit_and_whether_files_differ(tmp_path: Path) -> None:
    assert machine.commit(tmp_path) == "unknown"

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=n", "-c", "user.email=e@x")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True)

    (tmp_path / "file").write_text("1")
    git("init", "-q")
    git("add", "file")
    git("commit", "-q", "-m", "first")
    clean = machine.commit(tmp_path)
    assert len(clean) == 12
    (tmp_path / "file").write_text("2")
    assert machine.commit(tmp_path) == f"{clean}+changes"


def test_contention_is_a_share_or_unknown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pressure = tmp_path / "cpu"
    pressure.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=1000000\nfull total=5\n")
    times = iter([10.0, 14.0])
    monkeypatch.setattr(machine, "PRESSURE", pressure)
    monkeypatch.setattr(machine.time, "monotonic", lambda: next(times))
    contention = machine.Contention()
    pressure.write_text("some avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n")
    assert contention.share() == pytest.approx(0.25)
    monkeypatch.undo()
    monkeypatch.setattr(machine, "PRESSURE", tmp_path / "none")
    assert machine.Contention().share() is None
