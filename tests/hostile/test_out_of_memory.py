"""P13: running out of memory never changes a pixel silently."""

from __future__ import annotations

import sys
from collections import Counter
from itertools import islice

import numpy as np
import pytest

import cuda_stand_in
import tiny

pytest.importorskip("torch", reason="needs the extra [train]")

from crn_fast.cuda import driver
from crn_fast.errors import ResourceError
from crn_fast.kernels import cpu
from crn_fast.trt.build import About
from crn_fast.trt.network import LABELS, PICTURES
from crn_fast.trt.runtime import PlanRenderer
from hostile.campaign import Campaigns
from hostile.memory_limits import BACKENDS, DEFECTS, WAYS, Case, starved
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


def test_the_same_pictures_or_what_was_needed_and_is_free(campaigns: Campaigns) -> None:
    made = cases(campaigns.rng(130), campaigns.count(commit=12, soak=200))
    defective = [Case(b, "render", 0, 1, defect) for defect in DEFECTS for b in BACKENDS]
    processes = 2 if campaigns.soak else 1
    results = verdicts(starved, [*made, *defective], processes=processes, memory=None, seconds=300)
    with campaigns.tried("P13", "rendering in limited address space") as tally:
        for case, wrong in islice(results, len(made)):
            tally.case(wrong and f"{case}: {wrong}")
        tally.figures["ways"] = f"{len(BACKENDS)} backends x {len(WAYS)}"
    for planted in DEFECTS.values():
        with campaigns.control("P13", planted) as tally:
            for case, wrong in islice(results, len(BACKENDS)):
                tally.case(wrong and f"{case}: {wrong}")


def test_a_small_gpu(campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = campaigns.rng(131)
    labels = tiny.labels_array(5)
    right = cuda_stand_in.pictures_of(labels, tiny.SPEC.images)
    ends: Counter[str] = Counter()
    with campaigns.tried("P13", "plans on a stand-in for a small GPU") as tally:
        for i in range(campaigns.count(commit=60, soak=2_000)):
            with monkeypatch.context() as patch:
                machine = cuda_stand_in.Machine()
                cuda_stand_in.install(patch, machine, ("pycuda.driver", "cuda.core")[i % 2])
                machine.capacity = int(rng.integers(0, 40_000))
                end, wrong = plan_ends(machine, labels, right, most=1 + i % 4)
            ends[end] += 1
            tally.case(wrong and f"{machine.capacity} bytes: {wrong}")
        tally.figures |= {end: f"{count:,}" for end, count in ends.items()}
    assert len(ends) == 2


def plan_ends(
    machine: cuda_stand_in.Machine, labels: np.ndarray, right: np.ndarray, most: int
) -> tuple[str, str | None]:
    """How opening a plan and rendering with it ends, and what is wrong with that."""
    shapes = {
        LABELS: (-1 if most > 1 else 1, *tiny.SPEC.size),
        PICTURES: (-1 if most > 1 else 1, tiny.SPEC.images, *tiny.SPEC.size, 3),
    }
    flavour = cuda_stand_in.tensorrt(machine, shapes, False)
    about = About(flavour.name, flavour.version, "sm_89", "fp16", (1, most))
    try:
        plan = PlanRenderer(flavour, b"plan", about, tiny.SPEC, driver.make(0))
        found = plan(labels)
    except ResourceError as error:
        named = "MB" in str(error) and "free" in str(error)
        return "refused", None if named else f"without sizes: {error}"
    return "rendered", None if np.array_equal(found, right) else "other pixels"
