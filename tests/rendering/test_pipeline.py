"""The pipeline: in order, overlapped, in bounded memory, and nothing is lost when it breaks."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from crn_fast.errors import BadInput, ResourceError
from crn_fast.layout import LabelMap, from_array
from crn_fast.palette import label_set
from crn_fast.rendering import pipeline

CAMVID = label_set("camvid")


def layout_of(number: int) -> LabelMap:
    return from_array(np.full((2, 3), number % 12), CAMVID)


def render(layouts: Sequence[LabelMap]) -> np.ndarray:
    return np.stack([np.repeat(m.array[None, ..., None], 3, 3) for m in layouts])


def run(
    numbers: Sequence[int], *, batch: int = 1, threads: int = 2, renderer: Any = render
) -> list[pipeline.Item[int, int]]:
    def write(item: pipeline.Item[int, int]) -> int:
        assert item.pictures is not None
        if item.job == 7:
            raise ResourceError("seven cannot be written")
        return int(item.pictures[0, 0, 0, 0])

    def read(number: int) -> LabelMap | None:
        if number == 5:
            raise BadInput("five is bad")
        return None if number == 3 else layout_of(number)

    items: Any = pipeline.read(numbers, read, threads=threads, batch=batch)
    return list(pipeline.flow(items, renderer, write, batch=batch, threads=threads))


@pytest.mark.parametrize("batch", [1, 2, 5])
@pytest.mark.parametrize("threads", [1, 3])
def test_the_same_for_any_batch_and_threads(batch: int, threads: int) -> None:
    items = run(range(11), batch=batch, threads=threads)
    assert [item.job for item in items] == list(range(11))
    expected = [None if i in (3, 5, 7) else i for i in range(11)]
    assert [item.result for item in items] == expected
    assert [str(item.error) for item in items if item.error] == [
        "five is bad", "seven cannot be written"
    ]  # fmt: skip
    assert [item.unreadable for item in items if item.error] == [True, False]
    assert not any(item.layout or item.pictures is not None for item in items)


def test_no_more_in_memory_than_said() -> None:
    """With a writer that waits, as many are read as fit between, and no more."""
    go, taken = threading.Event(), []
    threads, batch = 2, 3

    def read(number: int) -> LabelMap:
        taken.append(number)
        return layout_of(number)

    def write(item: pipeline.Item[int, int]) -> int:
        go.wait(10)
        return item.job

    items: Any = pipeline.read(range(1000), read, threads=threads, batch=batch)
    flow = pipeline.flow(items, render, write, batch=batch, threads=threads)
    threading.Timer(0.3, go.set).start()
    assert next(flow).result == 0
    waiting = threads + batch
    assert len(taken) <= 2 * waiting + batch
    flow.close()
    assert len(taken) <= 2 * waiting + batch


def test_reading_and_writing_overlap_with_rendering() -> None:
    """Each stage waits for the other two, which a pipeline without overlap never ends."""
    begun = threading.Barrier(3, timeout=10)

    def meet(number: int) -> None:
        if 1 <= number < 9:
            begun.wait()

    def read(number: int) -> LabelMap:
        meet(number - 2)
        return layout_of(number)

    def slow(layouts: Sequence[LabelMap]) -> np.ndarray:
        meet(int(layouts[0].array[0, 0]) - 1)
        return render(layouts)

    def write(item: pipeline.Item[int, int]) -> int:
        meet(item.job)
        return item.job

    items: Any = pipeline.read(range(11), read, threads=1, batch=1)
    done = pipeline.flow(items, slow, write, threads=1)
    assert [item.result for item in done] == list(range(11))


def test_ahead_keeps_order_and_passes_errors_on() -> None:
    def items() -> Iterator[int]:
        yield from range(5)
        raise BadInput("after five")

    found = []
    with pytest.raises(BadInput, match="after five"):
        found.extend(pipeline.ahead(items(), 2))
    assert found == list(range(5))


def test_ahead_takes_no_more_than_asked_and_stops() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for i in range(1000):
            taken.append(i)
            yield i

    before = threading.active_count()
    ahead = pipeline.ahead(items(), 3)
    assert next(ahead) == 0
    time.sleep(0.05)
    assert len(taken) <= 5
    ahead.close()
    for _ in range(100):
        if threading.active_count() == before:
            break
        time.sleep(0.02)
    assert threading.active_count() == before
    assert len(taken) <= 6


def test_ahead_hands_over_at_once() -> None:
    """A simulator that waits for its picture before it sends the next frame is not kept waiting."""
    answered = threading.Event()

    def simulator() -> Iterator[int]:
        for i in range(20):
            yield i
            assert answered.wait(10)
            answered.clear()

    found = []
    for number in pipeline.ahead(simulator(), 4):
        found.append(number)
        answered.set()
    assert found == list(range(20))
