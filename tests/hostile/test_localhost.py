"""P17: localhost is not trusted. Tables of who is let in, tried on each route of both servers."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from comparing import comparing
from crn_fast import image
from crn_fast.compare.server import Server as Comparison
from crn_fast.compare.trials import Source
from crn_fast.errors import ResourceError, UsageError
from crn_fast.serve.server import listen
from crn_fast.serve.settings import Settings
from hostile.campaign import Campaigns, Tally
from hostile.wire import RAW, Answer, answers
from serving import child
from stub_engine import SIZE

TOKEN = "a-token-of-the-tests"
SAFE = {
    "content-security-policy": "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}
"""Headers of every answer, and what they must hold."""

HOSTS: dict[tuple[str, ...], bool] = {
    ("127.0.0.1:{port}",): True,
    ("localhost:{port}",): True,
    ("LocalHost:{port}",): True,
    ("localhost",): True,
    ("[::1]:{port}",): True,
    (): False,
    ("",): False,
    ("evil.example",): False,
    ("evil.example:{port}",): False,
    ("localhost.evil.example:{port}",): False,
    ("127.0.0.1.nip.io:{port}",): False,
    ("7f000001.rbndr.us:{port}",): False,
    ("localhost.:{port}",): False,
    ("127.1:{port}",): False,
    ("2130706433:{port}",): False,
    ("0x7f.1:{port}",): False,
    ("0.0.0.0:{port}",): False,
    ("127.0.0.2:{port}",): False,
    ("[::ffff:127.0.0.1]:{port}",): False,
    ("[::1%25eth0]:{port}",): False,
    ("[::1",): False,
    ("localhost:{port}@evil.example",): False,
    ("evil.example@localhost:{port}",): False,
    ("localhost:{port}/",): False,
    ("localhost:{port}, evil.example",): False,
    ("localhost:{port}", "localhost:{port}"): False,
    ("localhost:{port}", "evil.example"): False,
    ("evil.example", "localhost:{port}"): False,
    ("\uff4cocalhost:{port}",): False,
}
"""Host headers, and whether they are let in."""
ORIGINS: dict[tuple[str, ...], bool] = {
    (): True,
    ("http://{host}",): True,
    ("http://evil.example",): False,
    ("https://evil.example",): False,
    ("http://localhost:1",): False,
    ("http://{host}1",): False,
    ("http://{host}.evil.example",): False,
    ("http://{host}@evil.example",): False,
    ("http://evil.example@{host}",): False,
    ("http://{host}/x",): False,
    ("http://lo\tcalhost:{port}",): False,
    ("ftp://{host}",): False,
    ("{host}",): False,
    ("null",): False,
    ("file://",): False,
    ("file://{host}",): False,
    ("chrome-extension://abcdefgh",): False,
    ("",): False,
    ("http://{host}", "http://evil.example"): False,
    ("http://evil.example", "http://{host}"): False,
}
SITES = {None: True, "same-origin": True, "none": True, "same-site": False, "cross-site": False}
"""Sec-Fetch-Site, and whether more than the pages is given."""
TOKENS: dict[tuple[str, ...], bool] = {
    (f"Authorization: Bearer {TOKEN}",): True,
    (f"Authorization: bearer {TOKEN}",): True,
    (): False,
    ("Authorization:",): False,
    ("Authorization: Bearer",): False,
    ("Authorization: Bearer wrong",): False,
    (f"Authorization: Bearer {TOKEN[:-1]}",): False,
    (f"Authorization: Bearer {TOKEN}x",): False,
    (f"Authorization: Bearer {TOKEN.upper()}",): False,
    (f"Authorization: Basic {TOKEN}",): False,
    (f"Authorization: {TOKEN}",): False,
    (f"Authorization: Bearer wrong, Bearer {TOKEN}",): False,
    ("Authorization: Bearer wrong", f"Authorization: Bearer {TOKEN}"): False,
    (f"Authorization: Bearer {TOKEN}", "Authorization: Bearer wrong"): False,
    (f"Cookie: token={TOKEN}",): False,
    (f"X-Token: {TOKEN}",): False,
    (f"Proxy-Authorization: Bearer {TOKEN}",): False,
}
SPOOFS = ("X-Forwarded-Host: localhost", "Forwarded: host=localhost", "X-Original-Host: localhost")
"""Headers of proxies, which change nothing."""
METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "CONNECT", "BREW")


class Route(NamedTuple):
    path: str
    method: str
    """The one that it answers."""
    page: bool
    """Whether it is a page or its part, to which others may link."""
    token: bool


SERVED = (
    Route("/", "GET", True, False),
    Route("/docs", "GET", True, False),
    Route("/openapi.json", "GET", True, False),
    Route("/page/main.js", "GET", True, False),
    Route("/healthz", "GET", True, False),
    Route("/readyz", "GET", True, False),
    Route("/v1/model", "GET", False, True),
    Route("/v1/labels", "GET", False, True),
    Route("/metrics", "GET", False, True),
    Route("/v1/render?format=raw", "POST", False, True),
    Route("/v1/layout", "POST", False, True),
)
COMPARED = (
    Route("/", "GET", True, False),
    Route("/compare.js", "GET", True, False),
    Route("/trials?rater=anna", "GET", False, False),
    Route("/picture?rater=anna&trial=0&side=left", "GET", False, False),
    Route("/answer", "POST", False, False),
)


class Try(NamedTuple):
    route: Route
    method: str
    hosts: tuple[str, ...]
    origins: tuple[str, ...]
    site: str | None
    token: tuple[str, ...]
    spoof: str | None
    in_query: bool

    def statuses(self) -> set[int]:
        """What the tables say of it."""
        other = set() if self.method == self.route.method else {400, 404, 405}
        if not HOSTS[self.hosts]:
            return {421, 400, *other}
        if not ORIGINS[self.origins]:
            return {403, 400, *other}
        if not self.route.page and not SITES[self.site]:
            return {403, *other}
        if self.route.token and not TOKENS[self.token]:
            return {401, *other}
        if self.method == "HEAD" and self.route.path in ("/page/main.js", "/openapi.json"):
            return {200}
        return other or {200}

    def data(self, port: int, body: bytes, kind: str) -> bytes:
        host = self.hosts[0].format(port=port) if self.hosts else ""
        query = ("&" if "?" in self.route.path else "?") + f"token={TOKEN}" if self.in_query else ""
        lines = [f"{self.method} {self.route.path}{query} HTTP/1.1", "Connection: close"]
        lines += [f"Host: {name.format(port=port)}" for name in self.hosts]
        lines += [f"Origin: {name.format(host=host, port=port)}" for name in self.origins]
        lines += [f"Sec-Fetch-Site: {self.site}"] if self.site else []
        lines += [*self.token, *([self.spoof] if self.spoof else [])]
        sent = body if self.method == "POST" else b""
        if self.method == "POST":
            lines += [f"Content-Type: {kind}", f"Content-Length: {len(sent)}"]
        return "\r\n".join([*lines, "", ""]).encode() + sent


def tries(routes: tuple[Route, ...], rng: random.Random, count: int) -> Iterator[Try]:
    """Each row of each table by itself, then all mixed."""
    host, origin = ("localhost:{port}",), ()
    right = (f"Authorization: Bearer {TOKEN}",)
    for route in routes:
        plain = Try(route, route.method, host, origin, None, right, None, False)
        yield from (plain._replace(hosts=hosts) for hosts in HOSTS)
        yield from (plain._replace(origins=origins) for origins in ORIGINS)
        yield from (plain._replace(site=site) for site in SITES)
        yield from (plain._replace(method=method) for method in METHODS)
        for token, in_query in product(TOKENS, (False, True)):
            yield plain._replace(token=token, in_query=in_query)
        yield from (plain._replace(hosts=("evil.example",), spoof=spoof) for spoof in SPOOFS)
    for _ in range(count):
        yield Try(
            rng.choice(routes),
            rng.choice(METHODS),
            rng.choice([*HOSTS, *[host] * 20]),
            rng.choice([*ORIGINS, *[origin] * 20]),
            rng.choice([*SITES, None, None, None]),
            rng.choice([*TOKENS, *[right] * 10]),
            rng.choice([*SPOOFS, None, None, None]),
            rng.random() < 0.2,
        )


async def ask(port: int, data: bytes, heads: bool) -> tuple[list[Answer], str | None]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    found = b""
    try:
        writer.write(data)
        found = await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        pass
    finally:
        writer.close()
    got, _, wrong = answers(found, heads=heads)
    return got, wrong


def knock(
    port: int, routes: tuple[Route, ...], tally: Tally, campaigns: Campaigns, body: bytes, kind: str
) -> None:
    """Try the doors of a server."""
    count = campaigns.count(commit=300, soak=10_000)

    async def one(tried: Try, room: asyncio.Semaphore) -> None:
        async with room:
            got, wrong = await ask(port, tried.data(port, body, kind), tried.method == "HEAD")
        if wrong or len(got) != 1:
            tally.case(f"{tried}: {wrong or f'{len(got)} answers'}")
            return
        status, headers, said = got[0]
        if status not in tried.statuses():
            wrong = f"{status}, not {tried.statuses()}"
        elif any(name.startswith("access-control-") for name in headers):
            wrong = f"CORS: {headers}"
        elif TOKEN.encode() in said or any(TOKEN in value for value in headers.values()):
            wrong = "the token comes back"
        elif lacking := [
            name
            for name, value in SAFE.items()
            if value not in headers.get(name, "")
            and tried.method != "CONNECT"
            # What is no HTTP request is answered by the parser, to no page.
            and status != 400
        ]:
            wrong = f"{status} without {lacking}"
        tally.case(wrong and f"{tried}: {wrong}")

    async def work() -> None:
        room = asyncio.Semaphore(16)
        rng = random.Random(campaigns.seed)
        await asyncio.gather(*(one(tried, room) for tried in tries(routes, rng, count)))

    asyncio.run(work())


IDS = np.zeros(SIZE, np.uint8).tobytes()


def test_who_may_ask_the_server(campaigns: Campaigns, capfd: pytest.CaptureFixture[str]) -> None:
    with child({"delay": 0.0}, token=TOKEN) as server, campaigns.tried("P17", "serve") as tally:
        knock(server.port, SERVED, tally, campaigns, IDS, RAW.decode())
    told = "".join(capfd.readouterr())
    assert TOKEN not in told, "the token is in the log"


def test_a_server_without_a_guard_is_noticed(campaigns: Campaigns) -> None:
    with (
        child({"delay": 0.0}, "unguarded", token=TOKEN) as server,
        campaigns.control("P17", "a server without a guard") as tally,
    ):
        knock(server.port, SERVED[-3:], tally, campaigns, IDS, RAW.decode())


@pytest.fixture
def comparison(tmp_path: Path) -> Iterator[Comparison]:
    folders: dict[Source, Path] = {}
    for source in ("a", "b"):
        folders[source] = tmp_path / source
        folders[source].mkdir()
        rgb = np.zeros((16, 32, 3), np.uint8)
        rgb[:4] = 200 if source == "a" else 90
        image.write(folders[source] / "scene.png", rgb)
    with comparing(folders, tmp_path / "answers.csv", trials=4, sentinels=0) as server:
        yield server


ANSWER = b'{"rater": "anna", "trial": 0, "side": "left", "shown_ms": 0, "answered_ms": 700}'


def test_who_may_ask_the_comparison(campaigns: Campaigns, comparison: Comparison) -> None:
    with campaigns.tried("P17", "compare") as tally:
        knock(comparison.server_port, COMPARED, tally, campaigns, ANSWER, "application/json")


OUTSIDE = (
    *("0.0.0.0", "::", "", "10.0.0.1", "192.168.1.7", "255.255.255.255", "0", "127.1", "fe80::1"),
    *("::ffff:0:0", "[::]", "example.com", "localhost.evil.example", "LOCALHOST."),
)


def listened(tally: Tally, settings: Callable[[str], Settings]) -> None:
    """Whether addresses that others may reach need a token."""
    for host in OUTSIDE:
        try:
            listen(settings(host)).close()
            tally.case(f"{host!r} is listened on without a token")
        except UsageError as error:
            tally.case(None if "--token-file" in str(error) else str(error))
        except ResourceError:
            tally.case(f"{host!r} was tried without a token")


def test_others_reach_no_server_without_a_token(campaigns: Campaigns) -> None:
    with campaigns.tried("P17", "addresses to listen on without a token") as tally:
        listened(tally, lambda host: Settings(host=host))
    with campaigns.control("P17", "any token will do", "without a token") as tally:
        listened(tally, lambda host: Settings(host=host, token="x" * 16))
