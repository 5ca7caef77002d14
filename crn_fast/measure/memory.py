"""How much memory a process needs while it does something. Linux: from /proc.

What counts. `peak` is the kernel's own highest resident size (VmHWM, set back at the start), of all
pages: the heap, the code of every library, and files that are mapped, as far as they are resident.
`private` is what only this process has and could not be dropped (anonymous and shared memory);
`file` are pages of mapped files, which the kernel may drop and read again; `weights` are those of
them that belong to one file. The last three are of the sample, every few milliseconds, at which
private and weights were highest together.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crn_fast.errors import Unavailable

PERIOD = 0.005
"""Seconds between samples."""
PROC = Path("/proc/self")


@dataclass(frozen=True)
class Memory:
    """Bytes: see the top of this file."""

    peak: int
    private: int
    file: int
    weights: int | None
    """None: no file was named."""


def watch(run: Callable[[], Any], weights: Path | None = None) -> tuple[Any, Memory]:
    """Do something, and say what memory the process needed meanwhile.

    What the process held before counts, too. Other threads of it are not told apart.

    Args:
        run: what to do.
        weights: a file that is mapped, whose resident pages count apart.

    Returns:
        what `run` returned, and the memory.

    Raises:
        Unavailable: as `unwatchable` says.
    """
    if reason := unwatchable():
        raise Unavailable(reason)
    samples = [_sample(weights)]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(PERIOD):
            samples.append(_sample(weights))

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        result = run()
    finally:
        done.set()
        thread.join()
    samples.append(_sample(weights))
    private, file, mapped = max(samples, key=lambda s: s[0] + s[2])
    return result, Memory(_status()["VmHWM"], private, file, mapped if weights else None)


def unwatchable() -> str | None:
    """None where `watch` works, else why it does not. Sets the peak back."""
    try:
        (PROC / "clear_refs").write_text("5")  # VmHWM: back to what is resident now
    except OSError as error:
        return f"memory: needs Linux's /proc, and its peak set back ({error}): not measured"
    return None


def _sample(weights: Path | None) -> tuple[int, int, int]:
    status = _status()
    mapped = resident(weights, (PROC / "smaps").read_text()) if weights else 0
    return status["RssAnon"] + status["RssShmem"], status["RssFile"], mapped


def _status() -> dict[str, int]:
    """The sizes in /proc/self/status, in bytes. Source: proc_pid_status(5)."""
    lines = (line.split() for line in (PROC / "status").read_text().splitlines())
    return {f[0].rstrip(":"): int(f[1]) * 1024 for f in lines if len(f) == 3 and f[2] == "kB"}


def resident(path: Path, smaps: str) -> int:
    """Bytes of a file's pages that are resident in a process, by its smaps: proc_pid_smaps(5)."""
    total, inside, wanted = 0, False, str(path.resolve())
    for line in smaps.splitlines():
        fields = line.split(maxsplit=5)
        if not fields[0].endswith(":"):  # the head of a mapping: addresses ... path
            inside = len(fields) == 6 and fields[5] == wanted
        elif inside and fields[0] == "Rss:":
            total += int(fields[1]) * 1024
    return total
