"""A server with a stub for an engine, in a process of its own: what campaigns and load runs attack.

    python tests/stub_server.py '{"stub": {"delay": 0.1}, "settings": {"max_queue": 8}}'

Prints its URL, and ends on SIGTERM. `defect` names one that is planted, for a campaign to notice:
a server that passes the campaign with it would pass with anything.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parent))

import numpy as np
from starlette.responses import Response

from crn_fast.serve import api, batching, guard, protocol, server
from crn_fast.serve.guard import Guard
from crn_fast.serve.refusal import Refusal
from crn_fast.serve.server import Server, listen, url_of
from crn_fast.serve.settings import Settings
from live import tell_when_asked
from stub_engine import Stub

KEPT: list[bytes] = []
"""What a leak keeps."""


def leak() -> None:
    """Keeps 200 bytes of each request, and leaves a file open for each tenth."""

    def work() -> None:
        KEPT.append(os.urandom(200))
        if len(KEPT) % 10 == 0:
            os.open(os.devnull, os.O_RDONLY)

    _after_each(work)


def crossed() -> None:
    """Gives the pictures of a batch to each other's requests."""
    fine = batching.EngineProcess.render

    def render(self: Any, index: int, labels: list[np.ndarray]) -> list[np.ndarray]:
        return fine(self, index, labels)[::-1]

    batching.EngineProcess.render = render  # type: ignore[method-assign]


def unguarded() -> None:
    """Lets everybody in, and names whoever asks as allowed."""
    guard.Guard._check = lambda self, path, headers: None  # type: ignore[method-assign]


def impatient() -> None:
    """Never cuts a slow client off."""
    protocol.PatientProtocol._expect = lambda self: None  # type: ignore[method-assign]
    protocol.PatientProtocol.pause_writing = (  # type: ignore[method-assign]
        lambda self: protocol.HttpToolsProtocol.pause_writing(self)
    )


def bare() -> None:
    """Speaks HTTP as uvicorn does by itself."""
    server.patient = lambda *limits: protocol.HttpToolsProtocol  # type: ignore[assignment]


def fragile() -> None:
    """Answers 500 to what cannot be read."""
    api.decode = lambda *arguments, **more: 1 // 0  # type: ignore[assignment]


def lenient() -> None:
    """Answers 200 where a parameter is wrong."""

    async def fine(request: object, error: Exception) -> Response:
        return Response(b"", 200, media_type="image/png")

    server._on_bad_parameter = fine  # type: ignore[assignment]


def curt() -> None:
    """Refuses without saying when to come again."""
    batching.busy = lambda status, message, code, seconds: Refusal(status, message, code)


DEFECTS: dict[str, Callable[[], None]] = {
    defect.__name__: defect
    for defect in (
        leak,
        crossed,
        unguarded,
        impatient,
        bare,
        fragile,
        lenient,
        curt,
    )
}


def _after_each(work: Callable[[], None]) -> None:
    fine = Guard.__call__

    async def call(self: Any, scope: Any, receive: Any, send: Any) -> None:
        await fine(self, scope, receive, send)
        work()

    Guard.__call__ = call  # type: ignore[method-assign]


def main(stub: dict[str, Any], settings: dict[str, Any], defect: str | None = None) -> None:
    if defect:
        DEFECTS[defect]()
    if "size" in stub:
        stub["size"] = tuple(stub["size"])
    if "names" in settings:
        settings["names"] = tuple(settings["names"])
    chosen = Settings(**settings)
    bound = listen(chosen)
    found = Server(chosen, Stub(**stub), bound)
    tell_when_asked()
    print(url_of(bound), flush=True)
    found.run()


def begin() -> None:
    main(**json.loads(sys.argv[1]))


if __name__ == "__main__":
    begin()
