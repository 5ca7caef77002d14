"""The process that renders: opens the engines, then takes orders until nobody is left to give any.

Orders and answers are small and cross a pipe. Layouts and pictures lie in shared memory, as a pipe
moves a large picture sixty times slower than a copy does.
"""

from __future__ import annotations

import signal
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.shared_memory import SharedMemory
from typing import Any

import numpy as np

from crn_fast.errors import CrnError, Mismatch
from crn_fast.palette import LabelSet


@dataclass(frozen=True)
class Facts:
    """What is known of an engine outside its process."""

    model: str
    backend: str
    precision: str
    device: str
    size: tuple[int, int]
    """Height and width of its pictures."""
    images: int
    """Pictures of a layout."""
    labels: LabelSet


Engines = list[tuple[Facts, Callable[[np.ndarray], np.ndarray]]]
"""Each with its function: uint8 [N, H, W] -> uint8 RGB [N, K, H, W, 3]."""


@dataclass(frozen=True)
class Opener:
    """Opens the model and, where there is one, its quick stand-in. Crosses to the process."""

    models: tuple[str, ...]
    """Paths: the model, then the preview."""
    options: dict[str, Any]
    """Of `Engine.open`."""
    vouched: tuple[str, ...] = ()
    """Digests of engines that the user trusts, as of `--trust-engine`."""

    def __call__(self) -> Engines:
        """The engines, open.

        Raises:
            CrnError: one cannot be opened.
            Mismatch: the preview has other classes than the model.
        """
        from crn_fast import trust
        from crn_fast.engine import Engine

        for digest in self.vouched:
            trust.vouch(digest)
        engines = [Engine.open(path, **self.options) for path in self.models]
        own = engines[0].labels
        for other in engines[1:]:
            if (labels := other.labels).names != own.names:
                raise Mismatch(
                    f"--preview {other.source}: label set {labels.name} ({labels.classes} classes)"
                    f"; {engines[0].source} has {own.name} ({own.classes} classes); give one of "
                    "the same classes"
                )
        return [
            (
                Facts(
                    *(e.source, e.backend, e.precision, e.device),
                    *(e.spec.size, e.spec.images, e.labels),
                ),
                e.render,
            )
            for e in engines
        ]


def layouts(memory: SharedMemory, facts: Facts, n: int) -> np.ndarray:
    """The view of n layouts: uint8 [n, H, W], at the start of the memory."""
    return np.ndarray((n, *facts.size), np.uint8, memory.buf)


def pictures(memory: SharedMemory, facts: Facts, n: int) -> np.ndarray:
    """The view of n layouts' pictures: uint8 [n, K, H, W, 3]; it covers the layouts."""
    return np.ndarray((n, facts.images, *facts.size, 3), np.uint8, memory.buf)


def memory_for(facts: Iterable[Facts], n: int) -> int:
    """Bytes that hold any engine's n layouts, or their pictures."""
    return max(n * f.images * f.size[0] * f.size[1] * 3 for f in facts)


def main(connection: Connection, opener: Callable[[], Engines]) -> None:
    """The life of the process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group: drain first
    try:
        engines = opener()
    except CrnError as error:
        connection.send(error)
        return
    connection.send([facts for facts, _ in engines])
    try:
        memory = SharedMemory(connection.recv())
        while True:
            index, n = connection.recv()
            facts, render = engines[index]
            connection.send(_answer(memory, facts, render, n))
    except (EOFError, OSError):
        return  # the server is gone


def _answer(
    memory: SharedMemory, facts: Facts, render: Callable[[np.ndarray], np.ndarray], n: int
) -> Exception | None:
    try:
        labels = layouts(memory, facts, n).copy()
        np.copyto(pictures(memory, facts, n), render(labels))
    except CrnError as error:
        return error
    except Exception as error:
        traceback.print_exc()
        return RuntimeError(f"{type(error).__name__}: {error}")
    return None
