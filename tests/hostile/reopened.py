"""Engines of the backend native, opened, used and closed again and again in one process.

    python tests/hostile/reopened.py ENGINE CHECKPOINT ROUNDS [DEFECT]

Writes a line of JSON for each round: what the process holds when its engine is closed.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from unittest import mock

sys.path.append(str(Path(__file__).parents[1]))

import numpy as np

from crn_fast.engine import Engine
from crn_fast.errors import BadInput, CrnError, Mismatch, ResourceError
from crn_fast.kernels import cpu
from hostile.slopes import private
from live import live

RENDERS = 14
"""Of a round, at least: those that succeed, of two engines."""
KEPT: list[object] = []


def use(path: Path, layouts: np.ndarray) -> None:
    """Open an engine; render one and several; fail in all ways; drop a stream half-way; close."""
    with Engine.open(path, threads=2) as engine:
        for n in (1, 1, 3):
            engine.render(layouts[:n])
        for bad, error in ((layouts + 200, BadInput), (layouts[:, 1:], Mismatch)):
            _fails(engine, bad, error)
        with mock.patch.object(cpu, "head", side_effect=MemoryError):
            _fails(engine, layouts, ResourceError)
        stream = engine.stream(iter([*layouts, *layouts]))
        for _ in range(2):
            next(stream)
        del stream
        _fails_late(engine, layouts)
    _fails(engine, layouts, CrnError)


def _fails(engine: Engine, layouts: np.ndarray, error: type[CrnError]) -> None:
    try:
        engine.render(layouts)
    except error:
        return
    raise AssertionError(f"rendered what should raise {error.__name__}")


def _fails_late(engine: Engine, layouts: np.ndarray) -> None:
    """A stream whose third layout is bad."""
    with suppress(BadInput):
        for _ in engine.stream([layouts[0], layouts[1], layouts[2] + 200]):
            pass
        raise AssertionError("streamed a layout of unknown classes")


def look() -> tuple[dict[str, int], dict[str, int]]:
    """What this process holds: bytes, and numbers."""
    end = time.monotonic() + 2
    while threading.active_count() > 1 and time.monotonic() < end:  # those of dropped streams
        gc.collect()
        time.sleep(0.001)
    memory = {"live bytes": live(), "pages": private()}
    counts = {
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "mappings": Path("/proc/self/maps").read_bytes().count(b"\n"),
    }
    return memory, counts


def keeps_bytes() -> None:
    """Keeps 200 bytes of each picture."""
    fine = Engine.render

    def render(self: Engine, labels: np.ndarray) -> np.ndarray:
        found = fine(self, labels)
        KEPT.append(os.urandom(200))
        return found

    Engine.render = render  # type: ignore[assignment]


def keeps_arrays() -> None:
    """Keeps the arrays of an engine that is closed."""
    fine = Engine.close

    def close(self: Engine) -> None:
        KEPT.append(self._renderer)
        fine(self)

    Engine.close = close  # type: ignore[method-assign]


DEFECTS = {defect.__name__: defect for defect in (keeps_bytes, keeps_arrays)}


def main(engine: str, checkpoint: str, rounds: str, defect: str | None = None) -> None:
    if defect:
        DEFECTS[defect]()
    paths = [Path(engine), Path(checkpoint)]
    with Engine.open(engine) as opened:
        height, width = opened.spec.size
        classes = opened.labels.classes
    layouts = np.random.default_rng(0).integers(0, classes, (3, height, width), np.uint8)
    since = time.perf_counter()
    for i in range(int(rounds)):
        for path in paths:
            use(path, layouts)
        print(json.dumps([RENDERS * (i + 1), time.perf_counter() - since, *look()]), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
