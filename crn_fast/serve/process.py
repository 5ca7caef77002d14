"""The one engine process as the server holds it: started, asked, found dead, started again.

Every call blocks; one thread makes them all.
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

import numpy as np

from crn_fast.errors import CrnError, ResourceError
from crn_fast.serve import worker
from crn_fast.serve.worker import Engines, Facts

_SHARED = Path("/dev/shm")
"""Where Linux keeps shared memory as files."""


class Died(Exception):
    """The process ended, or had to be ended, before it answered."""


class EngineProcess:
    """Args:
    opener: gives the engines; it is pickled.
    max_batch: layouts at a time; None for 1 on a CPU and 8 elsewhere.
    patience: seconds for a batch; a process that takes longer hangs, and is ended.
    """

    def __init__(
        self, opener: Callable[[], Engines], max_batch: int | None, patience: float
    ) -> None:
        self._opener, self._max_batch, self._patience = opener, max_batch, patience
        self._process: SpawnProcess | None = None
        self._connection: Connection | None = None
        self._memory: SharedMemory | None = None
        self.facts: tuple[Facts, ...] = ()
        self.batch = 1

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.is_alive()

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Start the process and wait until its engines are open.

        Raises:
            CrnError: they cannot be opened.
            ResourceError: there is too little shared memory for a batch.
            Died: it ended without a word.
        """
        self.stop()
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(
            target=worker.main, args=(theirs, self._opener), name="crn-fast engine", daemon=True
        )
        process.start()
        theirs.close()
        self._process, self._connection = process, ours
        try:
            self._prepare()
        except BaseException:
            self.stop()  # or what died stays a zombie
            raise

    def _prepare(self) -> None:
        """Hear of the engines, and give their process the memory that a batch takes."""
        first = self._receive(None)
        if isinstance(first, CrnError):
            raise first
        assert isinstance(first, list)
        self.facts = tuple(first)
        on_cpu = self.facts[0].device.startswith("cpu")
        self.batch = self._max_batch or (1 if on_cpu else 8)
        self._memory = SharedMemory(create=True, size=worker.memory_for(self.facts, self.batch))
        _reserve(self._memory)
        self._send(self._memory.name)

    def render(self, index: int, labels: list[np.ndarray]) -> list[np.ndarray]:
        """Pictures uint8 [K, H, W, 3] of each layout uint8 [H, W], by the engine of that number.

        Raises:
            CrnError, RuntimeError: the engine could not.
            Died: the process did not live to answer.
        """
        assert self._memory is not None and len(labels) <= self.batch
        facts = self.facts[index]
        np.stack(labels, out=worker.layouts(self._memory, facts, len(labels)))
        self._send((index, len(labels)))
        failed = self._receive(self._patience)
        if isinstance(failed, Exception):
            raise failed
        return list(worker.pictures(self._memory, facts, len(labels)).copy())

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        if self._process is not None:
            self._process.join(0.2)  # it ends by itself when it reads that we are gone
            self._process.kill()
            self._process.join()
            self._process.close()
            self._process = None
        if self._memory is not None:
            self._memory.close()
            self._memory.unlink()
            self._memory = None

    def _send(self, what: object) -> None:
        try:
            assert self._connection is not None
            self._connection.send(what)
        except OSError:
            raise Died from None

    def _receive(self, patience: float | None) -> object:
        try:
            assert self._connection is not None
            if not self._connection.poll(patience):
                raise Died
            return self._connection.recv()
        except (EOFError, OSError):
            raise Died from None


def _reserve(memory: SharedMemory) -> None:
    """Take the memory now; what is only promised kills whoever writes to it.

    Raises:
        ResourceError: there is too little.
    """
    path = _SHARED / memory.name
    if not path.exists():  # another system, which does not promise
        return
    try:
        with path.open("r+b") as file:
            os.posix_fallocate(file.fileno(), 0, memory.size)
    except OSError:
        needed, free = (-(-memory.size // 10**6), shutil.disk_usage(_SHARED).free // 10**6)
        raise ResourceError(
            f"shared memory: {needed} MB are needed, {_SHARED} has {free} MB free; "
            "a smaller --max-batch, or docker run --shm-size"
        ) from None
