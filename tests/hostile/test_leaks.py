"""P16: a server that runs for weeks takes no more memory, descriptors or threads.

A leak per request grows with the requests, whatever the hour; what grows by itself grows with time.
So each process' memory is sampled as requests go by, the first part (caches, pools of memory and of
threads fill) is left out, and a straight line is laid through the rest by the median of the slopes
between samples (Theil and Sen), which a step of the allocator hardly moves. Memory is what no file
and no other process shares, as the kernel counts it.

What this can see: MB/h come of an hour at the rate of the run. A run of minutes sees a slope no
finer than the noise of its samples over its length, so that is worked out too, from the samples'
scatter about the line (`noise` of the figures), and a leak is told when the line rises by more than
what is promised and more than the noise.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from hostile.campaign import Campaigns, Tally
from hostile.wire import Ask, Case, Request, converse
from serving import Child, child

SAMPLES = 25
"""In a short run; four times as many in a long one."""
WARM = 0.4
"""Share of the requests after which nothing should grow."""
MB_PER_HOUR = 1.0
BYTES_PER_REQUEST = 250.0
"""What a short run may see while pools still fill; the leak that it must notice keeps 2,000."""
TOGETHER = 8
SPARE = 2
"""Threads that a pool, which has a limit, may still add."""
CALM = {"MALLOC_ARENA_MAX": "1", "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONMALLOC": "pymalloc"}
"""One arena of memory, so that threads that share the work do not each fill their own in turn."""


@dataclass(frozen=True)
class Sample:
    requests: int
    seconds: float
    memory: dict[str, float]
    """Bytes of each process."""
    counts: dict[str, int]
    """Descriptors and threads of each process."""


@dataclass(frozen=True)
class Line:
    """Through the samples of one process."""

    slope: float
    """Bytes a request."""
    noise: float
    """What the slope may be of itself: two standard errors of it."""


def sample(server: Child, requests: int, since: float) -> Sample:
    processes = {"server": server.pid, "engine": server.worker}
    memory, counts = {}, {}
    for name, pid in processes.items():
        assert pid is not None, f"no {name} process"
        memory[name] = _private(pid)
        counts[f"threads of the {name}"] = server.status("Threads", pid)
        counts[f"descriptors of the {name}"] = server.descriptors(pid)
    return Sample(requests, time.perf_counter() - since, memory, counts)


def _private(pid: int) -> float:
    """Bytes of a process that are its own: anonymous, whether written or swapped out."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    table = {name: float(rest.split()[0]) for name, _, rest in (ln.partition(":") for ln in lines)}
    return (table["Anonymous"] + table["Swap"]) * 1024


def line(requests: np.ndarray, memory: np.ndarray) -> Line:
    """The median of the slopes between samples, and how far it may be wrong."""
    i, j = np.triu_indices(len(requests), 1)
    slope = float(np.median((memory[j] - memory[i]) / (requests[j] - requests[i])))
    rest = memory - slope * requests
    scatter = 1.4826 * float(np.median(np.abs(rest - np.median(rest))))
    spread = float(np.sqrt(((requests - requests.mean()) ** 2).sum()))
    return Line(slope, 2 * scatter / spread)


async def requests_of(
    server: Child, rng: np.random.Generator, count: int, samples: int
) -> list[Sample]:
    """Good, bad and dropped requests, and what the server takes meanwhile."""
    ask, since, found, done = Ask(rng, server.port), time.perf_counter(), list[Sample](), 0
    share = max(1, count // samples)

    async def keep_alive(number: int) -> None:
        """Sound requests one after the other on one connection."""
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for _ in range(number):
            one: Request = ask.request(chunked=False)
            writer.write(one.data)
            head = await reader.readuntil(b"\r\n\r\n")
            at = head.index(b"content-length: ") + 16
            body = await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
            status = int(head[9:12])
            assert status in (503, 504) or (status == one.status and one.right(body)), head
        writer.close()

    async def mixed(number: int) -> None:
        for _ in range(number):
            kind = (ask.bad_body, ask.bad_query, ask.gone, ask.lying)[rng.integers(4)]
            case = kind()
            await converse(server.port, Case(case.kind, case.parts, "reset"))

    while done < count:
        bad = max(1, share // (5 * TOGETHER))
        good = -(-share // TOGETHER) - bad
        await asyncio.gather(*(keep_alive(good) for _ in range(TOGETHER)))
        await asyncio.gather(*(mixed(bad) for _ in range(TOGETHER)))
        done += TOGETHER * (good + bad)
        await asyncio.sleep(0.05)
        found.append(sample(server, done, since))
    return found


def watch(server: Child, tally: Tally, campaigns: Campaigns, count: int) -> None:
    """A failure for all that grows."""
    parts = 4 * SAMPLES if campaigns.soak else SAMPLES
    samples = asyncio.run(requests_of(server, campaigns.rng(61), count, parts))
    kept = samples[int(WARM * len(samples)) :]
    tally.cases = samples[-1].requests
    requests = np.array([one.requests for one in kept], float)
    rate = (kept[-1].requests - kept[0].requests) / (kept[-1].seconds - kept[0].seconds)
    tally.figures["rate"] = f"{rate:.0f} requests a second"
    for name in kept[0].memory:
        found = line(requests, np.array([one.memory[name] for one in kept]))
        an_hour = 3600 * rate / 2**20
        tally.figures[f"slope of the {name}"] = (
            f"{found.slope:+.2f} bytes a request ({found.slope * an_hour:+.1f} MB/h at that rate), "
            f"noise {found.noise:.2f} ({found.noise * an_hour:.1f} MB/h)"
        )
        allowed = MB_PER_HOUR / an_hour if campaigns.soak else BYTES_PER_REQUEST
        if found.slope - found.noise > allowed:
            tally.failures.append(f"{name}: {tally.figures[f'slope of the {name}']}")
    for name in kept[0].counts:
        seen = [one.counts[name] for one in kept]
        tally.figures[name] = f"{min(seen)} to {max(seen)}"
        if np.median(seen[-5:]) > np.median(seen[:5]) + (SPARE if "threads" in name else 0):
            tally.failures.append(f"{name}: {tally.figures[name]}")


@pytest.fixture
def calm() -> dict[str, str]:
    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("needs Linux' account of a process' memory")
    return CALM


def test_memory_is_flat(campaigns: Campaigns, calm: dict[str, str]) -> None:
    count = campaigns.count(commit=2_000, soak=100_000)
    with (
        child({"delay": 0.0}, environment=calm, window=0) as server,
        campaigns.tried("P16", "memory, descriptors and threads") as tally,
    ):
        watch(server, tally, campaigns, count)


@pytest.mark.parametrize(
    ("defect", "told"),
    [
        ("leak", "a server that keeps 2,000 bytes of each request"),
        ("small_leak", "a server that keeps 200 bytes of each request"),
        ("leak_descriptors", "a server that leaves a file open for each tenth request"),
    ],
)
def test_leaks_are_noticed(
    campaigns: Campaigns, calm: dict[str, str], defect: str, told: str
) -> None:
    if defect == "small_leak" and not campaigns.soak:
        pytest.skip("what it keeps is less than what a short run can tell: see --soak")
    with (
        child({"delay": 0.0}, defect, calm, window=0) as server,
        campaigns.control("P16", told) as tally,
    ):
        watch(server, tally, campaigns, campaigns.count(commit=1_200, soak=10_000))
