"""P3: bombs are refused before they cost anything.

Time is judged in the long run alone: a machine that is busy with other things would fail it.
"""

from __future__ import annotations

import os
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest

from crn_fast import layout
from crn_fast.palette import label_set
from hostile.bombs import (
    LARGEST,
    OVER,
    SECONDS,
    bombs,
    costs,
    read_by_pillow,
    read_four_times_as_large,
    refused_at_little_cost,
    whole,
)
from hostile.campaign import Campaigns
from hostile.pngs import join
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
        subject = partial(refused_at_little_cost, tmp_path, read=read_by_pillow, tries=1)
        for _, wrong in verdicts(subject, bombs(campaigns.rng(5), 12), processes=1, seconds=60):
            tally.case(wrong)
    assert any("whole: is taken for a layout" in wrong for wrong in tally.failures)


def test_limits_that_are_too_high_are_noticed(campaigns: Campaigns, tmp_path: Path) -> None:
    with campaigns.control("P3", "limits of size that are too high") as tally:
        read = read_four_times_as_large
        subject = partial(refused_at_little_cost, tmp_path, read=read, tries=1)
        made = [whole(size, 0, 1, 0) for size in OVER]
        for _, wrong in verdicts(subject, made, processes=1, seconds=60):
            tally.case(wrong)
    told = [f"{bomb.told}: is taken for a layout" for bomb in made]
    assert tally.failures == told


@pytest.mark.parametrize("size", LARGEST)
def test_the_largest_layouts_are_no_bombs(size: tuple[int, int]) -> None:
    data = join(whole(size, 0, 1, 0).chunks)
    assert layout.read(BytesIO(data), label_set("camvid")).size == size
