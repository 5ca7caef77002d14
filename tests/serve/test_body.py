"""What all bodies together may hold, and for how long."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

from starlette.requests import Request

from crn_fast.serve import api
from crn_fast.serve.body import RAW, Reader
from crn_fast.serve.refusal import Refusal
from crn_fast.serve.settings import Settings
from serving import layouts, running, until
from stub_engine import Stub


def request(size: int) -> Request:
    """One whose body is so many zeros, in two parts."""
    parts = [bytes(size // 2), bytes(size - size // 2)]

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    return Request({"type": "http", "headers": [(b"content-type", RAW.encode())]}, receive)


def test_bodies_count_until_they_are_let_go() -> None:
    async def work() -> None:
        reader = Reader(Settings(body_memory=1000))
        async with reader.read(request(600)) as data, reader.read(request(400)):
            assert data == bytes(600)
            with pytest.raises(Refusal, match="too many bodies"):
                await reader.read(request(2)).__aenter__()
        async with reader.read(request(1000)) as data:
            assert len(data) == 1000

    # In a thread: the browser's tests leave this one with a loop that runs.
    with ThreadPoolExecutor(1) as pool:
        pool.submit(asyncio.run, work()).result()


def test_the_server_holds_a_body_while_it_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, begun, go_on = layouts(2), threading.Event(), threading.Event()
    decode, readers = api._decode, list[Reader]()

    def slow(service: api.Service, *arguments: Any) -> Any:
        readers.append(service.reader)
        begun.set()
        assert go_on.wait(10)
        return decode(service, *arguments)

    monkeypatch.setattr(api, "_decode", slow)
    with running(Stub(0.5), body_memory=ids[0].size + 100, max_batch=1) as server:
        statuses: list[int] = []
        first = threading.Thread(target=lambda: statuses.append(server.render(ids[0]).status))
        first.start()
        try:
            assert begun.wait(10)
            refused = server.render(ids[1])
            assert refused.status == 503 and b'"body_memory"' in refused.body
        finally:
            go_on.set()
        # Once decoded it is given back, while the first is still being rendered.
        until(lambda: readers[0]._held == 0)
        assert server.metric("crn_fast_waiting") == 1
        first.join()
        assert statuses == [200]
