"""uvicorn's HTTP/1.1 with limits of time and size, which it does not have itself.

A client has a fixed time for its headers, again for its body, and again whenever it must read what
was sent. Dripping bytes does not extend it. What is not HTTP is answered 400 and closed, when the
requests before it have been answered. Requests that come before the one ahead of them is answered
are few, and no more is read meanwhile. An offer to go on in another protocol is not heard.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Sized
from socket import SO_LINGER, SOL_SOCKET
from typing import Any, ClassVar

import httptools
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

MAX_HEAD = 1 << 16
"""Bytes of a request's line and headers."""
MAX_AHEAD = 32
"""Requests that may wait on one connection for those before them."""


class PatientProtocol(HttpToolsProtocol):
    """Patient up to `client_timeout` seconds; made for one server by `patient`."""

    client_timeout = 15.0
    unread_memory = 256 << 20
    slow: ClassVar[dict[PatientProtocol, None]] = {}
    """The server's connections whose clients have something to read, the slowest first."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._fed = self._body = 0  # bytes of this message; those of them that are body
        self._open = False  # between the headers of a message and its end
        self._plain = b""  # the head of this message without its offer of another protocol
        self._under_way = 0  # requests that are not answered
        self._answering: RequestResponseCycle | None = None  # the first of them
        self._farewell: bytes | None = None  # what is said after their answers

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        transport.set_write_buffer_limits(0)  # so that every unread byte stands under the timer
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_reading_timer()
        self.resume_writing()
        self.pipeline.clear()
        self._unset_keepalive_if_required()  # uvicorn's stays, and holds all, after a reset
        super().connection_lost(exc)

    def eof_received(self) -> bool:  # type: ignore[override]
        """Whether to stay, though the client sends no more: until its answer is whole."""
        answering = self._answering
        if answering is None or answering.response_complete:
            return False
        if self._open and answering is self.cycle:  # which lacks the end of its question
            return False
        self.pipeline.clear()
        answering.keep_alive = False
        return answering.response_started

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing() or self._farewell is not None:
            return
        if self._reading is None:
            self._expect()
        self._unset_keepalive_if_required()
        self._fed += len(data)
        self._parse(data)
        # Whatever is not body is headers, trailers or the framing of chunks.
        if self._fed - self._body > MAX_HEAD + 8 * self._body and not self.transport.is_closing():
            self.send_error(431, "request_header_fields_too_large", "more headers than are read")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fed = self._body = 0

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_AHEAD:
            raise ValueError("too many requests at once")
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise ValueError("this is no proxy")
        if self.parser.should_upgrade():
            version = self.parser.get_http_version().encode()
            lines = [method + b" " + self.url + b" HTTP/" + version]
            lines += [name + b": " + value for name, value in self.headers if name != b"upgrade"]
            self._plain = b"\r\n".join([*lines, b"", b""])
            return
        self._expect()
        super().on_headers_complete()
        self._open = True
        self._under_way += 1

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self._plain:
            return
        self._stop_reading_timer()
        self._fed = self._body = 0
        self._open = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        self._under_way -= 1
        super().on_response_complete()
        self.flow.resume_reading()
        if self._farewell is not None and not self._under_way:
            self._hang_up(self._farewell)

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.client_timeout, self._cut_off)
            self.slow[self] = None
            unread = sum(other.transport.get_write_buffer_size() for other in self.slow)
            for other in list(self.slow):
                if unread <= self.unread_memory:
                    break
                unread -= other.transport.get_write_buffer_size()
                other._cut_off()

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
            self.slow.pop(self, None)
        super().resume_writing()

    def send_error(self, status: int, code: str, message: str) -> None:
        """Answer where no request can be made out, and hang up; first those before are answered."""
        body = b'{"error": "%b", "message": "%b"}\n' % (code.encode(), message.encode())
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        farewell = STATUS_LINE[status] + head % len(body) + body
        before = self._under_way
        if self._open:  # the request of this body gets this answer, if it has none
            if self.pipeline:
                self.pipeline.popleft()
                before -= 1
            else:
                before -= not self.cycle.response_complete
                farewell = b"" if self.cycle.response_started else farewell
        if before:
            self._under_way = before
            self._farewell = farewell
        else:
            self._hang_up(farewell)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def _parse(self, data: bytes) -> None:
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as offer:
                    data = self._plain + data[offer.args[0] :]
                    self._plain = b""
        except httptools.HttpParserError:
            if len(self.pipeline) >= MAX_AHEAD:
                self.send_error(400, "too_many_requests", "too many requests before an answer")
            else:
                self.send_error(400, "bad_request", "this is no HTTP request")

    def _hang_up(self, farewell: bytes) -> None:
        self.transport.write(farewell)
        self.transport.close()
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()

    def _expect(self) -> None:
        self._stop_reading_timer()
        self._reading = self.loop.call_later(self.client_timeout, self._too_late)

    def _too_late(self) -> None:
        if self.flow.read_paused:  # it is we who do not read
            self._expect()
        else:
            self._cut_off()

    def _cut_off(self) -> None:
        """Drop the connection, and what the system holds of it for a client that does not read."""
        linger = struct.pack("ii", 1, 0)
        self.transport.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, linger)
        self.transport.abort()

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


class _Flow(FlowControl):
    """Reads no more from a client whose requests wait for each other."""

    def __init__(self, transport: asyncio.Transport, ahead: Sized) -> None:
        super().__init__(transport)
        self._ahead = ahead

    def resume_reading(self) -> None:
        if not self._ahead:
            super().resume_reading()


def patient(client_timeout: float, unread_memory: int) -> type[PatientProtocol]:
    """The protocol with that many seconds of patience, and bytes for what clients do not read.

    Where they are more, those that have had the longest to read are cut off.
    """
    limits = {"client_timeout": client_timeout, "unread_memory": unread_memory, "slow": {}}
    return type("Patient", (PatientProtocol,), limits)
