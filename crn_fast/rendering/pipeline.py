"""Reading, rendering and writing at the same time, in order and in bounded memory.

Threads read and write; the renderer stays in the thread that takes the results. What is read and
how it is written is the caller's: there are no files and no options here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import Future
from contextlib import closing, suppress
from dataclasses import dataclass
from queue import Empty, Queue
from threading import Event, Thread
from time import perf_counter
from typing import Generic, TypeVar

import numpy as np

from crn_fast.errors import CrnError
from crn_fast.layout import LabelMap
from crn_fast.memory import require_room_for_thread, thread_pool

A = TypeVar("A")
B = TypeVar("B")

_PULSE = 0.2
"""Seconds of a wait."""

Render = Callable[[Sequence[LabelMap]], np.ndarray]
"""N layouts -> uint8 RGB [N, K, H, W, 3], as `Engine.render`."""


@dataclass
class Item(Generic[A, B]):
    """One layout on its way. What has been used is let go."""

    job: A
    layout: LabelMap | None = None
    """None where reading failed, or there was nothing to do."""
    pictures: np.ndarray | None = None
    """uint8 RGB [K, H, W, 3] between rendering and writing."""
    seconds: float = 0.0
    """Its share of the time of its batch in the renderer."""
    result: B | None = None
    """What `write` returned."""
    error: CrnError | None = None
    """Of reading or writing; an item with an error is passed on, and not rendered or written."""
    unreadable: bool = False
    """Whether the error is that of reading."""


def read(
    jobs: Iterable[A], reader: Callable[[A], LabelMap | None], *, threads: int, batch: int = 1
) -> Generator[Item[A, B], None, None]:
    """Read the layouts of jobs in threads, at most threads + batch before they are asked for."""

    def one(job: A) -> Item[A, B]:
        item: Item[A, B] = Item(job)
        try:
            item.layout = reader(job)
        except CrnError as error:
            item.error, item.unreadable = error, True
        return item

    return ordered(one, jobs, threads=threads, waiting=threads + batch)


def flow(
    items: Generator[Item[A, B], None, None],
    render: Render,
    write: Callable[[Item[A, B]], B],
    *,
    batch: int = 1,
    threads: int = 1,
) -> Generator[Item[A, B], None, None]:
    """Render layouts in this thread and write the pictures in others; yields items in order.

    In memory are at most the items that were read ahead, a batch, and threads + batch items whose
    pictures wait to be written.

    Args:
        items: from `read`, or made by the caller, who may take them `ahead`.
        render: N layouts -> pictures.
        write: puts an item's pictures away. One thread writes in order.
        batch: layouts to render at a time.
        threads: that write.

    Raises:
        ResourceError: out of memory in the renderer.
    """

    def finish(item: Item[A, B]) -> Item[A, B]:
        if item.pictures is not None:
            try:
                item.result = write(item)
            except CrnError as error:
                item.error = error
        item.layout = item.pictures = None
        return item

    def rendered() -> Generator[Item[A, B], None, None]:
        for group in batches(items, batch):
            ready = [item for item in group if item.layout is not None]
            if ready:
                since = perf_counter()
                pictures = render([item.layout for item in ready if item.layout])
                seconds = (perf_counter() - since) / len(ready)
                for item, made in zip(ready, pictures, strict=True):
                    item.pictures, item.seconds = made, seconds
            yield from group

    with (
        closing(items),
        closing(rendered()) as source,
        closing(ordered(finish, source, threads=threads, waiting=threads + batch)) as finished,
    ):
        yield from finished


def ordered(
    function: Callable[[A], B], items: Iterable[A], *, threads: int, waiting: int
) -> Generator[B, None, None]:
    """`function` of every item, worked out in threads, in order, at most `waiting` at a time.

    If the generator is closed, what has not begun is dropped and what has is waited for.

    Raises:
        ResourceError: there is no room for the threads.
    """
    flying: deque[Future[B]] = deque()
    with thread_pool(threads) as pool:
        try:
            for item in items:
                flying.append(pool.submit(function, item))
                if len(flying) >= waiting:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for future in flying:
                future.cancel()


def ahead(items: Iterable[A], waiting: int) -> Generator[A, None, None]:
    """The same items, taken by a thread up to `waiting` before they are asked for.

    Unlike with `ordered`, an item can be had as soon as it is there. What goes wrong in `items` is
    raised here, in its turn.
    """
    queue: Queue[A | _End] = Queue(waiting)
    closed = Event()

    def take() -> None:
        end = _End()
        try:
            for item in items:
                queue.put(item)
                if closed.is_set():
                    return
        except BaseException as error:
            end.error = error
        queue.put(end)

    # A daemon: it may wait for a pipe that never says anything more.
    require_room_for_thread()
    thread = Thread(target=take, daemon=True, name="crn_fast.ahead")
    thread.start()
    try:
        while not isinstance(found := _get(queue), _End):
            yield found
        if found.error is not None:
            raise found.error
    finally:
        closed.set()
        while not queue.empty():
            queue.get()


class _End:
    error: BaseException | None = None


def _get(queue: Queue[A]) -> A:
    """What comes next. Ctrl-C just before a wait does not end it, so that it is short."""
    while True:
        with suppress(Empty):
            return queue.get(timeout=_PULSE)


def batches(items: Iterable[A], size: int) -> Generator[list[A], None, None]:
    """Items in lists of `size`; the last may be shorter."""
    group: list[A] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
