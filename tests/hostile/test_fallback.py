"""P14: a backend that was asked for by name runs, or the command ends with exit code 8."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from crn_fast.kernels import cpu
from hostile.campaign import Campaigns
from hostile.missing import asked_for, cases, taken_by_auto
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(
    cpu.available() is not None, reason="needs the compiled module, to miss it"
)
AUTO: list[tuple[tuple[str, ...], str | None]] = [
    (("GPU",), "native"),
    (("GPU", "compiled module"), "eager"),
    (("GPU", "torch"), "native"),
    (("GPU", "torch", "compiled module"), None),
]
"""What is missing -> what 'auto' takes."""


def test_what_is_missing_is_said(campaigns: Campaigns) -> None:
    tried = cases() if campaigns.soak else [*cases()[campaigns.rng(140).integers(3) :: 3]]
    renders = [case for case in cases() if case.command == "render" and case.backend != "eager"]
    defective = [replace(case, falls_back=True) for case in renders[::3]]
    results = verdicts(asked_for, [*tried, *defective], processes=1, memory=None, seconds=60)
    with campaigns.tried("P14", "each missing piece, backend and command") as tally:
        for case, wrong in islice(results, len(tried)):
            tally.case(wrong and f"{case}: {wrong}")
        tally.figures["of"] = str(len(cases()))
    with campaigns.control("P14", "a backend that falls back to eager") as tally:
        for case, wrong in results:
            tally.case(wrong and f"{case}: {wrong}")
        assert len(tally.failures) == len(defective)


def test_auto_says_what_it_took(campaigns: Campaigns) -> None:
    with campaigns.tried("P14", "what 'auto' takes is said") as tally:
        for case, wrong in verdicts(taken_by_auto, AUTO, processes=1, memory=None, seconds=60):
            tally.case(wrong and f"auto without {case[0]}: {wrong}")
