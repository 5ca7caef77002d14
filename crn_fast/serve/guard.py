"""Who may ask: the middleware around everything. Host, Origin, token, request ids, safe headers.

Where a server listens beyond this machine, any address of numbers is a name of it: such an address
cannot be rebound, as a name of the DNS can.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import logging
import re
import socket
import time
import uuid
from collections.abc import Callable

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crn_fast import localhost
from crn_fast.serve.metrics import Metrics
from crn_fast.serve.refusal import Refusal, respond
from crn_fast.serve.settings import Settings

log = logging.getLogger("crn_fast.serve")

GUARDED = ("/v1/", "/metrics")
"""What needs the token. The page, its files and the health checks tell nothing."""
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HEADERS = [
    *((name.lower().encode(), value.encode()) for name, value in localhost.HEADERS.items()),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
        b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
]


class Guard:
    """Args:
    app: what is guarded.
    settings: host, names and token.
    metrics: told of each answer.
    busy: raises a refusal where no work is taken, so that refusing costs next to nothing.
    """

    def __init__(
        self, app: ASGIApp, settings: Settings, metrics: Metrics, busy: Callable[[], None]
    ) -> None:
        self._app, self._metrics, self._busy = app, metrics, busy
        self._max_body = settings.max_body
        self._token = _digest(settings.token) if settings.token else None
        self._names = {
            *localhost.NAMES,
            settings.host.lower(),
            *(n.lower() for n in settings.names),
        }
        self._any_address = not is_loopback(settings.host)
        if self._any_address:
            self._names.add(socket.gethostname().lower())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        request_id = headers.get("x-request-id", "")
        if not _REQUEST_ID.fullmatch(request_id):
            request_id = uuid.uuid4().hex
        scope["state"]["request_id"] = request_id
        since, status, read = time.perf_counter(), 0, 0
        unread = True

        async def listen() -> Message:
            nonlocal unread, read
            message = await receive()
            read += len(message.get("body", b""))
            unread = unread and message.get("more_body", False)
            return message

        async def tell(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [
                    *message.get("headers", []),
                    *_HEADERS,
                    (b"x-request-id", request_id.encode()),
                ]
                if unread and "expect" in headers:
                    # Whether its client will still send the body is not to be known.
                    message["headers"].append((b"connection", b"close"))
            elif unread and not message.get("more_body", False):
                # The answer at once, then the rest of the question: a connection that closes on
                # unread bytes takes the answer with it.
                await send({**message, "more_body": True})
                while unread and read <= self._max_body:
                    await listen()
                message = {"type": "http.response.body"}
            await send(message)

        try:
            self._check(scope["path"], headers)
            if scope["path"] == "/v1/render" and scope["method"] == "POST":
                self._busy()
            await self._app(scope, listen, tell)
        except Refusal as refusal:
            await respond(refusal, request_id)(scope, listen, tell)
        except Exception:
            log.exception("request %s", request_id)
            if status:
                raise
            bug = Refusal(500, "a bug of ours; the server's log says more, by the request's id")
            await respond(bug, request_id)(scope, listen, tell)
        finally:
            # The route's own path, so that no stranger decides how many series there are.
            route = getattr(scope.get("route"), "path", "none")
            self._metrics.requests.labels(route, status).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - since)

    def _check(self, path: str, headers: Headers) -> None:
        found = localhost.foreign(
            headers.getlist("host"),
            headers.getlist("origin"),
            headers.getlist("sec-fetch-site"),
            lambda name: name in self._names or (self._any_address and _address(name) is not None),
            page=not path.startswith(GUARDED),
        )
        if found is not None:
            raise Refusal(found.status, found.message, found.code)
        if self._token and path.startswith(GUARDED):
            all_given = headers.getlist("authorization")
            kind, _, given = (all_given[0] if len(all_given) == 1 else "").partition(" ")
            # Digests, so that the time taken tells neither content nor length.
            if kind.lower() != "bearer" or not hmac.compare_digest(_digest(given), self._token):
                raise Refusal(
                    401,
                    "the token is missing or wrong; send Authorization: Bearer TOKEN",
                    headers={"WWW-Authenticate": "Bearer"},
                )


def is_loopback(host: str) -> bool:
    """Whether an address to listen on can be reached from this machine only."""
    address = _address(host)
    return host == "localhost" or (address is not None and address.is_loopback)


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
