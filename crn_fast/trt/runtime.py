"""Running a plan: TensorRT sees it here for the first time, and runs it as a pipeline's network.

Who may be run, and under which version, was decided before.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast.cuda import library
from crn_fast.cuda.driver import Driver
from crn_fast.cuda.pipeline import Labels, Pipeline, Slot, pieces
from crn_fast.errors import Outdated, ResourceError
from crn_fast.files import write_whole
from crn_fast.spec import CascadeSpec
from crn_fast.trt.build import About
from crn_fast.trt.flavour import Flavour, logger
from crn_fast.trt.network import LABELS, PICTURES


class PlanRenderer:
    """A plan that is ready to run."""

    def __init__(
        self, flavour: Flavour, plan: bytes, about: About, spec: CascadeSpec, driver: Driver
    ) -> None:
        """Hand the plan to TensorRT.

        Raises:
            Outdated: TensorRT does not take it here, or it is another network's.
            ResourceError: not enough GPU memory.
        """
        self.spec, self.precision, self.batch = spec, about.precision, about.batch
        self.device = f"{driver.gpu}, {flavour.title}"
        self._driver, self._flavour = driver, flavour
        pixels, most = spec.size[0] * spec.size[1], about.batch[1]
        with driver:
            self._runtime = flavour.trt.Runtime(logger(flavour.trt))
            self._engine = self._deserialize(plan)
            self._check_tensors(about)
            self._cache_file = _cache_file(plan, driver.capability)
            self._context, self._cache = self._make_context()
            self._pipeline = Pipeline(
                driver, most * pixels, most * spec.images * pixels * 3, self._work, self._read
            )

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: out of memory, or TensorRT failed.
        """
        return np.concatenate([*self.stream([labels])])

    def stream(self, batches: Iterable[Labels]) -> Iterator[np.ndarray]:
        """Batches of layouts -> their pictures in order, two of the plan's batches in flight.

        Raises:
            ResourceError: out of memory, or TensorRT failed.
            UsageError: this thread is in the middle of another one.
        """
        parts = (piece for batch in batches for piece in pieces(batch, self.batch[1]))
        for pictures in self._pipeline.stream(parts):
            self._keep_cache()
            yield pictures

    def timings(self, labels: np.ndarray) -> dict[str, float]:
        """Seconds of `upload`, `compute` and `download` of labels that `__call__` takes."""
        return self._pipeline.timings(pieces(labels, self.batch[1]))

    def _work(self, slot: Slot, layouts: int) -> None:
        """Queue the network, for no fewer layouts than the plan takes.

        TensorRT-RTX makes its own graphs.
        """
        layouts, stream = max(layouts, self.batch[0]), self._driver.streams.compute

        def work() -> None:
            if self.batch[0] != self.batch[1]:
                self._context.set_input_shape(LABELS, (layouts, *self.spec.size))
            self._context.set_tensor_address(LABELS, slot.upload.address)
            self._context.set_tensor_address(PICTURES, slot.download.address)
            if not self._context.execute_async_v3(stream.handle):
                raise ResourceError(
                    f"{self._flavour.title} could not run the plan: {self._words()}"
                )

        if self._flavour.rtx:
            work()
        else:
            slot.launch(self._driver, stream, layouts, work)

    def _read(self, bytes_back: np.ndarray, layouts: int) -> np.ndarray:
        pictures = bytes_back.reshape(-1, self.spec.images, *self.spec.size, 3)
        return pictures[:layouts].copy()

    def _deserialize(self, plan: bytes) -> Any:
        del logger(self._flavour.trt).errors[:]
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise Outdated(
                f"{self._flavour.title} does not take this plan on {self._driver.gpu}: "
                f"{self._words()}"
            )
        return engine

    def _check_tensors(self, about: About) -> None:
        """The plan's input and output are those of the spec."""
        layouts = -1 if about.batch[0] != about.batch[1] else about.batch[0]
        size = self.spec.size
        expected = {
            LABELS: (layouts, *size),
            PICTURES: (layouts, self.spec.images, *size, 3),
        }
        names = [self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)]
        found = {name: tuple(self._engine.get_tensor_shape(name)) for name in names}
        uint8 = self._flavour.trt.uint8
        if found != expected or any(self._engine.get_tensor_dtype(n) != uint8 for n in names):
            raise Outdated(
                f"the plan takes and gives {found}; its engine file says uint8 {expected}"
            )

    def _make_context(self) -> tuple[Any, Any]:
        blob = self._cache_file.read_bytes() if self._cache_file.is_file() else None
        context, cache = self._flavour.create_context(self._engine, blob)
        if context is None:
            needed = self._flavour.memory_size(self._engine) / 1e6
            raise ResourceError(
                f"{self._flavour.title} could not prepare the plan, which needs {needed:.0f} MB of "
                f"GPU memory; {library.free_memory() / 1e6:.0f} MB are free: {self._words()}"
            )
        return context, cache

    def _keep_cache(self) -> None:
        """Store the kernels that TensorRT-RTX compiled in the first run, for the next process."""
        if self._cache is None:
            return
        blob, self._cache = bytes(self._cache.serialize()), None
        try:
            self._cache_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            write_whole(self._cache_file, lambda stream: stream.write(blob))
        except OSError:
            pass  # a later process compiles them again, which changes nothing but its first run

    def _words(self) -> str:
        return "; ".join(logger(self._flavour.trt).errors[:3]) or "it gave no reason"


def _cache_file(plan: bytes, capability: tuple[int, int]) -> Path:
    """Of kernels compiled for one plan on one kind of GPU.

    In the user's own folder and not beside the engine, as they are code that is run as it is found.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"{hashlib.sha256(plan).hexdigest()[:32]}-sm_{capability[0]}{capability[1]}.bin"
    return Path(root) / "crn_fast" / "tensorrt_rtx" / name
