"""A tiny network for benchmarks, and subjects of it that are slow or wrong, also for children.

The environment variable `CRN_TEST_KERNEL` decides what `native` becomes.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from crn_fast import checkpoint
from crn_fast.bench import inputs, ours
from crn_fast.bench.inputs import Inputs
from crn_fast.errors import Unavailable
from crn_fast.kernels import cpu
from crn_fast.measure.ceilings import Ceilings
from crn_fast.measure.gate import Checked, Subject
from crn_fast.spec import CascadeSpec

SPEC = CascadeSpec(widths=(24, 20, 18), base=(4, 8), classes=12, images=2)
CEILINGS = Ceilings({"numpy": 100.0}, 10.0, 1)
KERNEL = "CRN_TEST_KERNEL"
TIMES = 30
"""How often a slow kernel does its work."""


def model(folder: Path, spec: CascadeSpec = SPEC) -> Path:
    """A checkpoint called tiny."""
    path = folder / "tiny.safetensors"
    checkpoint.save(path, tiny.calm_checkpoint(spec))
    return path


def prepare(folder: Path, **given: Any) -> Inputs:
    return inputs.prepare(str(model(folder)), folder / "work", **given)


def native(path: Path, labels: Path, threads: int) -> Subject:
    """Ours, with the kernel of `conv` as the environment says: slow, wrong, or as it is."""
    right = cpu.conv

    def slow(*arguments: Any) -> Any:
        for _ in range(TIMES - 1):
            right(*arguments)
        return right(*arguments)

    def wrong(*arguments: Any) -> Any:
        result = right(*arguments)
        result.raw[...] = np.roll(result.raw, 1, axis=2)
        return result

    cpu.conv = {"slow": slow, "wrong": wrong}.get(os.environ.get(KERNEL, ""), right)
    return ours.native(path, labels, threads)


def absent(path: Path, labels: Path, threads: int) -> Subject:
    raise Unavailable("absent cannot be imported")


def shifted(path: Path, labels: Path, threads: int) -> Subject:
    """A peer whose pictures are moved by one pixel."""
    subject = ours.native(path, labels, threads)
    return Subject("shifted", lambda: np.roll(subject.run(), 1, axis=3))


class InProcess(Checked):
    """A `Child` that is none: starting Python for each takes seconds."""

    memory: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self,
        make: partial[Subject],
        expected: Path,
        limit: float,
        against: str,
        *,
        pictures: bool = True,
        **_: Any,
    ) -> None:
        super().__init__(make(), np.load(expected), limit, against, pictures=pictures)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass
