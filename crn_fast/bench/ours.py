"""This package's backends as subjects, by name, in the form of `peers.Peer`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import backends, cascade
from crn_fast.engine import Engine
from crn_fast.errors import Unavailable
from crn_fast.measure.gate import Subject

REFERENCE = "reference"
"""The subject of the backend eager: `eager` is the peer, torch as its users write it."""


def native(model: Path, labels: Path, threads: int) -> Subject:
    """The C++ kernels, of an engine file or a checkpoint."""
    engine, ids = Engine.open(model, backend="native", threads=threads), np.load(labels)
    renderer: Any = engine._renderer  # before rounding there is no public way to the values
    spec = renderer.spec

    def exact() -> np.ndarray:
        rgb: np.ndarray = cascade.synthesize(renderer.ops, spec, renderer.weights, ids)
        return rgb

    kind = "engine file" if model.suffix == ".crn" else "checkpoint"
    return Subject("native", lambda: renderer(ids), f"{engine.device}, {kind}", exact)


def reference(model: Path, labels: Path, threads: int) -> Subject:
    """The reference ops, float32."""
    return _open(REFERENCE, "eager", model, labels, threads)


def fused(model: Path, labels: Path, threads: int) -> Subject:
    """The Triton kernels, fp16."""
    return _open("fused", "fused", model, labels, threads)


def trt(model: Path, labels: Path, threads: int) -> Subject:
    """TensorRT, fp16; what is timed is the built engine."""
    return _open("trt", "trt", model, labels, threads)


OURS: dict[str, Callable[[Path, Path, int], Subject]] = {
    maker.__name__: maker for maker in (native, reference, trt, fused)
}
"""Subject -> maker; the first that can run is the one that peers are compared with."""


def why_not(name: str) -> str | None:
    """None when the backend of that subject can run here, else what is missing."""
    return backends.get("eager" if name == REFERENCE else name).available()


def _open(name: str, backend: str, model: Path, labels: Path, threads: int) -> Subject:
    if reason := backends.get(backend).available():
        raise Unavailable(reason)
    engine, ids = Engine.open(model, backend=backend, threads=threads), np.load(labels)
    settings = f"backend {backend}, {engine.precision} on {engine.device}"
    return Subject(name, lambda: engine.render(ids), settings)
