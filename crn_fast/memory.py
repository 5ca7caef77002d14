"""Memory that runs out: what was needed and is free, and pictures of fewer layouts at a time.

A picture's bits do not depend on the layouts beside it, so smaller batches change no pixel. What
would change some, as the backend fused's lean schedule, is chosen when an engine is opened and told
in its `device`, never here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from mmap import mmap
from pathlib import Path
from threading import Event

import numpy as np

from crn_fast.errors import ResourceError

UNITS = {"bytes": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
"""As NumPy, PyTorch and our own C++ write them."""
SIZE = re.compile(rf"([\d.]+) ({'|'.join(UNITS)})")
PROC = Path("/proc")
THREAD_BYTES = 16 << 20
"""Of address space: twice the usual stack. Nothing of it is touched."""


def in_parts(render: Callable[[np.ndarray], np.ndarray], labels: np.ndarray) -> np.ndarray:
    """All pictures; where memory does not reach, of half as many layouts at a time, and so on.

    Args:
        render: uint8 [N, H, W] -> uint8 RGB [N, K, H, W, 3]; ResourceError where it has no room.
        labels: uint8 [N, H, W].

    Raises:
        ResourceError: there is no room for a single layout.
        MemoryError: there is none for all the pictures.
    """
    pictures, start, most = None, 0, len(labels)
    while start < len(labels):
        part = labels[start : start + most]
        made = _tried(render, part)
        if made is None:
            most = (len(part) + 1) // 2
            continue
        if len(made) == len(labels):
            return made
        if pictures is None:
            pictures = np.empty((len(labels), *made.shape[1:]), made.dtype)
        pictures[start : start + len(part)] = made
        start += len(part)
    assert pictures is not None
    return pictures


def _tried(render: Callable[[np.ndarray], np.ndarray], labels: np.ndarray) -> np.ndarray | None:
    """The pictures, or None where fewer layouts may fit."""
    try:
        return render(labels)
    except ResourceError:
        if len(labels) == 1:
            raise
    return None


def shortage(
    where: str, error: BaseException, spare: int | None = None, about: int | None = None
) -> ResourceError:
    """The error to raise when memory ran out; call it while `error` is handled.

    Args:
        where: what ran out of it, for people.
        error: of the allocator; its words say how much was asked for.
        spare: bytes that are free there; None for this process's own.
        about: bytes that the whole work takes, where the allocator does not say.
    """
    spare = free() if spare is None else spare
    size = SIZE.search(str(error))
    if size:
        needed = f"{_mb(float(size[1]) * UNITS[size[2]])} more"
    else:
        needed = "an unknown amount more" if about is None else f"about {_mb(about)} in all"
    left = "an unknown amount" if spare is None else _mb(spare)
    words = " ".join(str(error).split())[:200] or type(error).__name__
    return ResourceError(
        f"{where}: out of memory: {needed} needed, {left} free ({words}): close what else uses "
        "memory, or take a smaller network"
    )


def require_room_for_thread() -> None:
    """Check that a thread can be started now: Python waits forever for one that dies of too little
    memory before its first line.

    Raises:
        ResourceError: there is no room for its stack and what it needs to begin.
    """
    try:
        mmap(-1, THREAD_BYTES).close()
    except OSError:
        error = MemoryError(f"no room for {THREAD_BYTES} bytes of a thread's stack")
        raise shortage("this process", error) from None


@contextmanager
def thread_pool(threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool whose threads all run already, each with the room that it takes to begin.

    Raises:
        ResourceError: there is no room for one of them.
    """
    started = Event()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for _ in range(threads):
                require_room_for_thread()
                pool.submit(started.wait)
        finally:
            started.set()
        yield pool


def no_thread(error: BaseException) -> ResourceError:
    """The error to raise when Python could not start a thread, for want of memory or by a limit."""
    stack, spare = _stack(), free()
    needed = "" if stack is None else f"{_mb(stack)} needed for its stack, "
    left = "an unknown amount" if spare is None else _mb(spare)
    return ResourceError(
        f"{error}: {needed}{left} free: raise the limit of memory (ulimit -v) or of threads "
        "(ulimit -u)"
    )


def _stack() -> int | None:
    """Bytes of a thread's stack; None: unknown or without limit."""
    try:
        import resource
    except ImportError:  # on Windows
        return None
    limit, _ = resource.getrlimit(resource.RLIMIT_STACK)
    return None if limit == resource.RLIM_INFINITY else limit


def free() -> int | None:
    """Bytes that this process may still take, by the machine and by its own limit; None: unknown.

    Source: proc_meminfo(5), proc_pid_statm(5), getrlimit(2).
    """
    try:
        import resource

        lines = dict(line.split(":") for line in (PROC / "meminfo").read_text().splitlines())
        found = int(lines["MemAvailable"].split()[0]) << 10
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        pages = int((PROC / "self/statm").read_text().split()[0])
    except (ImportError, OSError, KeyError, ValueError):
        return None
    if limit != resource.RLIM_INFINITY:
        found = min(found, max(0, limit - pages * resource.getpagesize()))
    return found


def _mb(count: float) -> str:
    return f"{count / 1e6:,.1f} MB"
