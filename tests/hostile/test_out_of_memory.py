"""P13: running out of memory never changes a pixel silently."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import chain, islice

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="needs the extra [train]")

from crn_fast.kernels import cpu
from hostile import small_gpu
from hostile.campaign import Campaigns
from hostile.memory_limits import BACKENDS, COUNTED, DEFECTS, WAYS, Case, starved
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or cpu.available() is not None,
    reason="needs Linux's limits and the compiled module",
)
LARGEST = (1 << 20, 10 << 20, 40 << 20, 120 << 20)
"""Rooms are drawn up to one of these by turns: from too little for anything to enough for all."""


def cases(rng: np.random.Generator, count: int) -> list[Case]:
    """All backends and ways by turns."""
    pairs = [(backend, way) for way in WAYS for backend in BACKENDS]
    return [
        Case(
            *pairs[i % len(pairs)],
            room=int(rng.random() * LARGEST[rng.integers(len(LARGEST))]),
            threads=int(rng.integers(1, 9)),
        )
        for i in range(count)
    ]


def narrow(defect: str | None = None) -> list[Case]:
    """With too little memory for all layouts at once, where refusing them is wrong, too."""
    return [Case("native", way, None, 1, defect) for way in COUNTED]


def defective(defect: str) -> list[Case]:
    """Those in which it must be noticed, and then some in which it may be."""
    rooms = {"render": 0, "worker": 9 << 20, "stream": 19 << 20, "command": 16 << 20}
    rest = [Case(b, way, room, 1, defect) for way, room in rooms.items() for b in BACKENDS]
    return narrow(defect) + rest * (defect != "whole")


def test_the_same_pictures_or_what_was_needed_and_is_free(campaigns: Campaigns) -> None:
    made = cases(campaigns.rng(130), campaigns.count(commit=12, soak=200))
    # Refusing with the sizes is right in any room but this.
    parts = narrow() * campaigns.count(commit=1, soak=10)
    planted = {defect: defective(defect) for defect in DEFECTS}
    processes = 2 if campaigns.soak else 1
    every = [*made, *parts, *chain(*planted.values())]
    results = verdicts(starved, every, processes=processes, memory=None, seconds=300)
    with campaigns.tried("P13", "rendering in limited address space") as tally:
        for case, wrong in islice(results, len(made) + len(parts)):
            tally.case(wrong and f"{case}: {wrong}")
        tally.figures["ways"] = f"{len(BACKENDS)} backends x {len(WAYS)}"
        tally.figures["a few layouts at a time"] = str(len(parts))
    for defect, (name, words) in DEFECTS.items():
        with campaigns.control("P13", name, words) as tally:
            first = [wrong for _, wrong in islice(results, len(narrow()))]
            rest = [wrong for _, wrong in islice(results, len(planted[defect]) - len(first))]
            for wrong in first + rest:
                tally.case(wrong)
        assert all(wrong and words in wrong for wrong in first), f"{name}: {first}"


def on_small_gpus(
    rng: np.random.Generator, count: int, defect: str | None = None
) -> list[small_gpu.Case]:
    return [
        small_gpu.Case(
            ("fused", "trt")[i % 4 == 3],
            ("pycuda.driver", "cuda.core")[i % 2],
            int(rng.choice([6_000, 40_000, 110_000]) * (0.5 + rng.random())),
            tuple(int(free) for free in rng.choice([0, 9_000, 90_000], 3)),
            defect,
        )
        for i in range(count)
    ]


def test_a_small_gpu(campaigns: Campaigns) -> None:
    """The lean schedule has other pixels: it is taken when an engine is opened, or never."""
    rng, labels = campaigns.rng(131), tiny.labels_array(5)
    with campaigns.tried("P13", "plans and programs on a stand-in for a small GPU") as tally:
        how = Counter[str]()
        for case in on_small_gpus(rng, campaigns.count(commit=80, soak=2_000)):
            for end, wrong in small_gpu.ends(case, labels):
                how[end] += 1
                tally.case(wrong and f"{case}: {wrong}")
        tally.figures |= {end: f"{count:,}" for end, count in how.items()}
        assert how.keys() == {"refused", "rendered", "lean", "smaller batches", "whole"}
    for defect, (name, words) in small_gpu.DEFECTS.items():
        with campaigns.control("P13", f"on a small GPU: {name}", words) as tally:
            for case in on_small_gpus(rng, 40, defect):
                for _, wrong in small_gpu.ends(case, labels):
                    tally.case(wrong)
