"""What comes down the wire and is no plain request: tests/hostile tries far more of it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import numpy as np
import pytest

from serving import RAW, Running, layouts, running, until
from stub_engine import Stub, picture


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    with running(Stub(0.0), timeout=2, client_timeout=1) as found:
        yield found


IDS = layouts()[0]
HEAD = b"POST /v1/render?format=raw HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n"
POST = HEAD % RAW["Content-Type"].encode() + b"Content-Length: 384\r\n"
RENDER = POST + b"\r\n" + IDS.tobytes()
GET = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


def statuses(answer: bytes) -> list[int]:
    """Of the answers in what came back."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def test_garbage_behind_a_request_does_not_take_its_answer() -> None:
    with running(Stub(0.2)) as server:
        answer = server.raw(RENDER + b"\x00\x01\r\n\r\n", 2)
    assert statuses(answer) == [200, 400]
    assert picture(IDS).tobytes() in answer


def test_an_offer_of_another_protocol_is_not_heard(quick: Running) -> None:
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n\r\n"
    answer = quick.raw(POST + offer + IDS.tobytes() + GET)
    assert statuses(answer) == [200, 200]
    assert picture(IDS).tobytes() in answer and answer.endswith(b'{"status":"alive"}')
    assert statuses(quick.raw(GET[:-2] + offer + GET)) == [200, 200]


def test_who_asks_whether_to_send_and_is_refused_is_hung_up_on(quick: Running) -> None:
    answer = quick.raw(HEAD % b"text/plain" + b"Expect: 100-continue\r\nContent-Length: 9\r\n\r\n")
    assert statuses(answer) == [415] and b"connection: close" in answer


def test_a_refusal_does_not_wait_for_the_body(quick: Running) -> None:
    answer = quick.raw(HEAD % b"text/plain" + b"Content-Length: 1000000\r\n\r\n")
    assert statuses(answer) == [415]


def test_requests_before_an_answer_are_few(quick: Running) -> None:
    answer = quick.raw(GET * 5000, 3)
    found = statuses(answer)  # many of which may be lost, as more was sent than is read
    assert set(found) <= {200, 400} and 0 < len(found) < 100
    assert statuses(quick.raw(GET * 20)) == [200] * 20


def test_who_sends_no_more_still_reads_what_was_begun(quick: Running) -> None:
    page = b"GET /page/main.js HTTP/1.1\r\nHost: localhost\r\n\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", quick.port), timeout=5) as client:
            client.sendall(page)
            start = client.recv(10)
            client.shutdown(socket.SHUT_WR)
            rest = b"".join(iter(lambda: client.recv(1 << 16), b""))
        head, _, body = (start + rest).partition(b"\r\n\r\n")
        assert b"content-length: %d\r\n" % len(body) in head


def test_answers_do_not_wait_for_each_other_s_receipt(quick: Running) -> None:
    # asyncio switches Nagle's algorithm off for what it knows to be TCP.
    assert quick.server.bound.proto == socket.IPPROTO_TCP


def test_who_reads_nothing_holds_no_more_than_all_may() -> None:
    size = (512, 1024)
    ids = np.zeros(size, np.uint8).tobytes()
    request = b"POST /v1/render?images=3&format=raw HTTP/1.1\r\nHost: localhost\r\n"
    request += b"Content-Type: application/octet-stream\r\nContent-Length: %d\r\n\r\n" % len(ids)
    with running(Stub(0.0, size=size), answer_memory=10 << 20) as server:
        clients = []
        for _ in range(6):
            client = socket.socket()
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.connect(("127.0.0.1", server.port))
            client.sendall(request + ids)
            clients.append(client)
        connections = server.server._uvicorn.server_state.connections
        until(lambda: 0 < len(connections) <= 5)
        for client in clients:
            client.close()


@pytest.mark.parametrize(
    "endless",
    [
        b"GET /" + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\nX: " + b"a" * (1 << 20),
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * (1 << 17),
        b"POST /v1/render HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
        + b"1;" + b"a" * (1 << 20),
    ],
    ids=["path", "header", "headers", "chunk"],
)  # fmt: skip
def test_headers_have_an_end(quick: Running, endless: bytes) -> None:
    try:
        answer = quick.raw(endless)
    except OSError:
        return  # it hung up while we were still sending
    assert not answer or statuses(answer)[-1] in (400, 413, 431)
