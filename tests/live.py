"""Live memory: bytes that a process has taken from its allocators and not given back.

What a process takes of the system comes and goes by pages, and stays when it was freed; live bytes
tell a single object. Small ones are Python's own to count, large ones and those of C++ are glibc's,
which must not keep freed ones aside for that: see `ENVIRONMENT`, in which the process must start.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import re
import signal
import sys
import tempfile
from functools import cache

ENVIRONMENT = {
    "PYTHONMALLOC": "pymalloc",
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.tcache_count=0",
}
_SMALL = re.compile(rb"# bytes in allocated blocks\s+=\s+([\d,]+)")


class _Account(ctypes.Structure):
    """What mallinfo2 of glibc gives."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    ]


@cache
def _libc() -> ctypes.CDLL:
    found = ctypes.CDLL(None)
    if hasattr(found, "mallinfo2"):
        found.mallinfo2.restype = _Account
    return found


def known() -> bool:
    """Whether this system has such an account: glibc from 2.33 on."""
    return os.name == "posix" and hasattr(_libc(), "mallinfo2")


def live() -> int:
    """Live bytes of this process, garbage and the interpreter's cache of attributes apart."""
    # CPython caches up to 4,096 names of attributes by their address, for as long as that takes.
    getattr(sys, "_clear_type_cache", lambda: None)()
    _forget_timers()
    gc.collect()
    small = _small()
    _libc().malloc_trim(0)  # gathers the pieces that were freed
    account = _libc().mallinfo2()
    return small + int(account.uordblks + account.hblkhd)


def _forget_timers() -> None:
    """Let go of what asyncio's cancelled timers hold: a loop keeps a hundred, with their requests.

    Some KB each, and now few, now many: far more than what is to be told.
    """
    for found in gc.get_objects():
        if isinstance(found, asyncio.TimerHandle) and found.cancelled():
            found._context = None  # type: ignore[attr-defined]


def _small() -> int:
    """Live bytes of Python's own allocator, which tells them to the standard error alone."""
    with tempfile.TemporaryFile() as told:
        stderr = os.dup(2)
        os.dup2(told.fileno(), 2)
        try:
            sys._debugmallocstats()
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        told.seek(0)
        found = _SMALL.search(told.read())
    assert found
    return int(found[1].replace(b",", b""))


def tell_when_asked() -> None:
    """At SIGUSR1, this process writes its number and its live bytes to its standard output."""
    if known():
        signal.signal(signal.SIGUSR1, lambda *_: os.write(1, b"%d %d\n" % (os.getpid(), live())))
