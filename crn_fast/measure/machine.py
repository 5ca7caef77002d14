"""What a figure says of where it was taken: the machine, the versions and the commit."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.threads import usable_cpus

CPUINFO = Path("/proc/cpuinfo")
PRESSURE = Path("/proc/pressure/cpu")


@dataclass(frozen=True)
class Machine:
    cpu: str
    """Model name, as the system tells it."""
    cpus: int
    """That this process may use."""
    instruction_set: str
    """That our kernels run; 'none' where they are not compiled."""
    memory: int
    """Bytes; 0 where the system does not say."""
    system: str
    megahertz: float | None
    """Clock of the first CPU at that moment; None where the system does not say."""
    gpu: str | None = None


def describe(gpu: str | None = None) -> Machine:
    """The machine that this process runs on; `gpu` is named by who uses one."""
    info = _cpuinfo()
    compiled = cpu.available() is None
    chosen = os.environ.get(cpu.ISA_VARIABLE)
    clock = info.get("cpu MHz")
    return Machine(
        cpu=info.get("model name") or platform.processor() or platform.machine(),
        cpus=usable_cpus(),
        instruction_set=chosen or cpu.instruction_sets()[0] if compiled else "none",
        memory=_memory(),
        system=f"{platform.system()} {platform.release()}, {platform.machine()}",
        megahertz=float(clock) if clock else None,
        gpu=gpu,
    )


class Contention:
    """How much of the time since it was made something on this machine waited for a CPU.

    Source: Documentation/accounting/psi.rst of the kernel. Near 0 where nothing else runs and no
    more threads are used than there are CPUs.
    """

    def __init__(self) -> None:
        self._start, self._waited = time.monotonic(), _waited()

    def share(self) -> float | None:
        """0..1; None where the system does not say."""
        now, elapsed = _waited(), time.monotonic() - self._start
        if now is None or self._waited is None or elapsed <= 0:
            return None
        return min(1.0, (now - self._waited) / elapsed)


def _waited() -> float | None:
    """Seconds since the start of the system in which something waited for a CPU."""
    try:
        some = PRESSURE.read_text().splitlines()[0]
        return int(some.rpartition("total=")[2]) / 1e6
    except (OSError, ValueError, IndexError):
        return None


def versions(packages: Sequence[str]) -> dict[str, str]:
    """Version of Python and of each package; those that are not installed are left out."""
    found = {"python": platform.python_version()}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit(folder: Path) -> str:
    """The git commit of a source folder, '+changes' behind it where files differ; or 'unknown'."""
    try:
        head = _git(folder, "rev-parse", "--short=12", "HEAD")
        changed = _git(folder, "status", "--porcelain", "--untracked-files=no")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return f"{head}+changes" if changed else head


def _git(folder: Path, *arguments: str) -> str:
    command = ["git", "-C", str(folder), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return 0


def _cpuinfo() -> dict[str, str]:
    """The first CPU's entries; nothing where there is no such file."""
    try:
        first = CPUINFO.read_text().partition("\n\n")[0]
    except OSError:
        return {}
    pairs = (line.partition(":") for line in first.splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}
