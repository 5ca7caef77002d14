"""P12: on a disk that is full, may not be written or fails, old files stay as they are: exit 5."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("crn_fast.kernels.cpu._native", reason="the native module is not built")

from hostile.campaign import Campaigns
from hostile.failing_disk import COMMANDS, FAULTS, UNMET, Case, copies, in_place, mounts, survives
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits and mounts as of Linux")

STEPS = ("write.begin", "write.half", "write.written", "write.synced", "write.ready")
STEPS += ("write.renamed",)
OF_TRAINING = ("save.numbered", "save.linked", "save.newest", "save.dropped", "log.half")
OF_TRAINING += ("log.line",)
ERRORS = ("ENOSPC", "EIO", "EDQUOT")
MOUNTED = ("full", "read-only")
"""Faults that are made by mounting."""
NEEDED = {"video": "av", "onnx": "onnx", "triton-server": "onnx"}
"""Packages without which a command is not tried."""


def _can_mount() -> bool:
    process = get_context("fork").Process(target=lambda: os._exit(not mounts()))
    process.start()
    process.join()
    return process.exitcode == 0


def _cases(rng: np.random.Generator, count: int, scratch: Path) -> list[Case]:
    """Every command under every fault, in an order of its own, then at other bytes."""
    faults = [fault for fault in FAULTS if fault not in MOUNTED or _can_mount()]
    commands = [each for each in COMMANDS if each not in NEEDED or find_spec(NEEDED[each])]
    pairs = []
    for command in commands:
        steps = [] if command == "answers" else list(STEPS)
        steps += OF_TRAINING if command == "train" else ()
        steps += ["stage.ready"] if command == "build-engine" else []
        # Without its folder there is no run to resume; a row is added to a file that is there.
        beside = {"train": "gone", "answers": "denied"}
        pairs += [(command, fault) for fault in faults if fault != beside.get(command)]
        # Two arrivals, where a command writes so many files.
        many = (1, 2) if command in ("train", "render-dir", "labels-map") else (1,)
        pairs += [(command, f"{step}:{{}}:{number}") for step in steps for number in many]
    chosen = [pairs[i] for i in rng.permutation(len(pairs))[:count]]
    while len(chosen) < count:  # of these, each byte is another case
        chosen.append((commands[rng.integers(len(commands))], ("limit", "full")[rng.integers(2)]))
    chosen = [(c, f if f in faults or ":" in f else "limit") for c, f in chosen]
    return [
        Case(c, f.format(ERRORS[rng.integers(3)]), float(rng.random()), str(scratch))
        for c, f in chosen
    ]


def _skipped() -> str:
    """Faults and commands that are not tried here, and why."""
    reasons = [] if _can_mount() else [f"{' and '.join(MOUNTED)} (no right to mount)"]
    reasons += [f"{each} (no {name})" for each, name in NEEDED.items() if not find_spec(name)]
    return " ".join(reasons)


def test_old_files_stay(campaigns: Campaigns, tmp_path: Path) -> None:
    cases = _cases(campaigns.rng(1200), campaigns.count(commit=20, soak=400), tmp_path)
    with campaigns.tried("P12", "commands that write, on a failing disk") as tally:
        unmet = 0
        for _, wrong in verdicts(survives, cases, seconds=90, memory=None):
            tally.case(None if wrong == UNMET else wrong)
            unmet += wrong == UNMET
        tally.figures["faults that did not come"] = f"{unmet}"
        found = Counter(case.fault.partition(".")[0] for case in cases)
        tally.figures["faults"] = " ".join(f"{name} {n}" for name, n in found.most_common())
        if skipped := _skipped():
            tally.figures["skipped"] = skipped
    with campaigns.control("P12", "a writer in place") as tally:
        planted = [Case("convert", "limit", 0.5, str(tmp_path))]
        planted += [Case("render", "write.half:ENOSPC:1", 0.5, str(tmp_path))]
        for _, wrong in verdicts(in_place, planted, processes=1, seconds=90, memory=None):
            tally.case(wrong)
    with campaigns.control("P12", "a writer that copies over what was there") as tally:
        planted = [Case("convert", "write.renamed:EIO:1", 0.5, str(tmp_path))]
        for _, wrong in verdicts(copies, planted, processes=1, seconds=90, memory=None):
            tally.case(wrong)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="has no /dev/full")
def test_a_full_device(campaigns: Campaigns, tmp_path: Path) -> None:
    """As the file that is asked for, and as standard output."""
    cases = [["labels", "list"], ["info", "street-256"], ["--version"], ["render", "--help"]]
    cases = cases[: campaigns.count(commit=2, soak=4)]
    with campaigns.tried("P12", "/dev/full") as tally:
        for arguments in cases:
            tally.case(_fill(["crn_fast", *arguments], tmp_path))
    with campaigns.control("P12", "output that nobody asks after") as tally:
        tally.case(_fill(["hostile.defects", "says_nothing", *cases[0]], tmp_path))


def _fill(command: list[str], folder: Path) -> str | None:
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with open("/dev/full", "wb") as full:
        done = subprocess.run(
            [sys.executable, "-m", *command],
            stdout=full,
            stderr=subprocess.PIPE,
            cwd=folder,
            env=given,
        )
    said = done.stderr.decode()
    sound = done.returncode == 5 and said.count("\n") == 1 and "No space left" in said
    return None if sound else f"{command}: exit code {done.returncode}: {said}"
