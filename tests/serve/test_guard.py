"""Localhost is not trusted: who is answered, by Host, Origin, method and token."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from crn_fast.errors import UsageError
from crn_fast.serve.guard import is_loopback
from crn_fast.serve.server import listen
from crn_fast.serve.settings import Settings
from serving import RAW, Running, layouts, running

TOKEN = "a-token-of-the-tests"
HOSTS = {
    "127.0.0.1:{port}": True,
    "localhost:{port}": True,
    "LOCALHOST": True,
    "[::1]:{port}": True,
    "paint.example": True,  # by --allow-host
    "evil.example:{port}": False,
    "127.0.0.1.evil.example": False,
    "localhost@evil.example": False,
    "10.0.0.7": False,
    "": False,
}
ORIGINS = {
    None: True,
    "http://{host}": True,
    "https://{host}": True,
    "http://{host}.evil.example": False,
    "http://evil.example": False,
    "http://localhost:1": False,
    "null": False,
    "file://": False,
}
TOKENS = {None: False, f"Bearer {TOKEN}": True, "Bearer wrong": False, f"Basic {TOKEN}": False}
ASKED = [
    ("GET", "/healthz", False),
    ("GET", "/v1/model", True),
    ("POST", "/v1/render", True),
    ("GET", "/metrics", True),
    ("GET", "/page/main.js", False),
]
"""Method, path and whether it needs the token."""


@pytest.fixture(scope="module")
def guarded() -> Iterator[Running]:
    with running(token=TOKEN, names=("paint.example",)) as found:
        yield found


@pytest.mark.parametrize("asked", ASKED, ids=lambda asked: asked[1])
def test_the_matrix(guarded: Running, asked: tuple[str, str, bool]) -> None:
    method, path, needs_token = asked
    body = layouts()[0].tobytes() if method == "POST" else None
    for (host, known), (origin, own), (token, right) in product(
        HOSTS.items(), ORIGINS.items(), TOKENS.items()
    ):
        named = host.format(port=guarded.port)
        headers = {**RAW, "Host": named}
        if origin:
            headers["Origin"] = origin.format(host=named)
        if token:
            headers["Authorization"] = token
        status = guarded.ask(method, path, body, headers).status
        expected = (
            421 if not known else 403 if not own else 401 if needs_token and not right else 200
        )
        assert status == expected, headers


def test_other_sites_are_refused_by_what_the_browser_says(guarded: Running) -> None:
    for site, status in (("cross-site", 403), ("same-site", 403), ("same-origin", 200)):
        headers = {"Authorization": f"Bearer {TOKEN}", "Sec-Fetch-Site": site}
        assert guarded.ask("GET", "/v1/model", headers=headers).status == status


def test_one_host_and_no_more(guarded: Running) -> None:
    head = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n"
    assert b" 421 " in guarded.raw(head) or b" 400 " in guarded.raw(head)


@pytest.mark.parametrize(
    ("host", "local"),
    [
        *(("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True)),
        *(("0.0.0.0", False), ("::", False), ("10.0.0.1", False), ("example.com", False)),
    ],
)
def test_only_this_machine_goes_without_a_token(host: str, local: bool) -> None:
    assert is_loopback(host) is local
    if not local:
        with pytest.raises(UsageError, match="--token-file"):
            listen(Settings(host=host))
