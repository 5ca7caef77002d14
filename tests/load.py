"""Load for a server that renders: requests that come when they come, and clients that dawdle.

Each request asks for a layout of its own, on a connection of its own, and knows its picture.
"""

from __future__ import annotations

import asyncio
import random
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from stub_engine import picture

RAW = "application/octet-stream"


@dataclass(frozen=True)
class Asked:
    """A request, and what came of it."""

    status: int
    """0: no answer came."""
    begun: float
    seconds: float
    right: bool
    """Whether the picture is that of the layout; of other answers, whether they are in order."""

    @property
    def refused(self) -> bool:
        return self.status in (429, 503)


@dataclass
class Load:
    """Asks a server for pictures."""

    port: int
    size: tuple[int, int]
    stub: bool = True
    """Whether the pictures are those of the stub, and can be checked."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))

    async def ask(self, patience: float = 60) -> Asked:
        """One picture."""
        ids = self.rng.integers(0, 11, self.size, dtype=np.uint8)
        request = self.request(ids)
        since, data = time.perf_counter(), b""
        try:
            async with asyncio.timeout(patience):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                try:
                    writer.write(request)
                    data = await reader.read()
                finally:
                    writer.close()
        except (OSError, TimeoutError):
            pass
        took = time.perf_counter() - since
        head, _, body = data.partition(b"\r\n\r\n")
        status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
        right = status in (504,) or (status in (429, 503) and b"\r\nretry-after: " in head)
        if status == 200:
            right = not self.stub or body == picture(ids).tobytes()
        return Asked(status, since, took, right)

    def request(self, ids: np.ndarray, query: str = "?format=raw") -> bytes:
        """The whole request for a layout's picture."""
        head = (
            f"POST /v1/render{query} HTTP/1.1\r\nHost: localhost:{self.port}\r\n"
            f"Connection: close\r\nContent-Type: {RAW}\r\nContent-Length: {ids.size}\r\n\r\n"
        )
        return head.encode() + ids.tobytes()

    async def until_ready(self, seconds: float = 60) -> None:
        """Wait until the server takes work.

        Raises:
            TimeoutError: it does not.
        """
        question = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        async with asyncio.timeout(seconds):
            while True:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(question)
                found = await reader.read()
                writer.close()
                if b" 200 " in found[:20]:
                    return
                await asyncio.sleep(0.05)

    async def together(self, clients: int, seconds: float) -> list[Asked]:
        """Clients that each wait for an answer before they ask again."""
        end, found = time.perf_counter() + seconds, list[Asked]()

        async def steady() -> None:
            while time.perf_counter() < end:
                found.append(await self.ask())

        await asyncio.gather(*(steady() for _ in range(clients)))
        return found

    async def arrivals(self, rate: float, seconds: float) -> list[Asked]:
        """Requests that do not wait for each other: Poisson, so many a second, fixed seed."""
        gaps, tasks = random.Random(3), list[asyncio.Task[Asked]]()
        begun = due = time.perf_counter()
        while due - begun < seconds:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(self.ask()))
            due += gaps.expovariate(rate)
        return await asyncio.gather(*tasks)


def goodput(asked: Iterable[Asked]) -> float:
    """Pictures a second, from the first question to the last picture."""
    asked = list(asked)
    good = [one for one in asked if one.status == 200]
    if not good:
        return 0.0
    return len(good) / (max(one.begun + one.seconds for one in good) - asked[0].begun)


def percentile(asked: Iterable[Asked], percent: float) -> float:
    """Milliseconds within which so many per cent were answered."""
    return float(np.percentile([one.seconds for one in asked] or [0.0], percent) * 1e3)


DAWDLERS = ("silent", "head", "body", "chunk", "unread", "sips")
"""How clients dawdle: they send nothing, or a byte of their head, body or chunks now and then; or
they read nothing of a picture, or a little now and then."""


async def dawdle(load: Load, how: str, pause: float, limit: float) -> float:
    """Seconds that a client may dawdle before it is cut off; `limit` if it is not."""
    ids = load.rng.integers(0, 11, load.size, dtype=np.uint8)
    whole = load.request(ids)
    head = whole[: whole.index(b"\r\n\r\n")]
    begin, drop = {
        "silent": (b"", b""),
        "head": (head[:20], b"x"),
        "body": (head + b"\r\n\r\n", b"x"),
        "chunk": (
            head[: head.index(b"Content-Length")] + b"Transfer-Encoding: chunked\r\n\r\n",
            b"1\r\nx\r\n",
        ),
        "unread": (whole, b""),
        "sips": (whole, b""),
    }[how]
    loop, reads = asyncio.get_running_loop(), how in ("unread", "sips")
    with socket.socket() as client:
        client.setblocking(False)
        if reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", load.port))
        since = time.perf_counter()
        with suppress(OSError):
            await loop.sock_sendall(client, begin)
            if reads:  # the time to read begins when there is something to read
                await loop.sock_recv(client, 1)
                since = time.perf_counter()
            while time.perf_counter() - since < limit:
                await asyncio.sleep(pause)
                if error := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(error)
                await loop.sock_sendall(client, drop)
                if how == "unread":
                    continue
                with suppress(TimeoutError):
                    if not await asyncio.wait_for(loop.sock_recv(client, 1000), 0.01):
                        break
        return time.perf_counter() - since
