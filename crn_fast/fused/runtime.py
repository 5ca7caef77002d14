"""Running a program on a GPU: weights and kernels are loaded once, a frame is one CUDA graph.

Neither torch nor Triton is needed, only the driver and pycuda or cuda.core. What is run was checked
by `program` and trusted by its user; here the driver sees it for the first time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from crn_fast.cuda import library
from crn_fast.cuda.driver import Driver, Memory
from crn_fast.cuda.pipeline import DeviceLabels, Labels, Pipeline, Slot, pieces
from crn_fast.errors import BadInput, Mismatch, Outdated, ResourceError
from crn_fast.fused.parameters import Parameters, values
from crn_fast.fused.program import (
    ELEMENTS,
    FLAG_BYTES,
    Box,
    Launch,
    Program,
    Programs,
    Region,
    region_sizes,
)
from crn_fast.spec import CascadeSpec

PIECE = 256
"""Alignment of each weight, in bytes."""
SPARE = 64 << 20
"""Bytes of the GPU's memory that are left to the driver, for code and for the graphs."""


class ProgramRenderer:
    """An engine file's programs for one target, ready on one GPU."""

    def __init__(
        self,
        spec: CascadeSpec,
        programs: Programs,
        packed: Mapping[str, np.ndarray],
        target: str,
        precision: str,
        driver: Driver,
    ) -> None:
        """Load what fits: the most layouts at a time that do, or one in the lean schedule.

        Args:
            spec: the network's.
            programs: of the target, checked.
            packed: the engine's tensors.
            target: 'sm_90'.
            precision: what they compute in.
            driver: of a GPU of that target.

        Raises:
            Mismatch: the driver does not take the code.
            ResourceError: not enough memory for any; needed and free are named.
        """
        self.spec, self.precision, self.target = spec, precision, target
        self._driver = driver
        self._weights = {
            name: array for name, array in packed.items() if name.startswith("weight.")
        }
        with driver:
            self.programs = self._fitting(programs, library.free_memory())
            self.most = self.programs[-1].layouts
            self._kernels = programs.kernels
            used = {launch.kernel for program in self.programs for launch in program.launches}
            self._functions = {kernel: self._load(packed, kernel) for kernel in sorted(used)}
            self._places: dict[str, int] = {}
            self._held = [self._place_weights(), self._place_arena()]
            largest = self.programs[-1]
            upload, download = _traffic(spec, largest)
            self._pipeline = Pipeline(driver, upload, download, self._work, self._read)
        self._launches: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        self.bytes = self._needed(largest)
        """Of the GPU's memory, all in all."""
        schedule = ", the lean schedule" if largest.lean else ""
        self.device = (
            f"{driver.gpu}, {target}, up to {self.most} layouts at a time{schedule}, "
            f"{self.bytes / 1e6:.0f} MB"
        )

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: the driver failed.
        """
        return np.concatenate([*self.stream([labels])])

    def stream(self, batches: Iterable[Labels]) -> Iterator[np.ndarray]:
        """Batches of layouts -> their pictures in order, two in flight; `most` at a time.

        While one batch is rendered, the next is uploaded and the last one downloaded.

        Args:
            batches: uint8 [N, H, W], checked; or ids that were born on this GPU, as `DeviceLabels`.

        Raises:
            BadInput: ids from the GPU are not the label set's, or of another size.
            ResourceError: the driver failed.
            UsageError: this thread is in the middle of another one.
        """
        return self._pipeline.stream(
            piece for batch in map(self._fits, batches) for piece in pieces(batch, self.most)
        )

    def render_device(self, labels: Any) -> np.ndarray:
        """Pictures of ids that were born on this GPU: uint8 RGB [N, K, H, W, 3] on the host.

        Args:
            labels: uint8 [N, H, W] with `__cuda_array_interface__`. The stream that it names is
                waited for; where it names none, all work of the GPU's context.

        Raises:
            BadInput: another type or shape, or ids outside of the label set.
            ResourceError: the driver failed.
        """
        return np.concatenate([*self.stream([DeviceLabels(labels)])])

    def timings(self, labels: np.ndarray) -> dict[str, float]:
        """Seconds of `upload`, `compute` and `download` of labels that `__call__` takes."""
        return self._pipeline.timings(pieces(labels, self.most))

    def _fits(self, labels: Labels) -> Labels:
        if not len(labels) or tuple(labels.shape[1:]) != self.spec.size:
            raise BadInput(
                f"labels of shape {tuple(labels.shape)}; expected at least one of "
                f"{self.spec.size[0]}x{self.spec.size[1]}"
            )
        return labels

    def _fitting(self, programs: Programs, free: int) -> list[Program]:
        """The programs to keep, fewest layouts first: P13's smaller batches, then the lean one."""
        plain = sorted((p for p in programs.programs if not p.lean), key=lambda p: p.layouts)
        lean = [program for program in programs.programs if program.lean]
        for kept in (*(plain[: end + 1] for end in reversed(range(len(plain)))), lean):
            if kept and self._needed(kept[-1]) + SPARE <= free:
                return kept
        least = min(self._needed(program) for program in programs.programs)
        raise ResourceError(
            f"{self._driver.gpu}: this engine needs {(least + SPARE) / 1e6:.0f} MB of GPU memory "
            f"for one layout; {free / 1e6:.0f} MB are free: close what else uses it, or take a "
            "smaller network"
        )

    def _needed(self, program: Program) -> int:
        weights = sum(_padded(array.nbytes) for array in self._weights.values())
        return weights + program.arena + 2 * sum(_traffic(self.spec, program))

    def _load(self, packed: Mapping[str, np.ndarray], number: int) -> int:
        kernel = self._kernels[number]
        cubin = packed[f"{self.target}.cubin.{kernel.cubin}"].tobytes()
        try:
            return library.load(cubin, kernel.name, kernel.shared)
        except Mismatch as error:
            raise Outdated(
                f"{error}, driver {library.version() / 1000:.1f}; the engine was compiled by "
                "another Triton, or the driver is too old",
                target=self.target,
            ) from None

    def _place_weights(self) -> Memory:
        memory = self._driver.reserve(sum(_padded(a.nbytes) for a in self._weights.values()))
        address = memory.address
        for name, array in self._weights.items():
            library.write(address, np.ascontiguousarray(array))
            self._places[name] = address
            address += _padded(array.nbytes)
        library.synchronize(None)
        return memory

    def _place_arena(self) -> Memory:
        memory = self._driver.reserve(max(1, *(program.arena for program in self.programs)))
        self._places["arena"] = memory.address
        return memory

    def _work(self, slot: Slot, layouts: int) -> None:
        """Queue the program of the fewest layouts that are enough."""
        number = next(i for i, p in enumerate(self.programs) if p.layouts >= layouts)
        stream = self._driver.streams.compute
        key = (slot.upload.address, number)
        if key not in self._launches:
            places = {
                "labels": slot.upload.address,
                "flag": slot.download.address,
                "pictures": slot.download.address + FLAG_BYTES,
            }
            self._launches[key] = self._prepare(self.programs[number].launches, places)

        def work() -> None:
            library.clear(slot.download.address, FLAG_BYTES, stream.handle)
            for function, grid, threads, shared, parameters in self._launches[key]:
                pointers = parameters.pointers
                library.launch(function, grid, threads, shared, pointers, stream.handle)

        slot.launch(self._driver, stream, number, work)

    def _prepare(
        self, launches: Sequence[Launch], places: Mapping[str, int]
    ) -> list[tuple[Any, ...]]:
        """Each launch as `library.launch` takes it, for one slot's addresses."""
        known = {**self._places, **places}

        def address(region: Region) -> int:
            return known[region.where] + region.start

        prepared = []
        for launch in launches:
            kernel = self._kernels[launch.kernel]
            found = Parameters(kernel, values(launch.arguments, address, _encode))
            function = self._functions[launch.kernel]
            prepared.append((function, launch.grid, kernel.warps * 32, kernel.shared, found))
        return prepared

    def _read(self, came: np.ndarray, layouts: int) -> np.ndarray:
        if came[:4].view(np.uint32)[0]:
            raise BadInput(
                "labels that came from the GPU hold ids outside of the label set's "
                f"{self.spec.classes}; the pictures are thrown away: check what makes the labels"
            )
        pictures = came[FLAG_BYTES:].reshape(-1, self.spec.images, *self.spec.size, 3)
        return pictures[:layouts].copy()


def _encode(address: int, box: Box) -> bytes:
    strides = [stride * ELEMENTS[box.dtype] for stride in box.strides]
    return library.tensor_map(address, box.dtype, box.shape, strides, box.box, box.swizzle)


def _traffic(spec: CascadeSpec, program: Program) -> tuple[int, int]:
    """Bytes that go up and come down with a frame."""
    sizes = region_sizes(spec, program, {})
    return sizes["labels"], FLAG_BYTES + sizes["pictures"]


def _padded(size: int) -> int:
    return -(-size // PIECE) * PIECE
