"""P8: what does not fit together is explained: both sides, and a command that mends it."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from crn_fast import engine
from crn_fast.kernels import cpu
from hostile import mismatches
from hostile.campaign import Campaigns

pytestmark = pytest.mark.skipif(
    cpu.available() is not None, reason="needs the compiled module for its engines"
)


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


def test_a_hint_that_does_not_work_is_noticed(campaigns: Campaigns, tmp_path: Path) -> None:
    def wrong_hint(path: object, **options: str) -> str:
        return f"rebuild it: `crn-fast build-engine CKPT --out-file {path}`"

    cases = {n: case for n, case in mismatches.scene(tmp_path).items() if case.rebuild}
    with (
        campaigns.control("P8", "a command that click does not take") as tally,
        mock.patch.object(engine, "rebuild", wrong_hint),
    ):
        for name, case in cases.items():
            wrong, _ = mismatches.explained(tmp_path, dataclasses.replace(case, runs=False))
            tally.case(wrong and f"{name}: {wrong}")
