"""uvicorn's HTTP/1.1 with time limits and a size limit on headers, which it does not have itself.

A client has a fixed time for its headers, again for its body, and again whenever it must read what
was sent. Dripping bytes does not extend it. What is not HTTP is answered 400 and closed.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

MAX_HEAD = 1 << 16
"""Bytes of a request's line and headers."""


class PatientProtocol(HttpToolsProtocol):
    """Patient up to `client_timeout` seconds; made for one server by `patient`."""

    client_timeout = 15.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._reading: asyncio.TimerHandle | None = None
        self._writing: asyncio.TimerHandle | None = None
        self._fed = self._body = 0  # bytes of this message; those of them that are body

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that every unread byte stands under the timer
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_reading_timer()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self.transport.is_closing():
            return
        if self._reading is None:
            self._expect()
        self._fed += len(data)
        super().data_received(data)
        # Whatever is not body is headers, trailers or the framing of chunks.
        if self._fed - self._body > MAX_HEAD + 8 * self._body and not self.transport.is_closing():
            self.send_error(431, "request_header_fields_too_large", "more headers than are read")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._fed = self._body = 0

    def on_headers_complete(self) -> None:
        self._expect()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._body += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._stop_reading_timer()
        self._fed = self._body = 0
        super().on_message_complete()

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._writing is None:
            self._writing = self.loop.call_later(self.client_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        if self._writing is not None:
            self._writing.cancel()
            self._writing = None
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        self.send_error(400, "bad_request", "this is no HTTP request")

    def send_error(self, status: int, code: str, message: str) -> None:
        """Answer where no request can be made out, and hang up."""
        body = b'{"error": "%b", "message": "%b"}\n' % (code.encode(), message.encode())
        head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.transport.write(STATUS_LINE[status] + head % len(body) + body)
        self.transport.close()

    def _expect(self) -> None:
        self._stop_reading_timer()
        self._reading = self.loop.call_later(self.client_timeout, self.transport.abort)

    def _stop_reading_timer(self) -> None:
        if self._reading is not None:
            self._reading.cancel()
            self._reading = None


def patient(client_timeout: float) -> type[PatientProtocol]:
    """The protocol with that many seconds of patience."""
    return type("Patient", (PatientProtocol,), {"client_timeout": client_timeout})
