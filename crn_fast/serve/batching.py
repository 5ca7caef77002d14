"""The bounded queue before the engine: deadlines, batches, refusals, and nothing rendered in vain.

No more is rendered while more pictures than a batch has wait to be encoded, as they are large.

A request that is answered late, or whose client has left, leaves the queue at once. One whose batch
dies with the engine process is refused, never tried again: it may be what killed it.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from crn_fast.errors import CrnError
from crn_fast.serve.metrics import Metrics
from crn_fast.serve.process import Died, EngineProcess
from crn_fast.serve.refusal import Refusal, busy, of_error

T = TypeVar("T")

_PULSE = 0.5
"""Seconds between looks at an idle process."""
_RESTART_LIMIT = 10.0
"""Longest pause between two tries to restart, in seconds."""


@dataclass(eq=False)
class Place:
    """One request's in the queue."""

    engine: int = field(init=False)
    labels: np.ndarray = field(init=False)
    done: asyncio.Future[np.ndarray] = field(
        default_factory=lambda: asyncio.get_running_loop().create_future()
    )


class Queue:
    """Args:
    process: has been started.
    max_queue: requests that may be here, those being decoded with them.
    window: seconds that a layout waits for company.
    metrics: told what happens.
    """

    def __init__(
        self, process: EngineProcess, max_queue: int, window: float, metrics: Metrics
    ) -> None:
        self._process, self._max_queue, self._window = process, max_queue, window
        self._metrics = metrics
        self._line: deque[Place] = deque()
        self._arrival = asyncio.Event()
        self._made: set[Place] = set()  # whose pictures are here
        self._left = asyncio.Event()
        self._places = 0
        self._thread = ThreadPoolExecutor(1, "engine")
        self._seconds = 0.1  # of a layout in its batch, lately
        self.ready = True
        self.draining = False

    @contextmanager
    def place(self) -> Iterator[Place]:
        """Hold a place in the queue, from before a layout is decoded until its answer is made.

        Raises:
            Refusal: there is none.
        """
        self.check()
        self._places += 1
        self._metrics.waiting.set(self._places)
        place = Place()
        try:
            yield place
        finally:
            self._made.discard(place)
            self._left.set()
            self._places -= 1
            self._metrics.waiting.set(self._places)

    def check(self) -> None:
        """Refuse now what would be refused later."""
        if self.draining:
            raise busy(503, "the server is shutting down; try again later", "draining", 5)
        if self._places >= self._max_queue:
            raise busy(
                429,
                f"{self._places} requests are waiting, as many as may; try again later",
                "queue_full",
                self._places * self._seconds,
            )

    @property
    def waiting(self) -> int:
        return self._places

    async def render(self, place: Place, engine: int, labels: np.ndarray) -> np.ndarray:
        """Pictures uint8 [K, H, W, 3] of one layout uint8 [H, W] of that engine's size.

        When the caller is cancelled, so is this, and a layout that still waits is not rendered.

        Raises:
            Refusal: the engine could not.
        """
        place.engine, place.labels = engine, labels
        self._line.append(place)
        self._arrival.set()
        try:
            return await place.done
        finally:
            place.done.cancel()
            if place in self._line:
                self._line.remove(place)

    async def run(self) -> None:
        """Make batches and render them, until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._arrival.wait(), _PULSE)
                if not self._process.alive:
                    await self._restart()
                while len(self._made) > self._process.batch:
                    self._left.clear()
                    await self._left.wait()
                if batch := await self._next_batch():
                    await self._render(batch)
                    del batch  # or its pictures stay until the next
        finally:
            await asyncio.shield(self._in_thread(self._process.stop))
            self._thread.shutdown(wait=False)

    async def _render(self, batch: list[Place]) -> None:
        labels = [place.labels for place in batch]
        since = time.perf_counter()
        try:
            pictures = await self._in_thread(self._process.render, batch[0].engine, labels)
        except Died:
            _fail(batch, busy(503, "the engine process died", "engine_died", 2))
            await self._restart()
        except CrnError as error:
            _fail(batch, of_error(error))
        except Exception as error:
            _fail(batch, busy(503, f"rendering failed ({error})", "engine_failed", 2))
        else:
            seconds = time.perf_counter() - since
            self._seconds += 0.2 * (seconds / len(batch) - self._seconds)
            self._metrics.batch_size.observe(len(batch))
            self._metrics.render_seconds.observe(seconds)
            for place, made in zip(batch, pictures, strict=True):
                if not place.done.done():
                    place.done.set_result(made)
                    self._made.add(place)

    async def _next_batch(self) -> list[Place]:
        """The oldest layout and those for the same engine behind it."""
        if not self._line:
            self._arrival.clear()
            return []
        if self._process.batch > 1 and len(self._line) < self._process.batch:
            await asyncio.sleep(self._window)
        batch: list[Place] = []
        while self._line and len(batch) < self._process.batch:
            if batch and self._line[0].engine != batch[0].engine:
                break
            batch.append(self._line.popleft())
        return batch

    async def _restart(self) -> None:
        """Start the process again, for as long as it takes; requests wait meanwhile."""
        self.ready = False
        pause = 0.1
        while True:
            self._metrics.restarts.inc()
            try:
                await self._in_thread(self._process.start)
            except (CrnError, Died, OSError):
                await asyncio.sleep(pause)
                pause = min(2 * pause, _RESTART_LIMIT)
            else:
                self.ready = True
                return

    async def _in_thread(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)


def _fail(batch: list[Place], refusal: Refusal) -> None:
    for place in batch:
        if not place.done.done():
            place.done.set_exception(
                Refusal(refusal.status, refusal.message, refusal.code, refusal.headers)
            )
