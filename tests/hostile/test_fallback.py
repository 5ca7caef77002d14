"""P14: a backend that was asked for by name runs, or the command ends with exit code 8."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from crn_fast.kernels import cpu
from hostile.campaign import Campaigns
from hostile.missing import Auto, answered, cases
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(
    cpu.available() is not None, reason="needs the compiled module, to miss it"
)
AUTO = (
    Auto(("GPU",), "native"),
    Auto(("GPU", "compiled module"), "eager"),
    Auto(("GPU", "torch"), "native"),
    Auto(("GPU", "torch", "compiled module"), None),
)


def test_what_is_missing_is_said(campaigns: Campaigns) -> None:
    """By name, and by 'auto': one child tries all, for it imports torch."""
    tried = cases() if campaigns.soak else [*cases()[campaigns.rng(140).integers(4) :: 4]]
    renders = [case for case in cases() if case.command == "render" and case.backend != "eager"]
    defective = [replace(case, falls_back=True) for case in renders[::3]]
    careless = [replace(AUTO[0], eager_first=True)]
    every = [*tried, *defective, *AUTO, *careless]
    results = verdicts(answered, every, processes=1, memory=None, seconds=60)
    with campaigns.tried("P14", "each missing piece, backend and command") as tally:
        for case, wrong in islice(results, len(tried)):
            tally.case(wrong and f"{case}: {wrong}")
        tally.figures["of"] = str(len(cases()))
    with campaigns.control("P14", "a backend that falls back to eager", "^exit 0") as tally:
        for _, wrong in islice(results, len(defective)):
            tally.case(wrong)
    assert len(tally.failures) == len(defective)
    with campaigns.tried("P14", "what 'auto' takes is said") as tally:
        for auto, wrong in islice(results, len(AUTO)):
            tally.case(wrong and f"{auto}: {wrong}")
    with campaigns.control("P14", "'auto' takes eager before native", "backend eager") as tally:
        for _, wrong in results:
            tally.case(wrong)
