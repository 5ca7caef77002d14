"""The backends by name, and the choice between them.

Each backend is a module of this package that offers what `Backend` lists. It is imported only when
it is chosen or asked whether it can run.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Protocol, cast

import numpy as np

from crn_fast.errors import Unavailable, UsageError
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.spec import CascadeSpec

AUTOMATIC = ("native", "eager", "trt")
"""In order of preference on a CPU, best first; the other way round where torch sees a GPU."""

NAMES = (*AUTOMATIC, "fused")
"""`fused` is taken by name alone, as its kernels have not run on a GPU yet."""

BUILD_OPTIONS = {
    "targets": "--target",
    "batch": "--batch",
    "timing_cache": "--timing-cache",
    "tune": "--tune",
    "progress": "progress",
}
"""Keyword arguments of `Backend.pack`, each of which some backends take -> how users know it."""

BUILT_AHEAD = ("trt",)
"""Backends that compile for seconds or minutes: 'auto' takes them for building engines only."""

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8")
"""Known to at least one backend; each offers some, on some devices."""

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
    OPTIONS: tuple[str, ...]
    """Of `BUILD_OPTIONS`, those that `pack` takes besides."""
    EXECUTABLE: bool
    """Whether what `pack` gives is code: then a file of it must be signed to be opened."""

    def available(self) -> str | None:
        """None when it can run here, else what is missing and the way to it."""

    def available_to_build(self) -> str | None:
        """None when `pack` can work here, whether or not the result can run here."""

    def available_to_open(self) -> str | None:
        """As `available`, for engine files, which may need less than checkpoints."""

    def prepare(
        self, spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
    ) -> dict[str, np.ndarray]:
        """What `load` takes for a checkpoint that is opened without an engine file."""

    def pack(
        self,
        spec: CascadeSpec,
        tensors: Mapping[str, np.ndarray],
        precision: str,
        **options: Any,
    ) -> dict[str, np.ndarray]:
        """The tensors that an engine file holds for this backend."""

    def describe(self, packed: Mapping[str, np.ndarray]) -> dict[str, str]:
        """Of an executable backend: `target` and `precision`, what it was built for and computes
        in, and versions by package.
        """

    def estimate(self, spec: CascadeSpec, precision: str, **options: Any) -> str:
        """Of an executable backend: what `pack` would give, for people; errors as of `pack`."""

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


def choose(
    name: str = "auto", *, building: bool = False, opening: bool = False
) -> tuple[str, Backend, list[str]]:
    """The backend asked for or, with 'auto', the best that can run here.

    Args:
        name: a backend's name, or 'auto'.
        building: it need only build engines here, which is decided for one asked for by name; what
            'auto' builds can run here, too.
        opening: an engine file is there; `name` is its backend's.

    Returns:
        its name, the backend, and for 'auto' why better ones were passed over.

    Raises:
        UsageError: no backend has that name.
        Unavailable: it, or every one, cannot run here; the message says what is missing.
    """
    passed: list[str] = []
    candidates = (name,) if name != "auto" else AUTOMATIC[::-1] if sees_gpu() else AUTOMATIC
    for candidate in candidates:
        if name == "auto" and not building and candidate in BUILT_AHEAD:
            continue
        backend = get(candidate)
        build_only = building and name != "auto"
        if opening:
            reason = backend.available_to_open()
        else:
            reason = backend.available_to_build() if build_only else backend.available()
        if reason is None:
            return candidate, backend, passed
        passed.append(f"{candidate}: {reason}")
    if name != "auto":
        raise Unavailable(f"the backend {'; '.join(passed)}")
    raise Unavailable(f"no backend can run here: {'; '.join(passed)}")


def require_precision(name: str, precision: str, able: Sequence[str]) -> None:
    """Check that a backend can compute in what was asked for; it always takes 'auto'.

    Args:
        name: the backend's.
        precision: what was asked for.
        able: what the backend offers on the device that it is to run on.

    Raises:
        UsageError: no backend knows the precision.
        Unavailable: this one does not offer it, here.
    """
    if precision not in ("auto", *PRECISIONS):
        expected = ", ".join(("auto", *PRECISIONS))
        raise UsageError(f"precision is {precision!r}; expected one of {expected}")
    if precision not in ("auto", *able):
        raise Unavailable(
            f"{name}: has no {precision} here; it has {', '.join(able)}: take "
            f"`--precision {able[0]}`, or another --backend"
        )


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
    except Exception:  # a package without its libraries raises what it likes
        return False
    # An empty folder called torch imports as a package, too.
    return hasattr(torch, "cuda") and torch.cuda.is_available()
