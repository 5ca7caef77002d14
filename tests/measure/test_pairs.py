"""Interleaved rounds on a clock of our own: order, ratios, noise, and subjects that fail."""

from __future__ import annotations

from itertools import chain, count, repeat

import numpy as np
import pytest

from crn_fast.errors import Unavailable
from crn_fast.measure import pairs
from crn_fast.measure.gate import Checked, Subject
from subjects import ORACLE, Clock, checked


def test_each_round_begins_with_the_next_subject() -> None:
    clock = Clock()
    subjects = [checked(name, clock, repeat(1.0)) for name in "abc"]
    pairs.interleave(subjects, rounds=3, warmup=1)
    assert "".join(clock.order) == "abc" + "bca" + "cab" + "abc"


def test_a_slowed_subject_is_seen_by_its_factor() -> None:
    clock = Clock()
    subjects = [checked("ours", clock, repeat(2.0)), checked("slowed", clock, repeat(3.0))]
    rounds = pairs.interleave(subjects, rounds=5)
    slower = pairs.ratio(rounds.timings["slowed"], rounds.timings["ours"])
    assert (slower.median, slower.p10, slower.p90, slower.n) == (1.5, 1.5, 1.5, 5)
    assert not slower.noisy
    assert rounds.failures == {}


def test_a_drifting_machine_leaves_the_ratio_alone() -> None:
    clock = Clock()
    drift = [1.1**i for i in range(9)]
    ours = checked("ours", clock, (1.0 * d for d in drift))
    peer = checked("peer", clock, (4.0 * d for d in drift))
    timings = pairs.interleave([ours, peer], rounds=8).timings
    found = pairs.ratio(timings["peer"], timings["ours"])
    assert found.median == pytest.approx(4.0)
    assert not found.noisy
    assert timings["ours"].spread.noisy  # though its seconds more than double


def test_a_ratio_that_jumps_is_noisy() -> None:
    clock = Clock()
    ours = checked("ours", clock, repeat(1.0))
    peer = checked("peer", clock, (2.0 + i % 2 for i in count()))
    timings = pairs.interleave([ours, peer], rounds=6).timings
    assert pairs.ratio(timings["peer"], timings["ours"]).noisy


def test_the_warm_up_does_not_count() -> None:
    clock = Clock()
    subject = checked("ours", clock, chain([50.0, 50.0], repeat(1.0)))
    timings = pairs.interleave([subject], rounds=3, warmup=2).timings
    assert timings["ours"].seconds == (1.0, 1.0, 1.0)


def test_one_that_fails_on_the_way_has_a_reason_and_no_time() -> None:
    clock = Clock()
    results = chain(repeat(ORACLE, 3), repeat(np.zeros_like(ORACLE)))
    wrong = Checked(Subject("wrong", lambda: next(results)), ORACLE, 1.0, "float64")
    runs = count()

    def die() -> np.ndarray:
        if next(runs) == 2:
            raise Unavailable("its process ended")
        return ORACLE

    dead = Checked(Subject("dead", die), ORACLE, 1.0, "float64")
    found = pairs.interleave([wrong, checked("ours", clock, repeat(1.0)), dead], rounds=4)
    assert list(found.timings) == ["ours"]
    assert "no time is taken" in found.failures["wrong"]
    assert found.failures["dead"] == "its process ended"
