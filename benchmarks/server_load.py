"""The server under load: goodput, waiting and refusals below and far above what it can do.

    python benchmarks/server_load.py --stub 0.1     # an engine: 0.1 s for a batch of up to 8
    python benchmarks/server_load.py -m street-256  # a real one, with less CPU for the load
    python benchmarks/server_load.py --stub 0.01 --slow 500
    python benchmarks/server_load.py --stub 0.002 --many 5000

Requests come when they come (Poisson, from a fixed seed), each on a connection of its own, whether
or not the ones before have been answered. Prints a line of JSON for each load.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import click
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "tests"))

RAW = "application/octet-stream"


@click.command(help=__doc__)
@click.option("--stub", type=float, help="Seconds of the stub's batch.")
@click.option("-m", "--model", help="A model in the stub's place.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="Of each load.")
@click.option("--slow", type=int, help="So many clients that send a byte a second.")
@click.option("--many", type=int, help="So many requests, eight at a time; watches memory.")
@click.option("--as-server", is_flag=True, hidden=True)
def main(
    stub: float | None,
    model: str | None,
    seconds: float,
    slow: int | None,
    many: int | None,
    as_server: bool,
) -> None:
    if as_server:
        return serve_stub(stub or 0.0)
    this = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
    command = (
        [*this, "-m", "crn_fast", "serve", "-m", model, "--port", "0", "--no-ui"]
        if model
        else [*this, __file__, "--as-server", "--stub", str(stub or 0.0)]
    )
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        port = urlsplit(server.stdout.readline()).port
        assert port, "the server did not start"
        if slow:
            asyncio.run(slow_clients(port, slow))
        elif many:
            asyncio.run(memory(port, server.pid, many))
        else:
            asyncio.run(loads(port, seconds))
    finally:
        server.terminate()
        server.wait()


def serve_stub(delay: float) -> None:
    from crn_fast.serve.server import Server, listen, url_of
    from crn_fast.serve.settings import Settings
    from stub_engine import Stub

    settings = Settings()
    bound = listen(settings)
    server = Server(settings, Stub(delay), bound)
    print(url_of(bound), flush=True)
    server.run()


async def ask(port: int, request: bytes) -> tuple[int, float, float, bytes]:
    """Status (0: none came), when it was asked, seconds it took, and the head of the answer."""
    since, data = time.perf_counter(), b""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        data = await reader.read()
        writer.close()
    except OSError:
        pass
    status = int(data[9:12]) if data.startswith(b"HTTP/1.1 ") else 0
    return status, since, time.perf_counter() - since, data.partition(b"\r\n\r\n")[0]


async def request_of(port: int) -> bytes:
    """A whole request to render a layout that suits the model."""
    head = f"Host: localhost:{port}\r\nConnection: close\r\n"
    question = f"GET /v1/model HTTP/1.1\r\n{head}\r\n".encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(question)
    model = json.loads((await reader.read()).partition(b"\r\n\r\n")[2])
    writer.close()
    shape = (model["height"], model["width"])
    ids = np.random.default_rng(1).integers(0, 11, shape, np.uint8).tobytes()
    start = f"POST /v1/render?format=raw HTTP/1.1\r\n{head}Content-Type: {RAW}\r\n"
    return f"{start}Content-Length: {len(ids)}\r\n\r\n".encode() + ids


async def loads(port: int, seconds: float) -> None:
    request = await request_of(port)
    await asyncio.gather(*(ask(port, request) for _ in range(8)))
    since, done = time.perf_counter(), 0

    async def steady() -> None:
        nonlocal done
        while time.perf_counter() - since < seconds / 2:
            status, *_ = await ask(port, request)
            done += status == 200

    await asyncio.gather(*(steady() for _ in range(16)))
    capacity = done / (time.perf_counter() - since)
    print(json.dumps({"capacity": round(capacity, 1)}), flush=True)
    for load in (0.5, 1, 2, 10):
        rng, tasks = random.Random(3), []
        begun = due = time.perf_counter()
        while due - begun < seconds:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            tasks.append(asyncio.create_task(ask(port, request)))
            due += rng.expovariate(load * capacity)
        sending = time.perf_counter() - begun
        answers = await asyncio.gather(*tasks)
        good = [took for status, _, took, _ in answers if status == 200]
        refused = [answer for answer in answers if answer[0] in (429, 503)]
        ended = max(when + took for status, when, took, _ in answers if status == 200)
        row = {
            "load": load,
            "offered per s": round(len(answers) / sending, 1),
            "goodput per s": round(len(good) / (ended - begun), 1),
            **percentiles("good ms", good),
            "refused": len(refused),
            **percentiles("refused ms", [took for _, _, took, _ in refused]),
            "refused without Retry-After": sum(b"etry-" not in head for *_, head in refused),
            "others": len(answers) - len(good) - len(refused),
        }
        print(json.dumps(row), flush=True)
        await asyncio.sleep(1)


async def slow_clients(port: int, count: int) -> None:
    """How long each is kept, and how the others fare meanwhile."""
    request = await request_of(port)
    closed: list[float] = []

    async def slow(i: int) -> None:
        since = time.perf_counter()
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request[: 20 if i % 2 else request.index(b"\r\n\r\n") + 5])
        gone = asyncio.create_task(reader.read())
        while not gone.done():
            try:
                writer.write(b"x")
                await writer.drain()
            except OSError:
                break
            await asyncio.wait({gone}, timeout=1)
        await asyncio.gather(gone, return_exceptions=True)
        closed.append(time.perf_counter() - since)
        writer.close()

    tasks = [asyncio.create_task(slow(i)) for i in range(count)]
    good = []
    while not all(task.done() for task in tasks) and len(good) < 400:
        status, _, took, _ = await ask(port, request)
        assert status == 200, status
        good.append(took)
        await asyncio.sleep(0.05)
    await asyncio.gather(*tasks)
    row = {
        "slow clients": count,
        "closed after s": [round(min(closed), 1), round(max(closed), 1)],
        **percentiles("others ms", good),
    }
    print(json.dumps(row))


async def memory(port: int, pid: int, count: int) -> None:
    request = await request_of(port)
    for n in range(0, count + 1, count // 10):
        processes = [pid, *children(pid)]
        row = {
            "requests": n,
            "MiB": [round(status_of(p, "VmRSS") / 1024, 1) for p in processes],
            "threads": [status_of(p, "Threads") for p in processes],
            "descriptors": [len(list(Path(f"/proc/{p}/fd").iterdir())) for p in processes],
        }
        print(json.dumps(row), flush=True)
        for _ in range(count // 80):
            await asyncio.gather(*(ask(port, request) for _ in range(8)))


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status_of(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    if not seconds:
        return {}
    values = np.percentile(seconds, [50, 99]) * 1e3
    return {f"{name} p{p}": round(float(v), 1) for p, v in zip((50, 99), values, strict=True)}


if __name__ == "__main__":
    main()
