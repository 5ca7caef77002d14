"""Two batches in flight: one is uploaded and one downloaded while the network works on another.

Each of two slots has its own buffers, and events keep the three streams in order. What the network
is, and what comes back besides pictures, is its owner's business.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import prod
from time import perf_counter
from typing import Any

import numpy as np

from crn_fast.cuda import library
from crn_fast.cuda.driver import Buffer, Driver, Stream, Streams
from crn_fast.errors import BadInput, UsageError

SLOTS = 2
LAPS = 2
"""Runs of a batch of which the last is timed: the first loads, and records the graph."""


class DeviceLabels:
    """Ids that were born on a GPU: uint8 [N, H, W], contiguous."""

    def __init__(self, owner: Any) -> None:
        """Wait for the stream that makes them.

        Args:
            owner: has `__cuda_array_interface__`: arrays of torch, CuPy, Numba, JAX, ...

        Raises:
            BadInput: it has not, or is another type, no three axes or not contiguous.
        """
        facts = getattr(owner, "__cuda_array_interface__", None)
        if not isinstance(facts, dict):
            raise BadInput(
                f"labels of type {type(owner).__name__}; expected an array on the GPU, which has "
                "__cuda_array_interface__"
            )
        self.owner, self.shape = owner, tuple(facts["shape"])
        dtype, strides = np.dtype(facts["typestr"]), facts.get("strides")
        packed = (prod(self.shape[1:]), prod(self.shape[2:]), 1)
        dense = len(self.shape) == 3 and (strides is None or tuple(strides) == packed)
        if dtype != np.uint8 or not dense:
            raise BadInput(
                f"labels on the GPU are {dtype} {self.shape}, strides {strides}; expected uint8 "
                "[N, H, W], contiguous"
            )
        self.address = int(facts["data"][0])
        self.stream: int | None = facts.get("stream")
        """Whose work must be waited for; None where it is not said."""

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def nbytes(self) -> int:
        return int(np.prod(self.shape))

    def __getitem__(self, which: slice) -> DeviceLabels:
        start, end, _ = which.indices(len(self))
        part = object.__new__(DeviceLabels)
        part.owner, part.stream = self.owner, self.stream
        part.shape = (end - start, *self.shape[1:])
        part.address = self.address + start * self.shape[1] * self.shape[2]
        return part


Labels = np.ndarray | DeviceLabels


class Slot:
    """Buffers of one batch in flight."""

    def __init__(self, driver: Driver, upload: int, download: int) -> None:
        self.upload: Buffer = driver.allocate(upload)
        self.download: Buffer = driver.allocate(download)
        self._graphs: dict[Hashable, Callable[[], None]] = {}
        self.done: Any = None

    def launch(
        self, driver: Driver, stream: Stream, key: Hashable, work: Callable[[], None]
    ) -> None:
        """Queue work: plainly the first time, which may allocate and load, then as a graph.

        The graph is captured at once: TensorRT wants no other shape between its first run with a
        shape and the capture.

        Args:
            driver: whose context is current.
            stream: where `work` queues itself.
            key: names the work.
            work: always the same calls for one key.
        """
        if key in self._graphs:
            self._graphs[key]()
        else:
            work()
            self._graphs[key] = driver.capture(stream, work)


class Pipeline:
    def __init__(
        self,
        driver: Driver,
        upload: int,
        download: int,
        work: Callable[[Slot, int], None],
        read: Callable[[np.ndarray, int], np.ndarray],
    ) -> None:
        """Allocate both slots; inside `with driver:`.

        Args:
            driver: the GPU's.
            upload: bytes of the most labels at a time.
            download: bytes that come back.
            work: given a slot and the number of layouts, queues the network on the stream
                `compute`.
            read: given what came back and the number of layouts, their pictures as a copy.

        Raises:
            ResourceError: not enough memory.
        """
        self.driver, self._work, self._read = driver, work, read
        self._slots = [Slot(driver, upload, download) for _ in range(SLOTS)]
        self._lock, self._owner = threading.Lock(), 0

    def stream(self, batches: Iterable[Labels]) -> Iterator[np.ndarray]:
        """Batches of labels, each no larger than fits -> their pictures, in order.

        The next batch is asked for before the pictures of the last one are given, so that the GPU
        has work meanwhile. One such loop runs at a time; another thread waits for its end.

        Raises:
            ResourceError: out of memory, or the network failed.
            UsageError: this thread is in the middle of another one.
        """
        with self._alone():
            waiting: deque[tuple[Slot, int]] = deque()
            try:
                for i, labels in enumerate(batches):
                    if len(waiting) == SLOTS:
                        yield self._collect(*waiting.popleft())
                    self._start(self._slots[i % SLOTS], labels)
                    waiting.append((self._slots[i % SLOTS], len(labels)))
                while waiting:
                    yield self._collect(*waiting.popleft())
            finally:
                with self.driver:
                    for slot, _ in waiting:
                        self.driver.wait(slot.done)

    def timings(self, batches: Iterable[Labels]) -> dict[str, float]:
        """Seconds of all batches' `upload`, `compute` and `download`, none beside another.

        By the host's clock, each part until it was waited for. Labels are brought into page-locked
        memory within `upload`; pictures stay there. Errors as of `stream`.
        """
        seconds = dict.fromkeys(Streams._fields, 0.0)
        with self._alone(), self.driver:
            for labels in batches:
                laps = [self._lap(self._slots[0], labels) for _ in range(LAPS)]
                for name, taken in zip(seconds, laps[-1], strict=True):
                    seconds[name] += taken
        return seconds

    def _lap(self, slot: Slot, labels: Labels) -> list[float]:
        """Seconds of each stream's part, in the order of `Streams`."""
        driver = self.driver
        parts: tuple[Callable[[], None], ...] = (
            lambda: self._upload(slot, labels),
            lambda: self._work(slot, len(labels)),
            lambda: driver.copy(slot.download, driver.streams.download, up=False),
        )
        moments = [perf_counter()]
        for queue, stream in zip(parts, driver.streams, strict=True):
            queue()
            driver.wait(driver.record(stream))
            moments.append(perf_counter())
        return [end - start for start, end in pairwise(moments)]

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if self._owner == threading.get_ident():
            raise UsageError(
                "this thread is in the middle of a stream of pictures; finish or close that first"
            )
        with self._lock:
            self._owner = threading.get_ident()
            try:
                yield
            finally:
                self._owner = 0

    def _start(self, slot: Slot, labels: Labels) -> None:
        driver, (upload, compute, download) = self.driver, self.driver.streams
        with driver:
            self._upload(slot, labels)
            driver.wait(driver.record(upload), compute)
            self._work(slot, len(labels))
            driver.wait(driver.record(compute), download)
            driver.copy(slot.download, download, up=False)
            slot.done = driver.record(download)

    def _upload(self, slot: Slot, labels: Labels) -> None:
        """Queue it; what is left of the slot's room is cleared."""
        upload = self.driver.streams.upload
        if isinstance(labels, DeviceLabels):
            library.synchronize(labels.stream)
            library.copy(slot.upload.address, labels.address, labels.nbytes, upload.handle)
            rest = slot.upload.host.nbytes - labels.nbytes
            if rest:
                library.clear(slot.upload.address + labels.nbytes, rest, upload.handle)
            # Their owner may change them from here on.
            self.driver.wait(self.driver.record(upload))
        else:
            slot.upload.host[: labels.nbytes] = labels.reshape(-1)
            slot.upload.host[labels.nbytes :] = 0
            self.driver.copy(slot.upload, upload, up=True)

    def _collect(self, slot: Slot, layouts: int) -> np.ndarray:
        with self.driver:
            self.driver.wait(slot.done)
            return self._read(slot.download.host, layouts)


def pieces(labels: Labels, most: int) -> Iterator[Labels]:
    """Labels in batches of `most`, and a shorter one at the end."""
    return (labels[start : start + most] for start in range(0, len(labels), most))
