"""A server that answers many requests, and what it and its engine process hold between them."""

from __future__ import annotations

import asyncio
import time
from collections import Counter

import numpy as np

from hostile.slopes import Sample, private
from hostile.wire import Ask, Case, Request, converse
from serving import Child, until

TOGETHER = 8
"""Connections."""
DECK = 300
"""Different sound requests; each is asked again and again."""
BUSY = (429, 503, 504)
"""What a server may say that has much to do, or whose machine was paused."""
QUIET = 3.0
"""Seconds within which a server is done with connections that were dropped."""


async def samples(
    server: Child, rng: np.random.Generator, count: int, parts: int, told: Counter[str]
) -> list[Sample]:
    """Answer `count` requests in so many parts, and look after each.

    Four of five are sound, on connections that stay open. Of the others some are sound but dropped
    before their answer, some cannot be parsed, and some are refused for a body or a parameter.

    Args:
        server: a child in `live.ENVIRONMENT`.
        rng: decides which.
        count: of requests.
        parts: into which they are divided.
        told: counts what came of them.

    Raises:
        AssertionError: a wrong answer, or a process that has ended.
    """
    ask, found, done, since = Ask(rng, server.port), list[Sample](), 0, time.perf_counter()
    deck = [ask.request(chunked=False) for _ in range(DECK)]
    until(lambda: server.ask("GET", "/readyz").status == 200)
    await asyncio.sleep(0.2)
    idle = server.sockets
    bad = max(1, count // parts // (5 * TOGETHER))
    good = max(1, count // parts // TOGETHER - bad)
    for _ in range(parts):
        asked = [[deck[i] for i in rng.integers(DECK, size=good)] for _ in range(TOGETHER)]
        await asyncio.gather(
            *(_sound(server, requests, told) for requests in asked),
            *(_unsound(server, ask, bad, told) for _ in range(TOGETHER)),
        )
        done += TOGETHER * (good + bad)
        await _quiet(server, idle)
        found.append(_look(server, done, time.perf_counter() - since))
    return found


async def _sound(server: Child, requests: list[Request], told: Counter[str]) -> None:
    """One after the other on one connection; on another where that is closed."""
    while requests:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        try:
            while requests:
                one = requests.pop()
                writer.write(one.data)
                head = await reader.readuntil(b"\r\n\r\n")
                at = head.index(b"content-length: ") + 16
                body = await reader.readexactly(int(head[at : head.index(b"\r\n", at)]))
                status = int(head[9:12])
                assert status in BUSY or (status == one.status and one.right(body)), (head, body)
                told["busy" if status in BUSY else "answered"] += 1
        except (ConnectionError, asyncio.IncompleteReadError):
            told["lost"] += 1
        finally:
            writer.close()


async def _unsound(server: Child, ask: Ask, count: int, told: Counter[str]) -> None:
    for _ in range(count):
        case = (ask.bad_body, ask.bad_query, ask.gone, ask.lying)[ask.rng.integers(4)]()
        end = "reset" if ask.rng.random() < 0.5 else case.end
        await converse(server.port, Case(case.kind, case.parts, end, statuses=case.statuses))
        told[case.kind] += 1


async def _quiet(server: Child, idle: int) -> None:
    """Wait until all connections are gone from the server, which may be late to notice."""
    end = time.perf_counter() + QUIET
    while server.sockets > idle and time.perf_counter() < end:
        await asyncio.sleep(0.02)
    await asyncio.sleep(0.05)


def _look(server: Child, done: int, seconds: float) -> Sample:
    memory, counts = {}, {}
    for name, pid in {"server": server.pid, "engine": server.worker}.items():
        assert pid is not None, f"no {name} process"
        memory[f"live bytes of the {name}"] = server.live(pid)
        memory[f"pages of the {name}"] = private(pid)
        counts[f"threads of the {name}"] = server.status("Threads", pid)
        counts[f"descriptors of the {name}"] = server.descriptors(pid)
    return Sample(done, seconds, memory, counts)
