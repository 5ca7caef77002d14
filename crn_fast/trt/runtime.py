"""Running a plan: label maps go up, pictures come down, two batches in flight.

While the network works on one batch, the next is uploaded and the one before downloaded: each of
two slots has its own buffers, and events keep the three streams in order. Who may be run, and under
which version, was decided before; here TensorRT sees the plan for the first time.
"""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast.errors import Mismatch, ResourceError
from crn_fast.files import write_whole
from crn_fast.spec import CascadeSpec
from crn_fast.trt.build import About
from crn_fast.trt.driver import Buffer, Driver
from crn_fast.trt.flavour import Flavour, logger
from crn_fast.trt.network import LABELS, PICTURES


class PlanRenderer:
    """A plan that is ready to run."""

    def __init__(
        self, flavour: Flavour, plan: bytes, about: About, spec: CascadeSpec, driver: Driver
    ) -> None:
        """Hand the plan to TensorRT.

        Raises:
            Mismatch: TensorRT does not take it here, or it is another network's.
            ResourceError: not enough GPU memory.
        """
        self.spec, self.precision, self.batch = spec, about.precision, about.batch
        self.device = f"{driver.gpu}, {flavour.title}"
        self._driver, self._flavour = driver, flavour
        self._lock = threading.Lock()
        with driver:
            self._runtime = flavour.trt.Runtime(logger(flavour.trt))
            self._engine = self._deserialize(plan)
            self._check_tensors(about)
            self._cache_file = _cache_file(plan, driver.capability)
            self._context, self._cache = self._make_context()
            self._slots = [_Slot(driver, spec, about.batch[1]) for _ in range(2)]

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: out of memory, or TensorRT failed.
        """
        pictures = np.empty((len(labels), self.spec.images, *self.spec.size, 3), np.uint8)
        most = self.batch[1]
        with self._lock, self._driver:
            for i, start in enumerate(range(0, len(labels), most)):
                slot = self._slots[i % 2]
                slot.collect(self._driver)
                slot.target = pictures[start : start + most]
                self._start(slot, labels[start : start + most])
            for slot in self._slots:
                slot.collect(self._driver)
        self._keep_cache()
        return pictures

    def _start(self, slot: _Slot, labels: np.ndarray) -> None:
        """Queue one batch; a short one is filled up to the fewest that the plan takes."""
        layouts = max(len(labels), self.batch[0])
        slot.labels[: len(labels)] = labels
        slot.labels[len(labels) : layouts] = 0
        driver, streams = self._driver, self._driver.streams
        driver.copy(slot.upload, streams.upload, up=True)
        driver.wait(driver.record(streams.upload), streams.compute)
        self._launch(slot, layouts)
        driver.wait(driver.record(streams.compute), streams.download)
        driver.copy(slot.download, streams.download, up=False)
        slot.done = driver.record(streams.download)

    def _launch(self, slot: _Slot, layouts: int) -> None:
        """Run the network, from the second time on as a graph where TensorRT does not make its own.

        The first time lets TensorRT allocate and initialise what must not happen in a capture.
        """
        if layouts in slot.graphs:
            slot.graphs[layouts]()
            return
        stream = self._driver.streams.compute

        def work() -> None:
            if self.batch[0] != self.batch[1]:
                self._context.set_input_shape(LABELS, (layouts, *self.spec.size))
            self._context.set_tensor_address(LABELS, slot.upload.address)
            self._context.set_tensor_address(PICTURES, slot.download.address)
            if not self._context.execute_async_v3(stream.handle):
                raise ResourceError(
                    f"{self._flavour.title} could not run the plan: {self._words()}"
                )

        if layouts in slot.seen and not self._flavour.rtx:
            slot.graphs[layouts] = self._driver.capture(stream, work)
            slot.graphs[layouts]()
        else:
            slot.seen.add(layouts)
            work()

    def _deserialize(self, plan: bytes) -> Any:
        del logger(self._flavour.trt).errors[:]
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise Mismatch(
                f"{self._flavour.title} does not take this plan on {self._driver.gpu}: "
                f"{self._words()}: rebuild it: crn-fast build-engine CKPT --backend trt --force"
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
            raise Mismatch(
                f"the plan takes and gives {found}; its engine file says uint8 {expected}: build "
                "it again"
            )

    def _make_context(self) -> tuple[Any, Any]:
        blob = self._cache_file.read_bytes() if self._cache_file.is_file() else None
        context, cache = self._flavour.create_context(self._engine, blob)
        if context is None:
            needed = self._flavour.memory_size(self._engine) / 1e6
            raise ResourceError(
                f"{self._flavour.title} could not prepare the plan, which needs {needed:.0f} MB of "
                f"GPU memory: {self._words()}"
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


class _Slot:
    """Buffers of one batch in flight, and where its pictures go."""

    def __init__(self, driver: Driver, spec: CascadeSpec, layouts: int) -> None:
        height, width = spec.size
        self.upload: Buffer = driver.allocate(layouts * height * width)
        self.download: Buffer = driver.allocate(layouts * spec.images * height * width * 3)
        self.labels = self.upload.host.reshape(layouts, height, width)
        self.pictures = self.download.host.reshape(layouts, spec.images, height, width, 3)
        self.seen: set[int] = set()
        self.graphs: dict[int, Callable[[], None]] = {}
        self.done: Any = None
        self.target = np.empty(0, np.uint8)

    def collect(self, driver: Driver) -> None:
        """Wait for the batch in flight, if there is one, and hand its pictures over."""
        if self.done is not None:
            driver.wait(self.done)
            self.target[:] = self.pictures[: len(self.target)]
            self.done = None


def _cache_file(plan: bytes, capability: tuple[int, int]) -> Path:
    """Of kernels compiled for one plan on one kind of GPU.

    In the user's own folder and not beside the engine, as they are code that is run as it is found.
    """
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = f"{hashlib.sha256(plan).hexdigest()[:32]}-sm_{capability[0]}{capability[1]}.bin"
    return Path(root) / "crn_fast" / "tensorrt_rtx" / name
