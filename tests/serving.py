"""Servers on a free port of this machine, with a stub for an engine: in a thread, or a process."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

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


class Client:
    """Requests to a server."""

    def __init__(self, port: int) -> None:
        self.port = port

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


class Running(Client):
    """A server that runs in a thread."""

    def __init__(self, server: Server) -> None:
        super().__init__(server.bound.getsockname()[1])
        self.server = server
        self.thread = threading.Thread(target=server.run)


class Child(Client):
    """A server that runs in a process of its own."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        super().__init__(urlsplit(process.stdout.readline()).port or 0)
        assert self.port, "the server did not start"
        self.process = process
        self.pid = process.pid

    @property
    def worker(self) -> int | None:
        """The process of its engine; None while there is none."""
        for pid in map(int, self._children()):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if b"spawn_main" in command:
                return pid
        return None

    def status(self, key: str, pid: int | None = None) -> int:
        """A number of /proc/PID/status, as VmRSS (kB) or Threads."""
        lines = Path(f"/proc/{pid or self.pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))

    def live(self, pid: int | None = None) -> int:
        """Live bytes of a process, as `live` counts them."""
        assert self.process.stdout
        os.kill(pid or self.pid, signal.SIGUSR1)
        who, found = map(int, self.process.stdout.readline().split())
        assert who == (pid or self.pid)
        return found

    def waited(self) -> float:
        """Seconds that the server's threads could have run, but others did."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(float((task / "schedstat").read_text().split()[1]) for task in tasks) / 1e9

    def descriptors(self, pid: int | None = None) -> int:
        return len(os.listdir(f"/proc/{pid or self.pid}/fd"))

    @property
    def sockets(self) -> int:
        """Of the server, those of its connections with them."""
        found = 0
        for link in Path(f"/proc/{self.pid}/fd").iterdir():
            with suppress(FileNotFoundError):
                found += os.readlink(link).startswith("socket:")
        return found

    def _children(self) -> list[str]:
        tasks = Path(f"/proc/{self.pid}/task")
        return " ".join(
            (task / "children").read_text() for task in tasks.iterdir() if task.exists()
        ).split()


@contextmanager
def child(
    stub: dict[str, Any] | None = None,
    defect: str | None = None,
    environment: dict[str, str] | None = None,
    **settings: Any,
) -> Iterator[Child]:
    """A server in a process of its own, as `stub_server` makes it; it must end well."""
    given = json.dumps({"stub": stub or {}, "settings": settings, "defect": defect})
    this = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
    # By -c, as the engine's process would read a main file too, and import all that it imports.
    start = "import sys; sys.path.append(sys.argv[2]); import stub_server; stub_server.begin()"
    command = [*this, "-c", start, given, str(Path(__file__).parent)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, **(environment or {})}
    ) as process:
        try:
            yield Child(process)
            assert process.poll() is None, f"the server ended with {process.returncode}"
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            finally:
                process.kill()
        assert process.returncode == 0, f"the server ended with {process.returncode}"


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
