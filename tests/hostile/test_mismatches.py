"""P8: what does not fit together is explained: both sides, and a command that mends it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from crn_fast import engine
from crn_fast.kernels import cpu
from hostile import command_line, mismatches
from hostile.campaign import Campaigns
from hostile.command_line import Ran

pytestmark = pytest.mark.skipif(
    cpu.available() is not None, reason="needs the compiled module for its engines"
)


SECONDS = 0.5
"""The longest that an answer may take, with Python started."""
TRIES = 5
"""Of which the median counts: other programs run, too."""


def in_time(folder: Path, case: mismatches.Mismatched, slower: float = 0) -> str | None:
    """What is wrong with how long the answer takes; `slower`: the planted defect, in seconds."""
    case = dataclasses.replace(case, runs=False)
    with mock.patch.object(mismatches, "run", _slow(slower)):
        taken = [mismatches.explained(folder, case)[1] for _ in range(TRIES)]
    median = statistics.median(taken)
    return None if median <= SECONDS else f"{median:.2f} s; expected {SECONDS} s"


def _slow(seconds: float) -> Callable[..., Ran]:
    def run(*words: Any) -> Ran:
        time.sleep(seconds)
        return command_line.run(*words)

    return run


def test_mismatches_are_explained(campaigns: Campaigns, tmp_path: Path) -> None:
    seconds = []
    with campaigns.tried("P8", "mismatches") as tally:
        for turn in range(campaigns.count(commit=1, soak=20)):
            folder = tmp_path / str(turn)
            folder.mkdir()
            for name, case in mismatches.scene(folder).items():
                wrong, taken = mismatches.explained(folder, case)
                tally.case(wrong and f"{name}: {wrong}")
                seconds.append(taken)
        tally.figures["median"] = f"{1e3 * statistics.median(seconds):.0f} ms"
        tally.figures["longest"] = f"{1e3 * max(seconds):.0f} ms"


def test_mismatches_are_explained_at_once(campaigns: Campaigns, tmp_path: Path) -> None:
    if not campaigns.soak:
        pytest.skip("takes times, of a machine that may be busy: with --soak")
    made = mismatches.scene(tmp_path)
    with campaigns.tried("P8", f"mismatches, explained in {SECONDS} s") as tally:
        for name, case in made.items():
            wrong = in_time(tmp_path, case)
            tally.case(wrong and f"{name}: {wrong}")
    with campaigns.control("P8", f"answers that take {SECONDS} s longer", "expected 0.5") as tally:
        tally.case(in_time(tmp_path, made["a layout of another size"], SECONDS))


def test_a_hint_that_does_not_work_is_noticed(campaigns: Campaigns, tmp_path: Path) -> None:
    def wrong_hint(path: object, **options: str) -> str:
        return f"rebuild it: `crn-fast build-engine CKPT --out-file {path}`"

    cases = {n: case for n, case in mismatches.scene(tmp_path).items() if case.rebuild}
    with (
        campaigns.control("P8", "a command that click does not take", "No such option") as tally,
        mock.patch.object(engine, "rebuild", wrong_hint),
    ):
        for name, case in cases.items():
            wrong, _ = mismatches.explained(tmp_path, dataclasses.replace(case, runs=False))
            tally.case(wrong and f"{name}: {wrong}")
