"""P3: bombs are refused before they cost anything.

Time is judged in the long run alone: a machine that is busy with other things would fail it.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import pytest

from hostile.bombs import (
    SECONDS,
    bombs,
    costs,
    read_by_pillow,
    refused_at_little_cost,
)
from hostile.campaign import Campaigns
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="memory is measured in forks")


def test_bombs(campaigns: Campaigns, tmp_path: Path) -> None:
    count = campaigns.count(commit=40, soak=200)
    with campaigns.tried("P3", "bombs") as tally:
        subject = partial(refused_at_little_cost, tmp_path)
        for _, wrong in verdicts(subject, bombs(campaigns.rng(5), count), processes=1):
            tally.case(wrong)
        seconds, grown = zip(*costs(tmp_path), strict=True)
        tally.figures["slowest"] = f"{1e3 * max(seconds):.0f} ms"
        tally.figures["most memory"] = f"{max(grown) / 1e6:.1f} MB"
        if campaigns.soak:
            late = [f"took {1e3 * each:.0f} ms" for each in seconds if each > SECONDS]
            tally.failures.extend(late)


def test_a_decoder_without_limits_is_noticed(campaigns: Campaigns, tmp_path: Path) -> None:
    with campaigns.control("P3", "Pillow without its limit of pixels") as tally:
        subject = partial(refused_at_little_cost, tmp_path, read=read_by_pillow)
        for _, wrong in verdicts(subject, bombs(campaigns.rng(5), 12), processes=1, seconds=60):
            tally.case(wrong)
