"""P20: the native code is memory-safe and free of races, whatever it is called with.

`make sanitize` runs this file, too, and so with every array and lock under the sanitizers' eyes.
tests/ops has the generated shapes that are right, against the oracle.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import tiny
from crn_fast.backends import native
from crn_fast.engine import Engine, build_engine
from crn_fast.kernels import cpu
from crn_fast.spec import CascadeSpec
from hostile.campaign import Campaigns
from hostile.native_boundary import boundary, overrun
from hostile.native_life import ABORTS, CASES, outlived
from hostile.planted import PLANTS, reported
from hostile.worker import MEMORY, verdicts

ROOT = Path(__file__).resolve().parents[2]
SANITIZED = re.search("lib[at]san", os.environ.get("LD_PRELOAD", ""))
LINUX = sys.platform.startswith("linux")
pytestmark = [
    pytest.mark.skipif(cpu.available() is not None, reason="needs the compiled module"),
    pytest.mark.skipif(not LINUX, reason="guards pages and counts threads as Linux does"),
]
SPECS = (
    CascadeSpec(widths=(40, 33, 24), base=(3, 5), classes=12, images=3),
    CascadeSpec(widths=(24, 20, 18, 9), base=(2, 3), classes=12, upsampling="half_pixel"),
)


def seeds(campaigns: Campaigns, count: int, stream: int) -> list[int]:
    return campaigns.rng(stream).integers(0, 2**63, count).tolist()


def test_arguments_made_wrong_are_refused_or_harmless(campaigns: Campaigns) -> None:
    count = 300 if SANITIZED else campaigns.count(commit=1_000, soak=30_000)
    memory = None if SANITIZED else MEMORY
    with campaigns.tried("P20", "wrong arguments, in memory before a guard page") as tally:
        every = seeds(campaigns, count, 201)
        for seed, wrong in verdicts(boundary, every, memory=memory, seconds=60):
            tally.case(wrong and f"seed {seed}: {wrong}")


@pytest.mark.skipif(bool(SANITIZED), reason="the sanitizer reports it")
def test_a_read_beyond_an_array_is_noticed(campaigns: Campaigns) -> None:
    with campaigns.control("P20", "an op that reads one float beyond an array") as tally:
        for _, wrong in verdicts(overrun, seeds(campaigns, 4, 202)):
            tally.case(wrong)


@pytest.mark.skipif(bool(SANITIZED), reason="limits memory, and dies on purpose")
def test_processes_outlive_what_happens_to_them(campaigns: Campaigns) -> None:
    rounds = campaigns.count(commit=1, soak=25)
    with campaigns.tried("P20", "exits, forks, signals, no room for threads") as tally:
        for name in rounds * CASES:
            tally.case(outlived(name))
    with campaigns.control("P20", "a thread that aborts the process") as tally:
        tally.case(outlived("aborts", ABORTS))


class Crowd:
    """Threads that render at once, and what was wrong with their pictures."""

    def __init__(self, folder: Path) -> None:
        self.files = [folder / "0.crn", folder / "1.crn"]
        self.labels = [tiny.labels_array(2, spec) for spec in SPECS]
        for spec, path in zip(SPECS, self.files, strict=True):
            build_engine(tiny.calm_checkpoint(spec), path, backend="native")
        self.engines = [Engine.open(path, threads=2) for path in self.files]
        self.expected = [
            Engine.open(path, threads=1).render(labels).tobytes()
            for path, labels in zip(self.files, self.labels, strict=True)
        ]

    def shared(self, turn: int) -> bool:
        """The first engine, which other threads render with, too."""
        return self.engines[0].render(self.labels[0]).tobytes() == self.expected[0]

    def another(self, turn: int) -> bool:
        """The second engine, while the first renders."""
        return self.engines[1].render(self.labels[1]).tobytes() == self.expected[1]

    def opened(self, turn: int) -> bool:
        """An engine of its own, opened from a mapped file and closed, while others render."""
        i = turn % 2
        with Engine.open(self.files[i], threads=3) as engine:
            return engine.render(self.labels[i]).tobytes() == self.expected[i]

    def packed(self, turn: int) -> bool:
        """Weights packed and rendered, by two threads each, with memory of their own."""
        made = tiny.calm_checkpoint(SPECS[0])
        render = native.load(
            made.spec, native.pack(made.spec, made.tensors, "auto"), "auto", None, 2
        )
        return render(self.labels[0]).tobytes() == self.expected[0]


def crowd(folder: Path, turns: int) -> list[str | None]:
    """Verdicts of every render of six threads at once."""
    made, found = Crowd(folder), list[str | None]()
    works = (made.shared, made.shared, made.another, made.another, made.opened, made.packed)

    def work(each: int) -> None:
        for turn in range(turns):
            name = works[each].__name__
            found.append(None if works[each](turn) else f"{name}: another picture, turn {turn}")

    workers = [threading.Thread(target=work, args=(each,)) for each in range(len(works))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == turns * len(works)
    return found


def test_engines_in_threads(campaigns: Campaigns, tmp_path: Path) -> None:
    turns = 3 if SANITIZED else campaigns.count(commit=5, soak=100)
    with campaigns.tried(
        "P20", "engines shared, opened and closed by six threads at once"
    ) as tally:
        for wrong in crowd(tmp_path, turns):
            tally.case(wrong)


class Unlocked:
    """A lock that locks nothing."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


@pytest.mark.skipif(bool(SANITIZED), reason="races on purpose")
def test_engines_without_locks_are_noticed(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Crowd(tmp_path)
    engine = made.engines[0]
    engine._one_at_a_time = engine._renderer._one_at_a_time = Unlocked()  # type: ignore
    found: list[str | None] = []

    def work() -> None:
        for turn in range(20):
            found.append(None if made.shared(turn) else "another picture")

    with campaigns.control("P20", "an engine without its lock, shared by four threads") as tally:
        for _ in range(20):  # of which the first is enough, most often
            workers = [threading.Thread(target=work) for _ in range(4)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            if any(found):
                break
        for wrong in found:
            tally.case(wrong)


@pytest.mark.skipif(bool(SANITIZED), reason="is built with a sanitizer of its own")
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.parametrize("sanitizer", PLANTS)
def test_planted_defects_are_reported(sanitizer: str, campaigns: Campaigns, tmp_path: Path) -> None:
    if not campaigns.soak:
        pytest.skip("compiles for seconds: with --soak")
    kind = "a race" if sanitizer == "thread" else "an access beyond an array"
    with campaigns.control("P20", f"{kind} in a copy of to_uint8, -fsanitize={sanitizer}") as tally:
        tally.case(report := reported(sanitizer, tmp_path, plant=True))
    assert report and ("data race" if sanitizer == "thread" else "heap-buffer-overflow") in report
    assert reported(sanitizer, tmp_path, plant=False) is None


@pytest.mark.skipif(bool(SANITIZED), reason="is what runs now")
@pytest.mark.skipif(not (ROOT / "Makefile").exists(), reason="needs the source tree")
@pytest.mark.parametrize("sanitizer", PLANTS)
def test_sanitizers_find_nothing(sanitizer: str, campaigns: Campaigns) -> None:
    if not campaigns.soak:
        pytest.skip("`make sanitize` tries these in CI, and --soak many more")
    options = "-q --hypothesis-profile thorough --hypothesis-show-statistics"
    command = ["make", "sanitize", f"SANITIZE={sanitizer}", f"PYTEST_ARGS={options}"]
    with campaigns.tried("P20", f"generated shapes, -fsanitize={sanitizer}") as tally:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        shapes = sum(map(int, re.findall(r"(\d+) passing", ran.stdout)))
        for _ in range(shapes):
            tally.case()
        if ran.returncode:
            tally.failures.append(f"{(ran.stdout + ran.stderr)[-2000:]}")
        passed = re.search(r"(\d+) passed", ran.stdout)
        tally.figures["tests"] = passed[1] if passed else "none"
