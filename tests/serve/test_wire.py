"""Whatever comes down the wire: no crash, no hang, and no 5xx but 503 and 504."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from serving import Running, layouts, running
from stub_engine import Stub

CASES = 200


@pytest.fixture(scope="module")
def quick() -> Iterator[Running]:
    with running(Stub(0.0), timeout=2, client_timeout=1) as found:
        yield found


def requests(port: int, count: int) -> Iterator[bytes]:
    """Requests that are nearly right, from a fixed seed."""
    rng = random.Random(8)
    body = layouts()[0].tobytes()
    types = ["application/octet-stream", "image/png", "text/plain", "image/png; a=b", ""]
    paths = [
        *(
            "/v1/render",
            "/v1/render",
            "/v1/render?k=1",
            "/v1/layout",
            "/v1/labels",
            "/healthz",
            "/",
            "//",
            "*",
        ),
        *("/v1/render?images=999999999999999999999", "/v1/render?k=%ff", "/%00", "/page/%2e%2e/x"),
        *("/v1/render?height=1&width=1", "/v1/render?compose=%00=1", "/\xff", "http://x/healthz"),
    ]
    for _ in range(count):
        method = rng.choice(["POST"] * 8 + ["GET"] * 4 + ["PUT", "HEAD", "BREW", "CONNECT"])
        lines = [
            f"{method} {rng.choice(paths)} HTTP/{rng.choice(['1.1'] * 9 + ['1.0', '9.9'])}",
            "Connection: close",
            rng.choice([f"Host: localhost:{port}"] * 20 + ["Host:", "Host: \x01", "X: y"]),
            f"Content-Type: {rng.choice(types)}",
            rng.choice(
                [f"Content-Length: {len(body)}"] * 20
                + ["Content-Length: -1", "Content-Length: 9" * 5, "Content-Length: 1e9"]
                + ["Transfer-Encoding: chunked", "Content-Length: 3\r\nContent-Length: 4"]
            ),
            rng.choice(["Accept: */*"] * 4 + ["Accept: ;;q=x,", "Expect: 100-continue", "A" * 300]),
            rng.choice(["Upgrade: websocket", "X-Request-Id: \xe9"] + ["B: c"] * 8),
        ]
        data = bytearray("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)
        for _ in range(rng.choice([0, 0, 0, 1, 4])):
            at = rng.randrange(len(data))
            change = rng.randrange(3)
            if change == 0:
                data[at] = rng.randrange(256)
            elif change == 1:
                del data[at : at + rng.randrange(1, 40)]
            else:
                data[at:at] = rng.randbytes(rng.randrange(1, 20))
        yield bytes(data)


def statuses(answer: bytes) -> list[int]:
    """Of the answers in what came back (a body may end in the midst of another request)."""
    return [int(part[:3]) for part in answer.split(b"HTTP/1.1 ")[1:] if part[:3].isdigit()]


def test_nothing_on_the_wire_is_a_bug(quick: Running) -> None:
    cases = list(requests(quick.port, CASES))
    answers = quick.together(8, lambda i: [quick.raw(case) for case in cases[i::8]])
    found = [status for some in answers for answer in some for status in statuses(answer)]
    assert len(found) > CASES / 2
    assert 200 in found and 400 in found and 422 in found
    assert not [status for status in found if status >= 500 and status not in (503, 504)]
    assert quick.render(layouts()[0]).status == 200


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
