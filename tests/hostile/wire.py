"""Requests as bytes: whole, in pieces, mangled, lying; and a strict reader of what comes back.

A `Case` is what is sent down one connection and what is known of the answers. Whatever is sent, the
law holds: what comes back is HTTP with right lengths, no 5xx but 503 and 504, errors are a line of
JSON, and answers come in the order of their requests, each with its request's id.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from io import BytesIO
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from stub_engine import SIZE, picture

PATIENCE = 8.0
"""Seconds within which an answer comes, or the connection is closed."""
QUIET = 0.03
"""Seconds after which no more answers are expected to bytes that are no request."""
HIDDEN = "hidden"
"""The id of requests that lie in the bodies of others: nobody may answer them."""

Check = Callable[[bytes], bool]


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


class Request(NamedTuple):
    head: bytes
    """With its empty line."""
    body: bytes
    status: int
    right: Check
    id: str

    @property
    def data(self) -> bytes:
        return self.head + self.body


@dataclass(frozen=True)
class Case:
    kind: str
    parts: tuple[bytes, ...]
    """Sent one after the other."""
    end: Literal["read", "half", "reset"] = "read"
    """Read what comes; or stop sending and read; or hang up without reading."""
    requests: tuple[Request, ...] | None = None
    """Where each must be answered rightly."""
    statuses: frozenset[int] | None = None
    """Where the first answer, if any comes, has one of these."""

    def __str__(self) -> str:
        data = b"".join(self.parts)
        return f"{self.kind}, {self.end}, {len(data)} bytes in {len(self.parts)}: {data[:300]!r}"


def answers(data: bytes, *, heads: bool = False) -> tuple[list[Answer], bytes, str | None]:
    """Whole answers, the bytes behind them, and what is wrong with them.

    Args:
        data: what came.
        heads: whether answers to HEAD may be there, of which nothing but the head can be read.
    """
    found: list[Answer] = []
    while data:
        if heads and not data.startswith(b"HTTP/1.1 "):
            return found, b"", None
        head, blank, rest = data.partition(b"\r\n\r\n")
        if not b"HTTP/1.1 ".startswith(data[:9]) and not data.startswith(b"HTTP/1.1 "):
            return found, data, f"no HTTP: {data[:60]!r}"
        if not blank:
            return found, data, None
        first, *lines = head.split(b"\r\n")
        if len(first) < 12 or not first[9:12].isdigit() or any(b":" not in ln for ln in lines):
            return found, data, f"no head: {head[:200]!r}"
        status = int(first[9:12])
        if status == 100:
            data = rest
            continue
        pairs = [line.decode("latin-1").split(": ", 1) for line in lines]
        headers = {pair[0].lower(): pair[1] for pair in pairs}
        if sum(pair[0].lower() == "content-length" for pair in pairs) != 1:
            return found, data, f"no length: {head[:200]!r}"
        length = int(headers["content-length"])
        if heads:
            return [*found, Answer(status, headers, b"")], b"", None
        if len(rest) < length:
            return found, data, None
        found.append(Answer(status, headers, rest[:length]))
        data = rest[length:]
    return found, b"", None


def lawful(answer: Answer, path_known: bool = False) -> str | None:
    """What is wrong with an answer, whatever was asked."""
    status, headers, body = answer
    if status >= 500 and status not in (503, 504):
        return f"{status}: {body[:200]!r}"
    if status in (429, 503) and "retry-after" not in headers and b'"status"' not in body:
        return f"{status} without Retry-After"
    if status >= 400 and headers.get("content-type") == "application/json" and body:
        try:
            document = json.loads(body)
        except ValueError:
            return f"{status}: no JSON: {body[:200]!r}"
        if "status" not in document and not {"error", "message"} <= document.keys():
            return f"{status}: {body[:200]!r}"
    return None


class Ask:
    """Makes requests of every route, and cases of them; `rng` decides which."""

    def __init__(self, rng: np.random.Generator, port: int) -> None:
        self.rng, self.port, self._count = rng, port, 0

    def pick(self, *choices: bytes) -> bytes:
        return choices[self.rng.integers(len(choices))]

    def request(self, extra: bytes = b"", *, chunked: bool | None = None) -> Request:
        """A whole request with the status that it must have and what its answer must be."""
        self._count += 1
        name = f"r{self._count}"
        if self.rng.random() < 0.35:
            path, status, right = self._get()
            return self._whole(b"GET " + path, b"", b"", status, right, name, extra, False)
        target, kind, body, status, right = self._post()
        if chunked is None:
            chunked = self.rng.random() < 0.2
        return self._whole(
            b"POST " + target, b"Content-Type: " + kind, body, status, right, name, extra, chunked
        )

    def _get(self) -> tuple[bytes, int, Check]:
        known: list[tuple[bytes, int, Check]] = [
            (b"/healthz", 200, lambda body: body == b'{"status":"alive"}'),
            (b"/readyz", 200, lambda body: body == b'{"status":"ready"}'),
            (b"/metrics", 200, lambda body: b"crn_fast_waiting" in body),
            (b"/v1/labels", 200, lambda body: json.loads(body)["name"] == "camvid"),
            (b"/v1/model", 200, lambda body: json.loads(body)["backend"] == "stub"),
            (b"/openapi.json", 200, lambda body: "paths" in json.loads(body)),
            (b"/docs", 200, lambda body: body.startswith(b"<!doctype html>")),
            (b"/", 200, lambda body: body.startswith(b"<!doctype html>")),
            (b"/page/main.js", 200, lambda body: b"import" in body),
            (b"/page/%2e%2e/server.py", 404, lambda body: b"not_found" in body),
            (b"/nothing", 404, lambda body: b"not_found" in body),
            (b"/v1/render", 405, lambda body: b"method_not_allowed" in body),
        ]
        return known[self.rng.integers(len(known))]

    def _post(self) -> tuple[bytes, bytes, bytes, int, Check]:
        ids = self.rng.integers(0, 12, SIZE, dtype=np.uint8)
        as_png = self.rng.random() < 0.4
        body, kind = (png(ids), b"image/png") if as_png else (ids.tobytes(), RAW)
        k = int(self.rng.integers(3))
        choices: list[tuple[bytes, int, Check]] = [
            (b"/v1/layout", 200, lambda found: found == ids.tobytes()),
            (b"/v1/render?format=raw", 200, lambda found: found == picture(ids).tobytes()),
            (
                b"/v1/render?format=raw&k=%d" % k,
                200,
                lambda found: found == picture(ids, k).tobytes(),
            ),
            (
                b"/v1/render?format=raw&images=3",
                200,
                lambda found: found == b"".join(picture(ids, i).tobytes() for i in range(3)),
            ),
            (b"/v1/render", 200, lambda found: np.array_equal(pixels(found), picture(ids))),
            (b"/v1/render?k=3", 422, lambda found: b"the model makes 3" in found),
        ]
        path, status, right = choices[self.rng.integers(len(choices))]
        return path, kind, body, status, right

    def _whole(
        self,
        line: bytes,
        kind: bytes,
        body: bytes,
        status: int,
        right: Check,
        name: str,
        extra: bytes,
        chunked: bool,
    ) -> Request:
        lines = [line + b" HTTP/1.1", b"Host: localhost:%d" % self.port]
        lines += [b"X-Request-Id: " + name.encode(), *([kind] if kind else [])]
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
            body = self.chunks(body)
        elif kind:
            lines.append(b"Content-Length: %d" % len(body))
        lines += [extra] if extra else []
        return Request(b"\r\n".join([*lines, b"", b""]), body, status, right, name)

    def chunks(self, body: bytes) -> bytes:
        """The body in chunks, some with extensions, some with a trailer."""
        found, at = [], 0
        while at < len(body):
            size = int(self.rng.integers(1, 200))
            part = body[at : at + size]
            found.append(b"%x%b\r\n" % (len(part), self.pick(b"", b"", b";a=b")) + part + b"\r\n")
            at += size
        return b"".join(found) + b"0\r\n" + self.pick(b"", b"", b"X-Trailer: y\r\n") + b"\r\n"

    def split(self, data: bytes, most: int = 4) -> tuple[bytes, ...]:
        """Cut anywhere, up to every byte for itself."""
        count = int(self.rng.integers(1, most + 1)) if self.rng.random() < 0.95 else len(data) // 8
        cuts = sorted({int(cut) for cut in self.rng.integers(1, max(2, len(data)), count)})
        return tuple(data[a:b] for a, b in zip([0, *cuts], [*cuts, len(data)], strict=True))

    def case(self) -> Case:
        """One of the kinds, at random."""
        kinds = (
            *((self.in_pieces, 0.12), (self.pipelined, 0.12), (self.mangled, 0.24)),
            *((self.lying, 0.1), (self.bad_chunks, 0.06), (self.flood, 0.04)),
            *((self.strange, 0.08), (self.hesitant, 0.04), (self.gone, 0.1)),
            *((self.bad_body, 0.05), (self.bad_query, 0.05)),
        )
        weights = [weight for _, weight in kinds]
        return kinds[self.rng.choice(len(kinds), p=weights)][0]()

    def in_pieces(self) -> Case:
        one = self.request(self.pick(b"", b"", b"Connection: Upgrade\r\nUpgrade: h2c"))
        return Case("in pieces", self.split(one.data), requests=(one,))

    def pipelined(self) -> Case:
        some = tuple(self.request() for _ in range(self.rng.integers(2, 9)))
        data = b"".join(one.data for one in some)
        parts = self.split(data) if self.rng.random() < 0.5 else (data,)
        if self.rng.random() < 0.5:
            return Case("pipelined", parts, requests=some)
        after = self.pick(b"\x00\x01\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\xff" * 100)
        return Case("pipelined before garbage", (*parts, after), requests=some)

    def mangled(self) -> Case:
        data = bytearray(b"".join(self.request().data for _ in range(self.rng.integers(1, 4))))
        for _ in range(self.rng.integers(1, 6)):
            if not data:
                break
            at = int(self.rng.integers(len(data)))
            if self.rng.random() < 0.6:  # most of them in the first head
                at = int(self.rng.integers(min(200, len(data))))
            change = self.rng.integers(5)
            if change == 0:
                data[at] = self.rng.integers(256)
            elif change == 1:
                data[at] ^= 1 << int(self.rng.integers(8))
            elif change == 2:
                del data[at : at + int(self.rng.integers(1, 40))]
            elif change == 3:
                data[at:at] = self.rng.bytes(int(self.rng.integers(1, 20)))
            else:
                data[at:at] = data[at : at + int(self.rng.integers(1, 80))]
        return Case("mangled", self.split(bytes(data)), self._end())

    def lying(self) -> Case:
        """A body that is not as long as it says, or says it twice."""
        body = self.rng.integers(0, 12, SIZE, dtype=np.uint8).tobytes()
        hidden = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: %b\r\n\r\n" % (
            HIDDEN.encode()
        )
        size = len(body)
        said, sent, statuses = (
            (b"Content-Length: %d" % (size - 7), body, {422, 400}),
            (b"Content-Length: %d" % (size + 99), body, set[int]()),
            (b"Content-Length: %d" % 10**15, body, {413}),
            (b"Content-Length: %d" % 10**30, body, {400}),
            (b"Content-Length: -1", body, {400}),
            (b"Content-Length: +%d" % size, body, {400}),
            (b"Content-Length: %d, %d" % (size, size), body, {400}),
            (b"Content-Length: 0x%x" % size, body, {400}),
            (b"Content-Length: %d.0" % size, body, {400}),
            (b"Content-Length: %d\x0b" % size, body, {400}),
            (b"Content-Length:", body, {400}),
            (b"Content-Length: %d\r\nContent-Length: 3" % size, body, {400}),
            (b"Content-Length: %d\r\nContent-Length: %d" % (size, size), body, {400}),
            (b"Content-Length : %d" % size, body, {400}),
            (b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"0\r\n\r\n" + hidden, {400}),
            (b"Transfer-Encoding: chunked\r\nContent-Length: 5", b"0\r\n\r\n" + hidden, {400}),
            (b"Transfer-Encoding: xchunked", hidden, {400}),
            (b"Transfer-Encoding: chunked, identity", b"0\r\n\r\n" + hidden, {400}),
            (b"Transfer-Encoding : chunked", b"0\r\n\r\n" + hidden, {400}),
            (b"Transfer-Encoding:\x0bchunked", b"0\r\n\r\n" + hidden, {400}),
            (b"Transfer-Encoding:\r\n chunked", b"0\r\n\r\n" + hidden, {400}),
            (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: x", b"0\r\n\r\n" + hidden, {400}),
            (b"X: y\nTransfer-Encoding: chunked", b"0\r\n\r\n" + hidden, {400}),
            (b"X: y\rTransfer-Encoding: chunked", b"0\r\n\r\n" + hidden, {400}),
            (b"Content-Length: %d" % (size + len(hidden)), body + hidden, {422}),
        )[self.rng.integers(25)]
        head = b"POST /v1/render HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n%b\r\n\r\n"
        data = head % (RAW, said) + sent
        end = self._end() if self.rng.random() < 0.2 else "read"
        return Case("lying", self.split(data, 2), end, statuses=frozenset(statuses))

    def bad_chunks(self) -> Case:
        size = self.pick(
            *(b"-1", b"0x10", b"g", b"", b" 5", b"5 ", b"fffffffffffffffff", b"7fffffffffffffff"),
            *(b"5;" + b"a" * 300, b"5\n", b"+5", b"5\x00", b"\xef\xbc\x95"),
        )
        one = self.request(chunked=True)
        if b"chunked" not in one.head:
            return self.bad_chunks()
        cut = one.body.find(b"\r\n", int(self.rng.integers(len(one.body)))) + 2
        data = one.head + one.body[:cut] + size + b"\r\n" + self.rng.bytes(20)
        return Case("bad chunks", self.split(data), self._end())

    def flood(self) -> Case:
        count = int(self.rng.integers(1, 1 << 16))
        start = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n"
        data = self.pick(
            b"GET /" + b"a" * count,
            b"GET /page/" + b"../" * (count // 3) + b"x.js HTTP/1.1\r\nHost: localhost\r\n\r\n",
            b"POST /v1/render?" + b"k=1&" * (count // 4) + start[12:] + b"\r\n",
            start + b"X: " + b"a" * count + b"\r\n\r\n",
            start + b"X: y\r\n" * (count // 6) + b"\r\n",
            start + b"Cookie: " + b"a=b; " * (count // 5) + b"\r\n\r\n",
            b"GET /page/main.js HTTP/1.1\r\nHost: localhost\r\nRange: bytes="
            + b",".join([b"0-1"] * min(count // 4, 2000))
            + b"\r\n\r\n",
            b"\r\n" * count,
            (start + b"\r\n") * 300,
        )
        return Case("flood", (data,), self._end())

    def strange(self) -> Case:
        host = b"Host: localhost\r\n"
        data, statuses = (
            (b"\x00" * 64, {400}),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00", {400}),
            (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + self.rng.bytes(200), {400}),
            (b"\x05\x01\x00", {400}),
            (b"GET /healthz\r\n\r\n", {421}),
            (b"GET http://localhost/healthz HTTP/1.1\r\n" + host + b"\r\n", {200}),
            (b"GET http://evil.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n", {421}),
            (b"GET //evil.example/%2e%2e HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"GET /%00%ff%c0%ae%c0%ae HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"GET /page/%00.js HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"GET /page/%ed%a0%80.js HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"GET /page/" + b"%61" * 3000 + b".js HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"GET /%zz%%%1 HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"GET /healthz?%ff=%&&;;=%00 HTTP/1.1\r\n" + host + b"\r\n", {200}),
            (b"GET /healthz HTTP/1.1\nHost: localhost\n\n", {400}),
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", {400}),
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\x00: y\r\n\r\n", {400}),
            (b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nX: \x00\r\n\r\n", {400}),
            (b"get /healthz HTTP/1.1\r\n" + host + b"\r\n", {400}),
            (b"CONNECT localhost:80 HTTP/1.1\r\n" + host + b"\r\n", {400}),
            (b"TRACE /healthz HTTP/1.1\r\n" + host + b"\r\n", {405}),
            (b"OPTIONS * HTTP/1.1\r\n" + host + b"\r\n", {404}),
            (b"PROPFIND /v1/render HTTP/1.1\r\n" + host + b"\r\n", {405}),
            (b"HEAD /healthz HTTP/1.1\r\n" + host + b"\r\n", {405}),
            (b"GET /healthz HTTP/1.0\r\n\r\n", {421}),
            (b"GET /healthz HTTP/1.0\r\n" + host + b"\r\n", {200}),
            (b"GET /healthz HTTP/1.1\r\n\r\n", {421}),
            (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n", {400, 421}),
            (
                b"GET / HTTP/1.1\r\n"
                + host
                + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
                + b"Sec-WebSocket-Version: 13\r\n"
                + b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
                {200},
            ),
            (b"GET /healthz HTTP/1.1\r\n" + host + b"Expect: the-unexpected\r\n\r\n", {200}),
            (b"GET /page/main.js HTTP/1.1\r\n" + host + b"Range: bytes=9-1\r\n\r\n", {400, 416}),
            (
                b"GET /page/main.js HTTP/1.1\r\n" + host + b"If-Modified-Since: \xff\r\n\r\n",
                {200},
            ),
            (b"GET /healthz HTTP/1.1\r\n" + host + b"Accept: \xff;q=nan\r\n\r\n", {200}),
            (
                b"POST /v1/render HTTP/1.1\r\n"
                + host
                + b"Content-Type: multipart/form-data; boundary=x\r\n"
                + b"Content-Length: 5\r\n\r\n--x--",
                {415},
            ),
            (
                b"POST /v1/render HTTP/1.1\r\n"
                + host
                + b"Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{}",
                {415},
            ),
        )[self.rng.integers(35)]
        return Case("strange", self.split(data, 2), statuses=frozenset(statuses))

    def hesitant(self) -> Case:
        """Asks whether to go on; sends its body in any case, a little later."""
        one = self.request(b"Expect: 100-continue")
        return Case("hesitant", (one.head, one.body), requests=(one,))

    def gone(self) -> Case:
        """Hangs up somewhere, often while its picture is made."""
        data = b"".join(self.request().data for _ in range(self.rng.integers(1, 4)))
        if self.rng.random() < 0.5:
            data = data[: self.rng.integers(1, len(data))]
        return Case("gone", self.split(data), "reset" if self.rng.random() < 0.7 else "half")

    def bad_body(self) -> Case:
        ids = self.rng.integers(0, 12, SIZE, dtype=np.uint8)
        data = bytearray(png(ids))
        change = self.rng.integers(5)
        if change == 0:
            data = data[: self.rng.integers(len(data))]
        elif change == 1:
            data[16:24] = self.rng.bytes(8)
        elif change == 2:
            data = bytearray(self.rng.bytes(int(self.rng.integers(2000))))
        else:
            for _ in range(self.rng.integers(1, 4)):
                data[self.rng.integers(len(data))] ^= 1 << int(self.rng.integers(8))
        head = (
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        )
        path = self.pick(b"/v1/render", b"/v1/layout", b"/v1/layout?fit=nearest&unknown=void")
        kind = self.pick(b"image/png", b"image/png", RAW, b"IMAGE/PNG; a=b")
        return Case(
            "bad body",
            self.split(head % (path, kind, len(data)) + data),
            statuses=frozenset({200, 413, 422}),
        )

    def bad_query(self) -> Case:
        names = (
            *(b"k", b"images", b"compose", b"seam", b"format", b"quality", b"preview", b"labels"),
            *(b"encoding", b"unknown", b"fit", b"name", b"height", b"width", b"token", b"%00"),
        )
        values = (
            *(
                b"",
                b"0",
                b"1",
                b"-1",
                b"3",
                b"99999999999999999999",
                b"1e9",
                b"nan",
                b"%00",
                b"%ff",
            ),
            *(b"true", b"raw", b"png", b"ids", b"color", b"nearest", b"void", b"camvid", b"ade20k"),
            *(
                b"cityscapes",
                b"car=1",
                b"car=1,road=2",
                b"car%3d1,,",
                b"../../etc/passwd",
                b"%0d%0a",
            ),
            *(b"x" * 5000, b"%f0%9f%98%80", b"16", b"24", b"16384", b"100", b"_labelIds.png"),
        )
        pairs = [
            self.pick(*names) + b"=" + self.pick(*values) for _ in range(self.rng.integers(1, 6))
        ]
        path = self.pick(b"/v1/render?", b"/v1/layout?") + b"&".join(pairs)
        ids = self.rng.integers(0, 12, SIZE, dtype=np.uint8)
        kind, body = (RAW, ids.tobytes()) if self.rng.random() < 0.5 else (b"image/png", png(ids))
        head = (
            b"POST %b HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n"
        )
        data = head % (path, kind, len(body)) + body
        return Case("bad query", (data,), statuses=frozenset({200, 413, 422}))

    def _end(self) -> Literal["half", "reset"]:
        return "reset" if self.rng.random() < 0.2 else "half"


RAW = b"application/octet-stream"


def png(ids: np.ndarray) -> bytes:
    stream = BytesIO()
    Image.fromarray(ids).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(data)))


async def converse(port: int, case: Case) -> str | None:
    """Send a case's bytes; what is wrong with what comes back, or does not come."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError as error:
        return f"{case}: cannot connect: {error}"
    try:
        data = b""
        try:
            for part in case.parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0)
            if case.kind == "hesitant":
                await asyncio.sleep(0)
            if case.end == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, linger
                )
                return None
            data, ended = await _read(reader, writer, case)
        except ConnectionError:
            ended = True  # it hung up while we were still sending
            data += await _rest(reader)
        if not ended:
            return f"{case}: the connection stays open after {data[:200]!r}"
        wrong = _judge(case, data)
        return wrong and f"{case}: {wrong}"
    finally:
        writer.close()


async def _read(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, case: Case
) -> tuple[bytes, bool]:
    """What comes, and whether the conversation ended as it should."""
    data, since = b"", asyncio.get_running_loop().time()
    wanted = len(case.requests) if case.requests is not None else 1 if case.statuses else 0
    heads = b"HEAD " in b"".join(case.parts)
    half = case.end == "half"
    if half:
        await asyncio.sleep(QUIET)
        _stop_sending(writer)
    while asyncio.get_running_loop().time() - since < PATIENCE:
        try:
            part = await asyncio.wait_for(reader.read(1 << 20), QUIET if not wanted else 1)
        except TimeoutError:
            if not half and not wanted:
                half = True
                _stop_sending(writer)
            continue
        except ConnectionError:
            return data, True
        if not part:
            return data, True
        data += part
        found, rest, wrong = answers(data, heads=heads)
        if wrong or (wanted and len(found) >= wanted and not rest):
            return data, True
    return data, False


def _stop_sending(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):  # it has hung up
        writer.write_eof()


async def _rest(reader: asyncio.StreamReader) -> bytes:
    try:
        return await asyncio.wait_for(reader.read(1 << 20), 1)
    except (TimeoutError, OSError):
        return b""


def _judge(case: Case, data: bytes) -> str | None:
    found, rest, wrong = answers(data, heads=b"HEAD " in b"".join(case.parts))
    if wrong or rest:
        return wrong or f"half an answer: {rest[:200]!r}"
    for answer in found:
        if wrong := lawful(answer):
            return wrong
    names = [answer.headers.get("x-request-id", "") for answer in found]
    if HIDDEN in names:
        return f"a hidden request was answered: {names}"
    numbers = [int(name[1:]) for name in names if name[:1] == "r" and name[1:].isdigit()]
    if numbers != sorted(numbers) and case.kind != "mangled":  # which may have mangled the ids
        return f"out of order: {names}"
    if case.requests is not None:
        if len(found) < len(case.requests):
            return f"{len(found)} of {len(case.requests)} answers"
        for one, answer in zip(case.requests, found, strict=False):
            if answer.status != one.status or answer.headers.get("x-request-id") != one.id:
                return f"{answer.status} to {one.data[:200]!r}: {answer.body[:200]!r}"
            if not one.right(answer.body):
                return f"the wrong answer to {one.data[:200]!r}: {answer.body[:100]!r}"
    elif case.statuses and found and found[0].status not in case.statuses:
        return f"{found[0].status}, not {set(case.statuses)}: {found[0].body[:200]!r}"
    return None


def cases(rng: np.random.Generator, port: int, count: int) -> Iterator[Case]:
    ask = Ask(rng, port)
    return (ask.case() for _ in range(count))
