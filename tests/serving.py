"""Servers on a free port of this machine, each in a thread, with a stub for an engine."""

from __future__ import annotations

import http.client
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from crn_fast.serve.server import Server, listen
from crn_fast.serve.settings import Settings
from stub_engine import SIZE, Stub

RAW = {"Content-Type": "application/octet-stream", "Accept": "application/octet-stream"}


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Running:
    """A server that runs, and requests to it."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port: int = server.bound.getsockname()[1]
        self.thread = threading.Thread(target=server.run)

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        timeout: float = 20,
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, names, response.read())
        finally:
            connection.close()

    def render(self, ids: np.ndarray, query: str = "", **headers: str) -> Answer:
        return self.ask("POST", f"/v1/render{query}", ids.tobytes(), {**RAW, **headers})

    def together(self, count: int, work: Callable[[int], Any]) -> list[Any]:
        """The results of `work(0)`, `work(1)`, ... each in a thread of its own."""
        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(work, range(count)))

    def raw(self, data: bytes, timeout: float = 0.4) -> bytes:
        """What comes back for these bytes until the server hangs up or goes quiet."""
        found = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout) as connection:
            connection.sendall(data)
            try:
                while part := connection.recv(65536):
                    found += part
            except (TimeoutError, ConnectionResetError):
                pass
        return found

    def metric(self, name: str) -> float:
        text = self.ask("GET", "/metrics").body.decode()
        return sum(float(ln.rpartition(" ")[2]) for ln in text.splitlines() if ln.startswith(name))


@contextmanager
def running(stub: Stub | None = None, **settings: Any) -> Iterator[Running]:
    chosen = Settings(**settings)
    found = Running(Server(chosen, stub or Stub(), listen(chosen)))
    found.thread.start()
    try:
        until(lambda: found.ask("GET", "/readyz").status == 200)
        yield found
    finally:
        found.server.stop()
        found.thread.join(20)
        assert not found.thread.is_alive()


def until(true: Callable[[], bool], seconds: float = 10) -> None:
    """Wait for something to become true."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come about"
        time.sleep(0.02)


def layouts(count: int = 1) -> np.ndarray:
    """Uint8 [count, H, W], no two alike."""
    return np.random.default_rng(4).integers(0, 12, (count, *SIZE), dtype=np.uint8)
