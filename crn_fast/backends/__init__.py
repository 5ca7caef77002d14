"""The backends by name, and the choice between them.

Each backend is a module of this package that offers what `Backend` lists. It is imported only when
it is chosen or asked whether it can run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from crn_fast.errors import Unavailable, UsageError
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.spec import CascadeSpec

NAMES = ("native", "eager")
"""In order of preference on a CPU, best first; the other way round where torch sees a GPU."""

MAX_THREADS = 1024
"""More than this crashes some thread pools; no machine gains by it."""


class Renderer(Protocol):
    """A network that is ready to run on one device."""

    device: str
    """What it runs on, for people: 'cpu, 2 threads', 'cuda:0 (NVIDIA H200)'."""
    precision: str

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], sizes and ids checked -> uint8 RGB [N, K, H, W, 3]."""


class Backend(Protocol):
    PRECISIONS: tuple[str, ...]

    def available(self) -> str | None:
        """None when it can run here, else what is missing and the way to it."""

    def pack(
        self, spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
    ) -> dict[str, np.ndarray]:
        """The tensors that an engine file holds for this backend."""

    def check(self, source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
        """BadInput unless `packed` is what `pack` gives for this spec; `source` is named."""

    def load(
        self,
        spec: CascadeSpec,
        packed: Mapping[str, np.ndarray],
        precision: str,
        device: int | None,
        threads: int | None,
    ) -> Renderer:
        """Make packed weights ready to run. `precision` may be 'auto'."""


def get(name: str) -> Backend:
    """The backend of that name, whether or not it can run here.

    Raises:
        UsageError: there is none.
    """
    if name not in NAMES:
        raise UsageError(f"backend {name!r} is unknown; there are {', '.join(NAMES)}")
    return cast(Backend, import_module(f"crn_fast.backends.{name}"))


def choose(name: str = "auto") -> tuple[str, Backend, list[str]]:
    """The backend asked for or, with 'auto', the best that can run here.

    Returns:
        its name, the backend, and for 'auto' why better ones were passed over.

    Raises:
        UsageError: no backend has that name.
        Unavailable: it, or every one, cannot run here; the message says what is missing.
    """
    passed: list[str] = []
    candidates = (name,) if name != "auto" else NAMES[::-1] if sees_gpu() else NAMES
    for candidate in candidates:
        backend = get(candidate)
        reason = backend.available()
        if reason is None:
            return candidate, backend, passed
        passed.append(f"{candidate}: {reason}")
    raise Unavailable(f"no backend can run here: {'; '.join(passed)}")


def thread_count(asked: int | None) -> int:
    """CPU threads to use: those asked for, else as many as the process may use.

    Raises:
        UsageError: out of range.
    """
    if asked is not None and not 1 <= asked <= MAX_THREADS:
        raise UsageError(f"--threads is {asked}; expected 1 to {MAX_THREADS}")
    return asked or usable_cpus()


def sees_gpu() -> bool:
    """Whether torch sees a GPU. Torch is imported only where there is a driver for one."""
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
        import torch
    except (ImportError, OSError):
        return False
    # An empty folder called torch imports as a package, too.
    return hasattr(torch, "cuda") and torch.cuda.is_available()
