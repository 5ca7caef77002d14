"""Of a run of benchmarks: by which command, on what and with which versions its rows were taken."""

from __future__ import annotations

import os
from datetime import UTC, datetime

from crn_fast.backends import sees_gpu
from crn_fast.measure import machine
from crn_fast.measure.rows import Origin

PACKAGES = ("crn-fast", "numpy", "torch", "onnx", "onnxruntime", "openvino", "triton")
"""Whose versions a row names."""


def of(command: str, commit: str = "unknown") -> Origin:
    """The origin of the rows of this run.

    Args:
        command: that takes them again.
        commit: of the sources, where they are at hand.
    """
    start = datetime.now(UTC).isoformat(timespec="seconds")
    return Origin(
        run=f"{start} {os.getpid()}",
        command=command,
        machine=machine.describe(_gpu()),
        versions=machine.versions(PACKAGES),
        commit=commit,
    )


def _gpu() -> str | None:
    if not sees_gpu():
        return None
    import torch

    return torch.cuda.get_device_name()
