"""Load for a server that renders: requests that come when they come, and clients that dawdle.

Each request asks for a layout of its own and knows its picture. Its time is that of the server:
from when its last byte is sent until the kernel has the answer, however late this process reads it.
So that connecting is no part of it, connections are kept, and made before they are needed.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np

from stub_engine import picture

RAW = "application/octet-stream"
IDLE = 10.0
"""Seconds after which a connection is not used again: the server may be closing it."""
CONNECTIONS = 300
"""Made before requests that do not wait for each other."""
LOOK = 0.2
"""Seconds between looks whether a dawdler has been cut off."""
_TIMESTAMPNS = 35
"""SO_TIMESTAMPNS of Linux, which Python does not name."""


@dataclass(frozen=True)
class Asked:
    """A request, and what came of it."""

    status: int
    """0: no answer came."""
    begun: float
    """Seconds since the epoch, as of `time.time`."""
    seconds: float
    right: bool
    """Whether the picture is that of the layout; of other answers, whether they are in order."""

    @property
    def refused(self) -> bool:
        return self.status in (429, 503)


class Connection:
    """A connection that is kept; it takes one request after the other."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with suppress(OSError):  # another system: then this process tells the time
            self._socket.setsockopt(socket.SOL_SOCKET, _TIMESTAMPNS, 1)
        self._socket.setblocking(False)
        self.used = time.time()

    async def ask(self, request: bytes) -> tuple[float, float, bytes, bytes]:
        """When it was sent, when the answer was there, the answer's head and body.

        Raises:
            OSError: it did not come, or there is more than it.
        """
        loop = asyncio.get_running_loop()
        done, data, need = loop.create_future(), bytearray(), 0

        def read() -> None:
            nonlocal need
            try:
                part, notes, *_ = self._socket.recvmsg(1 << 18, 64)
            except BlockingIOError:
                return
            except OSError as error:
                part, notes = b"", []
                done.done() or done.set_exception(error)
            self.used = time.time()
            data.extend(part)
            if not need and (end := data.find(b"\r\n\r\n")) >= 0:
                length = data[:end].lower().partition(b"content-length: ")[2].partition(b"\r")[0]
                need = end + 4 + int(length)
            if done.done() or not part or len(data) > need > 0:
                loop.remove_reader(self._socket)
                done.done() or done.set_exception(ConnectionError("no whole answer, or two"))
            elif len(data) == need:
                loop.remove_reader(self._socket)
                stamps = [struct.unpack("qq", what) for *_, what in notes if len(what) == 16]
                done.set_result(stamps[0][0] + stamps[0][1] / 1e9 if stamps else self.used)

        await loop.sock_sendall(self._socket, request)
        since = time.time()
        loop.add_reader(self._socket, read)
        try:
            there = await done
        finally:
            loop.remove_reader(self._socket)
        head, _, body = bytes(data).partition(b"\r\n\r\n")
        return since, there, head, body

    def close(self) -> None:
        self._socket.close()


@dataclass
class Load:
    """Asks a server for pictures."""

    port: int
    size: tuple[int, int]
    stub: bool = True
    """Whether the pictures are those of the stub, and can be checked."""
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(1))
    kept: list[Connection] = field(default_factory=list)
    """Connections that nobody uses, the newest last."""

    async def ask(self, patience: float = 60) -> Asked:
        """One picture."""
        ids = self.rng.integers(0, 11, self.size, dtype=np.uint8)
        since = time.time()
        there, head, body, connection = since, b"", b"", None
        try:
            connection = self._connection()
            async with asyncio.timeout(patience):
                since, there, head, body = await connection.ask(self.request(ids))
        except (OSError, TimeoutError):
            there = time.time()
            if connection is not None:
                connection.close()
        else:
            self.kept.append(connection)
        status = int(head[9:12]) if head.startswith(b"HTTP/1.1 ") else 0
        right = status in (504,) or (status in (429, 503) and b"\r\nretry-after: " in head)
        if status == 200:
            right = not self.stub or body == picture(ids).tobytes()
        return Asked(status, since, max(0.0, there - since), right)

    def connect(self, count: int) -> None:
        """Have so many connections ready."""
        self.kept += [Connection(self.port) for _ in range(count - len(self.kept))]

    def close(self) -> None:
        while self.kept:
            self.kept.pop().close()

    def _connection(self) -> Connection:
        while self.kept:
            newest = self.kept.pop()
            if time.time() - newest.used < IDLE:
                return newest
            newest.close()
        return Connection(self.port)

    def request(self, ids: np.ndarray, query: str = "?format=raw") -> bytes:
        """The whole request for a layout's picture."""
        head = (
            f"POST /v1/render{query} HTTP/1.1\r\nHost: localhost:{self.port}\r\n"
            f"Content-Type: {RAW}\r\nContent-Length: {ids.size}\r\n\r\n"
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
        self.connect(CONNECTIONS)
        await asyncio.sleep(0.5)  # until the server has taken them
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
    whole = load.request(ids, "?format=raw&images=3")
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
    since = time.perf_counter()
    with socket.socket() as client, suppress(OSError):
        client.setblocking(False)
        if reads:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        await loop.sock_connect(client, ("127.0.0.1", load.port))
        since = due = time.perf_counter()
        await loop.sock_sendall(client, begin)
        if reads:  # the time to read begins when there is something to read
            await loop.sock_recv(client, 1)
            since = due = time.perf_counter()
        while time.perf_counter() - since < limit:
            await asyncio.sleep(LOOK)
            if error := client.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                raise OSError(error)
            if time.perf_counter() < due + pause:
                continue
            due += pause
            await loop.sock_sendall(client, drop)
            if how == "unread":
                continue
            with suppress(TimeoutError):
                if not await asyncio.wait_for(loop.sock_recv(client, 1000), 0.01):
                    break
    return time.perf_counter() - since
