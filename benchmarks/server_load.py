"""The server under load: goodput, waiting and refusals below and far above what it can do.

    python benchmarks/server_load.py --stub 0.1     # an engine: 0.1 s for a batch of up to 8
    python benchmarks/server_load.py -m street-256  # a real one, with less CPU for the load
    python benchmarks/server_load.py --stub 0.01 --slow 500
    python benchmarks/server_load.py --stub 0.002 --many 5000

Requests come when they come (Poisson, from a fixed seed), whether or not the ones before have been
answered, on connections that are kept. Prints a line of JSON for each load.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterable
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import click

TESTS = Path(__file__).parents[1] / "tests"
sys.path.append(str(TESTS))

from load import Asked, Load, dawdle, goodput, percentile  # noqa: E402


@click.command(help=__doc__)
@click.option("--stub", type=float, help="Seconds of the stub's batch.")
@click.option("-m", "--model", help="A model in the stub's place.")
@click.option("--seconds", type=float, default=10.0, show_default=True, help="Of each load.")
@click.option("--slow", type=int, help="So many clients that send a byte a second.")
@click.option("--many", type=int, help="So many requests, eight at a time; watches memory.")
def main(
    stub: float | None, model: str | None, seconds: float, slow: int | None, many: int | None
) -> None:
    this = [sys.executable, *(["-P"] if sys.flags.safe_path else [])]
    served = json.dumps({"stub": {"delay": stub or 0.0}, "settings": {}})
    command = (
        [*this, "-m", "crn_fast", "serve", "-m", model, "--port", "0", "--no-ui"]
        if model
        else [*this, str(TESTS / "stub_server.py"), served]
    )
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout
        url = server.stdout.readline().strip()
        port = urlsplit(url).port
        assert port, "the server did not start"
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/v1/model")
        facts = json.load(connection.getresponse())
        connection.close()
        load = Load(port, (facts["height"], facts["width"]), stub=not model)
        if slow:
            asyncio.run(slow_clients(load, slow))
        elif many:
            asyncio.run(memory(load, server.pid, many))
        else:
            asyncio.run(loads(load, seconds))
        load.close()
    finally:
        server.terminate()
        server.wait()


async def loads(load: Load, seconds: float) -> None:
    await load.together(8, 0.5)
    capacity = goodput(await load.together(16, seconds / 2))
    print(json.dumps({"capacity": round(capacity, 1)}), flush=True)
    for times in (0.5, 1, 2, 10):
        asked = await load.arrivals(times * capacity, seconds)
        good = [one for one in asked if one.status == 200]
        refused = [one for one in asked if one.refused]
        row = {
            "load": times,
            "offered per s": round(len(asked) / (asked[-1].begun - asked[0].begun), 1),
            "goodput per s": round(goodput(asked), 1),
            **percentiles("good ms", good),
            "refused": len(refused),
            **percentiles("refused ms", refused),
            "others": len(asked) - len(good) - len(refused),
            "wrong": sum(not one.right for one in asked),
        }
        print(json.dumps(row), flush=True)
        await asyncio.sleep(1)


async def slow_clients(load: Load, count: int) -> None:
    """How long each is kept, and how the others fare meanwhile."""
    tasks = [
        asyncio.create_task(dawdle(load, ("head", "body")[i % 2], 1, 60)) for i in range(count)
    ]
    good = list[Asked]()
    while not all(task.done() for task in tasks):
        good.append(await load.ask())
        assert good[-1].status == 200, good[-1]
        await asyncio.sleep(0.05)
    closed = await asyncio.gather(*tasks)
    row = {
        "slow clients": count,
        "closed after s": [round(min(closed), 1), round(max(closed), 1)],
        **percentiles("others ms", good),
    }
    print(json.dumps(row))


async def memory(load: Load, pid: int, count: int) -> None:
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
            await asyncio.gather(*(load.ask() for _ in range(8)))


def children(pid: int) -> list[int]:
    return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def status_of(pid: int, key: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def percentiles(name: str, asked: Iterable[Asked]) -> dict[str, float]:
    found = list(asked)
    return {f"{name} p{p}": round(percentile(found, p), 1) for p in (50, 99) if found}


if __name__ == "__main__":
    main()
