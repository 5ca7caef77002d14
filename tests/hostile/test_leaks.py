"""P16: what runs for weeks takes no more memory, descriptors or threads.

A leak grows with what is done, whatever the hour. So live bytes (see `live`) are sampled between
requests, when all is quiet; the first part, in which caches and pools fill, is left out; and a
line is laid through the rest (see `slopes`). '1 MB/h' is bytes a request times the requests that
the run made an hour, and is shown where the line's upper limit is below. Pages, as the system
counts memory, are told beside: their line is less sharp.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import tiny
from crn_fast.engine import build_engine
from crn_fast.kernels import cpu
from hostile.campaign import Campaigns, Tally
from hostile.slopes import MB, Sample, judge, line
from live import ENVIRONMENT, known

WARM = 0.4
"""Share of a run after which nothing should grow."""
MB_PER_HOUR = 1.0
FEW, FINE = 100.0, 1.0
"""Bytes a request or render that a short run allows, as caches still fill, and a long one of
engines, which render small pictures thousands of times a second; 200 are planted."""

pytestmark = pytest.mark.skipif(
    not (known() and Path("/proc/self/smaps_rollup").exists()),
    reason="needs Linux with glibc from 2.33 on, for their accounts of memory",
)


def serve(
    campaigns: Campaigns, count: int, tally: Tally, defect: str | None = None
) -> list[Sample]:
    """What a server holds as it answers `count` requests, and what it answered."""
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    from hostile.served import samples
    from serving import child

    told: Counter[str] = Counter()
    with child({"delay": 0.0}, defect, ENVIRONMENT, window=0, timeout=120) as server:
        parts = campaigns.count(commit=15, soak=100)
        found = asyncio.run(samples(server, campaigns.rng(61), count, parts, told))
    tally.cases = found[-1].done
    tally.figures.update({kind: f"{number:,}" for kind, number in sorted(told.items())})
    if told["busy"] + told["lost"] > 0.01 * count:
        tally.failures.append(f"too many requests were not answered: {dict(told)}")
    return found[int(WARM * len(found)) :]


def reopen(folder: Path, rounds: int, tally: Tally, defect: str | None = None) -> list[Sample]:
    """What a process holds as it opens, uses and closes engines."""
    if why := cpu.available():
        pytest.skip(why)
    made = tiny.save_checkpoint(folder / "tiny.safetensors")
    build_engine(made, folder / "tiny.crn", backend="native")
    this = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
    script = str(Path(__file__).with_name("reopened.py"))
    ran = subprocess.run(
        [*this, script, str(folder / "tiny.crn"), str(made), str(rounds), *filter(None, [defect])],
        env={**os.environ, **ENVIRONMENT},
        stdout=subprocess.PIPE,
        text=True,
        timeout=600,
        check=True,
    )
    found = [Sample(*json.loads(row)) for row in ran.stdout.splitlines()]
    tally.cases = found[-1].done
    return found[int(WARM * len(found)) :]


def few(rate: float) -> float:
    return FEW


def fine(rate: float) -> float:
    return FINE


def promised(rate: float) -> float:
    """Bytes of one, at so many a second, that make 1 MB/h."""
    return MB_PER_HOUR * MB / (3600 * rate)


def test_a_server_is_flat(campaigns: Campaigns) -> None:
    with campaigns.tried("P16", "memory, descriptors and threads of a server") as tally:
        kept = serve(campaigns, campaigns.count(commit=1_200, soak=100_000), tally)
        judge(tally, kept, "request", promised if campaigns.soak else few)


def test_a_leaking_server_is_noticed(campaigns: Campaigns) -> None:
    count = campaigns.count(commit=700, soak=10_000)
    with campaigns.control("P16", "a server that keeps 200 bytes of each request") as tally:
        kept = serve(campaigns, count, tally, "leak")
        lines = judge(tally, kept, "request", promised if campaigns.soak else few)
    assert lines["live bytes of the server"].low > FEW
    with campaigns.control("P16", "a server that leaves a file open for each tenth") as tally:
        tally.cases = count
        judge(tally, kept, "request", few)
        tally.failures = [one for one in tally.failures if "descriptors of the server" in one]


def test_engines_are_flat(campaigns: Campaigns, tmp_path: Path) -> None:
    with campaigns.tried("P16", "memory, descriptors and mappings of engines") as tally:
        kept = reopen(tmp_path, campaigns.count(commit=12, soak=600), tally)
        judge(tally, kept, "render", fine if campaigns.soak else few)


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("keeps_bytes", "an engine that keeps 200 bytes of each render"),
        ("keeps_arrays", "an engine that keeps its arrays when it is closed"),
    ],
)
def test_leaking_engines_are_noticed(
    campaigns: Campaigns, tmp_path: Path, defect: str, told: str
) -> None:
    with campaigns.control("P16", told) as tally:
        kept = reopen(tmp_path, campaigns.count(commit=8, soak=100), tally, defect)
        lines = judge(tally, kept, "render", few)
    assert lines["live bytes"].low > FEW


def test_lines() -> None:
    """Of noise, few lines' limits leave the slope out, and a step does not move them."""
    rng, x = np.random.default_rng(0), np.arange(60.0) * 1000
    found = [line(x, 3 * x + rng.normal(0, 9000, len(x))) for _ in range(200)]
    assert sum(not one.low < 3 < one.high for one in found) < 20
    assert max(one.high - one.low for one in found) < 0.6
    stepped = line(x, 3 * x + 1e6 * (x > 50_000))
    assert stepped.low == stepped.slope == 3
