"""P15: the server survives whatever comes down the wire."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from itertools import islice

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from hostile.campaign import Campaigns, Tally
from hostile.wire import Ask, Case, cases, converse
from serving import Child, child

TOGETHER = 24
"""Connections at a time."""
BATCH = 100
"""Cases, after which a sound request must be answered rightly."""
GROWTH = 48 << 10
"""kB by which the server may grow in all that."""


async def attack(
    server: Child, tried: Iterator[Case], rng: np.random.Generator, tally: Tally
) -> None:
    kinds, room = Counter[str](), asyncio.Semaphore(TOGETHER)
    sound = Ask(rng, server.port)

    async def one(case: Case) -> None:
        async with room:
            tally.case(await converse(server.port, case))

    while batch := list(islice(tried, BATCH)):
        kinds.update(case.kind for case in batch)
        await asyncio.gather(*(one(case) for case in batch))
        request = sound.request()
        wrong = await converse(server.port, Case("sound", (request.data,), requests=(request,)))
        assert wrong is None, wrong
        assert server.process.poll() is None, "the server died"
    tally.figures.update({kind: f"{count:,}" for kind, count in kinds.most_common()})


def besiege(server: Child, campaigns: Campaigns, count: int, tally: Tally) -> None:
    before = server.status("VmRSS")
    tried = cases(campaigns.rng(15), server.port, count)
    asyncio.run(attack(server, tried, campaigns.rng(16), tally))
    grown = server.status("VmHWM") - before
    tally.figures["grown by"] = f"{grown / 1024:.1f} MiB"
    if grown > GROWTH:
        tally.failures.append(f"the server grew by {grown} kB")


def test_raw_requests(campaigns: Campaigns) -> None:
    count = campaigns.count(commit=500, soak=50_000)
    with (
        child({"delay": 0.0}, client_timeout=1.0, timeout=5) as server,
        campaigns.tried("P15", "raw requests") as tally,
    ):
        besiege(server, campaigns, count, tally)


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("fragile", "a server that answers 500 to what it cannot read"),
        ("bare", "uvicorn's own protocol"),
    ],
)
def test_raw_requests_notice(campaigns: Campaigns, defect: str, told: str) -> None:
    with (
        child({"delay": 0.0}, defect, client_timeout=1.0, timeout=5) as server,
        campaigns.control("P15", told) as tally,
    ):
        rng = campaigns.rng(15)
        ask = Ask(rng, server.port)
        kind = ask.bad_body if defect == "fragile" else ask.pipelined
        made = (kind() for _ in range(40))

        async def work() -> None:
            for case in made:
                tally.case(await converse(server.port, case))

        asyncio.run(work())
