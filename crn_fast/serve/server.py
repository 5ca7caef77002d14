"""The server as a whole: engine process, queue, routes and page around one socket."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from crn_fast import __version__
from crn_fast.errors import ResourceError, UsageError
from crn_fast.serve import api, static
from crn_fast.serve.batching import Queue
from crn_fast.serve.body import Reader
from crn_fast.serve.guard import Guard, is_loopback
from crn_fast.serve.metrics import Metrics
from crn_fast.serve.process import Died, EngineProcess
from crn_fast.serve.protocol import patient
from crn_fast.serve.refusal import Refusal, respond
from crn_fast.serve.settings import Settings
from crn_fast.serve.worker import Engines, Facts

PATIENCE = 300.0
"""Seconds for a batch, beyond which the engine process hangs."""

_MMAP_THRESHOLD = -3
"""M_MMAP_THRESHOLD of mallopt(3)."""


def listen(settings: Settings) -> socket.socket:
    """The socket that the server will answer on.

    Raises:
        UsageError: others could reach the address, and there is no token.
        ResourceError: it cannot be listened on.
    """
    if not is_loopback(settings.host) and not settings.token:
        raise UsageError(
            f"--host {settings.host}: others could use this server; give it a secret with "
            "--token-file FILE, or leave --host out"
        )
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # By name, or asyncio does not know that it is TCP, and each answer waits for an ACK.
        found = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind((settings.host, settings.port))
        # Deeper than the default, so that a burst is refused by us and not by the system.
        found.listen(2048)
    except OSError as error:
        raise ResourceError(
            f"{settings.host} port {settings.port}: cannot be listened on "
            f"({error.strerror or error}); take another port, or any: `--port 0`"
        ) from None
    return found


def url_of(bound: socket.socket) -> str:
    """Where the server is found by a browser on this machine."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


class Server:
    """One server; `run` returns when it has been told to stop and has finished its work.

    Args:
        settings: what to serve, and how.
        opener: gives the engines, in the engine process; pickled.
        bound: from `listen`.

    Raises:
        CrnError: the engines cannot be opened.
        ResourceError: the engine process ended while it started.
    """

    def __init__(
        self, settings: Settings, opener: Callable[[], Engines], bound: socket.socket
    ) -> None:
        self.settings, self.bound = settings, bound
        self.process = EngineProcess(opener, settings.max_batch, PATIENCE)
        try:
            self.process.start()
        except Died:
            raise ResourceError(
                "the engine process ended as it started; is there memory enough for the model?"
            ) from None
        self.metrics = Metrics()
        config = uvicorn.Config(
            self._app(),
            http=patient(settings.client_timeout, settings.answer_memory),
            ws="none",
            loop="asyncio",
            lifespan="on",  # not to go on where it fails
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_keep_alive=15,
            timeout_graceful_shutdown=5,
        )
        self._uvicorn = _Uvicorn(config)
        self._interrupted = 0

    @property
    def facts(self) -> tuple[Facts, ...]:
        """Of the model and its preview."""
        return self.process.facts

    @property
    def batch(self) -> int:
        """Layouts that are rendered at once, at most."""
        return self.process.batch

    def run(self) -> None:
        """Serve until SIGTERM, Ctrl-C or `stop`; then finish what is waiting.

        Raises:
            KeyboardInterrupt: Ctrl-C ended it, in good order.
        """
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)
        _return_what_is_freed()
        gc.collect()
        gc.freeze()  # or each full collection goes through all modules, and nobody is answered
        try:
            asyncio.run(self._run())
        finally:
            gc.unfreeze()
            self.process.stop()
            self.bound.close()
        if self._interrupted:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Finish what is waiting, then end `run`; from any thread, or a signal's handler."""
        with suppress(RuntimeError):  # it has ended already
            self._loop.call_soon_threadsafe(self._drain.set)

    async def _run(self) -> None:
        self._loop, self._drain = asyncio.get_running_loop(), asyncio.Event()
        with _signals(self._on_signal):
            serving = asyncio.create_task(self._uvicorn.serve(sockets=[self.bound]))
            draining = asyncio.create_task(self._finish())
            await serving
            draining.cancel()

    async def _finish(self) -> None:
        await self._drain.wait()
        queue = self.queue
        queue.draining = True
        # The socket stays open meanwhile, so that /readyz can say what is going on.
        while queue.waiting:
            await asyncio.sleep(0.02)
        self._uvicorn.should_exit = True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self._interrupted += 1
            if self._interrupted > 1:
                self._uvicorn.should_exit = self._uvicorn.force_exit = True
        self.stop()

    def _app(self) -> Guard:
        settings = self.settings

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            self.queue = Queue(self.process, settings.max_queue, settings.window, self.metrics)
            threads = ThreadPoolExecutor(2, "coding")
            app.state.service = api.Service(
                *(settings, self.facts, self.queue),
                *(Reader(settings), self.metrics, threads),
            )
            rendering = asyncio.create_task(self.queue.run())
            try:
                yield
            finally:
                rendering.cancel()
                await asyncio.gather(rendering, return_exceptions=True)
                threads.shutdown()

        app = FastAPI(
            title="crn_fast",
            version=__version__,
            summary="Photographs from semantic layouts.",
            lifespan=lifespan,
            docs_url=None,
            redoc_url=None,
            openapi_url="/openapi.json",
        )
        app.include_router(api.routes)
        static.mount(app, with_paint=settings.ui)
        app.add_exception_handler(Refusal, _on_refusal)
        app.add_exception_handler(HTTPException, _on_http_error)
        app.add_exception_handler(RequestValidationError, _on_bad_parameter)
        app.add_exception_handler(ClientDisconnect, _on_disconnect)
        app.add_exception_handler(Exception, _on_bug)
        return Guard(app, settings, self.metrics, lambda: self.queue.check())


async def _on_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return respond(error, request.state.request_id)


async def _on_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {404: "there is nothing here; see /docs", 405: "this cannot be asked in that way"}
    message = known.get(error.status_code, str(error.detail))
    refusal = Refusal(error.status_code, message, headers=dict(error.headers or {}))
    return respond(refusal, request.state.request_id)


async def _on_bad_parameter(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where, given = ".".join(map(str, first["loc"][1:])), repr(first.get("input"))[:80]
    refusal = Refusal(422, f"?{where}={given}: {first['msg']}; see /docs", "bad_parameter")
    return respond(refusal, request.state.request_id)


async def _on_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=499)  # nobody reads it


async def _on_bug(request: Request, error: Exception) -> Response:
    refusal = Refusal(500, "a bug of ours; the server's log says more, by the request's id")
    return respond(refusal, request.state.request_id)


def _return_what_is_freed() -> None:
    """Have glibc give large blocks back to the system when they are freed.

    By itself it begins, after the first large picture, to keep blocks of up to 32 MB, in pieces
    between those in use: several times what the requests hold.
    """
    with suppress(AttributeError, TypeError):  # another system, or another library of C
        ctypes.CDLL(None).mallopt(_MMAP_THRESHOLD, 1 << 18)


class _Uvicorn(uvicorn.Server):
    """Leaves the signals to `Server`."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextmanager
def _signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Handle SIGTERM and Ctrl-C meanwhile, where a thread may: in the main one."""
    try:
        before = {number: signal.signal(number, handler) for number in (15, 2)}
    except ValueError:
        before = {}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
