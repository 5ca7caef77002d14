"""P15: slow clients are cut off, a flood is refused, and whatever dies, pictures are one's own."""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from hostile.campaign import Campaigns, Tally
from load import DAWDLERS, Asked, Load, dawdle, goodput, percentile
from serving import Child, child
from stub_engine import SIZE

LATE = 3.0
"""Seconds by which a busy machine may be late in cutting a client off."""
LARGE = (640, 1024)
"""Three pictures are 6 MB, more than the system holds of an answer."""
DAWDLED = {"delay": 0.0, "size": LARGE}
UNREAD = 256 << 20
"""Bytes of pictures that nobody reads that the server may hold; 500 clients ask for four times as
many."""
QUEUE = 200
HELD = (UNREAD + QUEUE * LARGE[0] * LARGE[1] + (64 << 20)) >> 10
"""kB that the server may take: for them, for the layouts that wait, and for what is on its way."""


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[Child]:
    """A sound one, whose batches of eight take their time."""
    with child(
        {"delay": 0.1 if request.config.getoption("--soak") else 0.05}, max_batch=8
    ) as found:
        yield found


def judge(tally: Tally, asked: Sequence[Asked], statuses: set[int]) -> None:
    """A case of each request: answered, rightly."""
    for one in asked:
        wrong = None
        if one.status not in statuses:
            wrong = f"status {one.status}" if one.status else "lost"
        elif not one.right:
            wrong = f"{one.status} with {'another picture' if one.status == 200 else 'no time'}"
        tally.case(wrong)
    told = Counter(str(one.status) for one in asked)
    tally.figures.update({status: f"{count:,}" for status, count in sorted(told.items())})


def dawdlers(server: Child, tally: Tally, count: int, patience: float, late: float = LATE) -> None:
    """Clients of all kinds that dawdle, and others that do not."""
    load = Load(server.port, LARGE)
    before, good = server.status("VmRSS"), list[Asked]()

    async def work() -> list[tuple[str, float]]:
        kinds = [DAWDLERS[i % len(DAWDLERS)] for i in range(count)]
        limit = patience + late
        tasks = [asyncio.create_task(dawdle(load, how, patience / 15, limit)) for how in kinds]
        while not all(task.done() for task in tasks):
            good.append(await load.ask())
            await asyncio.sleep(patience / 10)
        return list(zip(kinds, await asyncio.gather(*tasks), strict=True))

    found = asyncio.run(work())
    load.close()
    for how, seconds in found:
        kept = seconds >= patience + late
        tally.case(f"{how}: not cut off within {seconds:.1f} s" if kept else None)
    judge(tally, good, {200, 429, 503})
    slowest = max(took for _, took in found)
    tally.figures["the slowest cut off after"] = f"{slowest:.1f} s of {patience:g} s"
    grown = server.status("VmHWM") - before
    tally.figures["grown by"] = f"{grown >> 10} MiB"
    if grown > HELD:
        tally.failures.append(f"the server grew by {grown} kB")


def test_slow_clients(campaigns: Campaigns) -> None:
    count = campaigns.count(commit=60, soak=500)
    patience = 15.0 if campaigns.soak else 1.5
    with (
        child(
            DAWDLED,
            client_timeout=patience,
            answer_memory=UNREAD,
            max_batch=1,
            max_queue=QUEUE,
            timeout=60,
        ) as server,
        campaigns.tried("P15", "slow clients") as tally,
    ):
        dawdlers(server, tally, count, patience)


def test_slow_clients_are_noticed(campaigns: Campaigns) -> None:
    with (
        child(DAWDLED, "impatient", client_timeout=0.5) as server,
        campaigns.control("P15", "a server that cuts nobody off") as tally,
    ):
        dawdlers(server, tally, 6, 0.5, late=1.0)


def flood(server: Child, tally: Tally, seconds: float) -> tuple[float, float]:
    """Ten times what the server can do: the share that it still does, and p99 of a refusal."""
    load, waited = Load(server.port, SIZE), server.waited()

    async def work() -> tuple[list[Asked], list[Asked]]:
        await load.together(8, 0.3)
        peak = await load.together(16, seconds / 2)
        return peak, await load.arrivals(10 * goodput(peak), seconds)

    peak, asked = asyncio.run(work())
    load.close()
    judge(tally, peak, {200})
    judge(tally, asked, {200, 429, 503})
    share = goodput(asked) / goodput(peak)
    refused = [one for one in asked if one.refused]
    late = percentile(refused, 99)
    tally.figures.update(
        {
            "peak": f"{goodput(peak):.0f} pictures a second",
            "goodput at ten times that": f"{100 * share:.0f} %",
            "refused in": f"{percentile(refused, 50):.1f} ms (p50), {late:.1f} ms (p99)",
            "waited for a core": f"{server.waited() - waited:.1f} s",
        }
    )
    return share, late


def test_overload(server: Child, campaigns: Campaigns) -> None:
    seconds = 6.0 if campaigns.soak else 1.0
    with campaigns.tried("P15", "ten times the load") as tally:
        found = [flood(server, tally, seconds) for _ in range(campaigns.count(1, 5))]
        share, late = (median(figure) for figure in zip(*found, strict=True))
        assert tally.figures["429"]
        # What time tells holds on a machine that does nothing else: it is for the long run.
        if campaigns.soak:
            tally.figures["medians of five floods"] = f"goodput {share:.0%}, p99 {late:.1f} ms"
            if share < 0.9 or late > 20:
                tally.failures.append(f"goodput {share:.0%} of the peak, refusals in {late:.0f} ms")


def test_overload_is_noticed(campaigns: Campaigns) -> None:
    with (
        child({"delay": 0.05}, "curt", max_queue=8) as server,
        campaigns.control("P15", "a server that refuses without Retry-After") as tally,
    ):
        flood(server, tally, 0.6)


def kills(server: Child, tally: Tally, count: int, seed: int) -> None:
    """Clients with layouts of their own, while the engine's process is killed again and again."""
    load, rng, killed = Load(server.port, SIZE), random.Random(seed), 0

    async def work() -> list[Asked]:
        nonlocal killed
        found, done = list[Asked](), asyncio.Event()

        async def client() -> None:
            while not done.is_set():
                one = await load.ask()
                found.append(one)
                if one.status != 200:
                    await asyncio.sleep(0.05)

        clients = [asyncio.create_task(client()) for _ in range(16)]
        while killed < count:
            if rng.random() < 0.8:  # when it renders; else while it may still be starting
                await load.until_ready()
            await asyncio.sleep(rng.uniform(0, 0.3))
            if (pid := server.worker) is not None:
                os.kill(pid, signal.SIGKILL)
                killed += 1
        await load.until_ready()
        last = await load.ask()
        done.set()
        await asyncio.gather(*clients)
        return [*found, last]

    asked = asyncio.run(work())
    judge(tally, asked, {200, 429, 503, 504})
    assert asked[-1].status == 200, "the server did not come back"
    tally.figures["killed"] = str(killed)


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
def test_an_engine_that_is_killed_loses_no_request(server: Child, campaigns: Campaigns) -> None:
    with campaigns.tried("P15", "killed engine processes") as tally:
        kills(server, tally, campaigns.count(commit=3, soak=40), campaigns.seed)


def test_crossed_pictures_are_noticed(campaigns: Campaigns) -> None:
    with (
        child({"delay": 0.02}, "crossed") as server,
        campaigns.control("P15", "a server that gives pictures to the wrong requests") as tally,
    ):
        load = Load(server.port, SIZE)
        judge(tally, asyncio.run(load.together(8, 0.5)), {200})
