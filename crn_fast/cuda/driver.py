"""A GPU's context, memory, streams and graphs: six methods, over pycuda or over cuda.core.

Both packages are imported when a driver is made; pycuda is taken first. A driver has three streams,
so that uploads and downloads overlap with the network. What is the same under both, as launching a
compiled kernel is, is in `library`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib import import_module
from typing import Any, NamedTuple, Protocol

import numpy as np

from crn_fast.cuda import library
from crn_fast.cuda.library import LIBRARY
from crn_fast.errors import ResourceError, Unavailable


class Stream(NamedTuple):
    handle: int
    """CUstream, as TensorRT takes it."""
    own: Any
    """The package's object."""


class Streams(NamedTuple):
    upload: Stream
    compute: Stream
    download: Stream


class Buffer(NamedTuple):
    """A page-locked array on the host and memory of the same size on the device."""

    host: np.ndarray
    """uint8 [bytes]"""
    address: int
    own: Any
    """What keeps both alive."""


class Memory(NamedTuple):
    """On the device alone; its values are undefined."""

    address: int
    """A multiple of 256."""
    own: Any
    """What keeps it alive."""


class Driver(Protocol):
    """A GPU's memory, copies, order and graphs. Use it inside `with driver:`, on any thread."""

    gpu: str
    capability: tuple[int, int]
    streams: Streams

    def __enter__(self) -> Driver: ...
    def __exit__(self, *_: object) -> None: ...

    def allocate(self, nbytes: int) -> Buffer:
        """Raises ResourceError when there is no such memory."""

    def reserve(self, nbytes: int) -> Memory:
        """Raises ResourceError when there is no such memory."""

    def copy(self, buffer: Buffer, stream: Stream, *, up: bool) -> None:
        """Queue the copy of a whole buffer to the device (`up`) or back."""

    def record(self, stream: Stream) -> Any:
        """An event that comes when the work queued so far is done."""

    def wait(self, event: Any, stream: Stream | None = None) -> None:
        """Let what is queued on the stream from now on, or the caller, wait for an event."""

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` queues on the stream as a graph; the result launches it there."""


class PyCuda:
    """`Driver` over pycuda, which has no graphs: those go through the driver's own library."""

    def __init__(self, device: int) -> None:
        self._cuda = import_module("pycuda.driver")
        self._cuda.init()
        if device >= (count := self._cuda.Device.count()):
            raise Unavailable(f"--device {device}: the driver has {count} GPUs")
        handle = self._cuda.Device(device)
        self.gpu, self.capability = handle.name(), tuple(handle.compute_capability())
        self._context = handle.retain_primary_context()
        with self:
            made = [self._cuda.Stream() for _ in Streams._fields]
        self.streams = Streams(*(Stream(int(own.handle), own) for own in made))

    def __enter__(self) -> PyCuda:
        self._context.push()
        return self

    def __exit__(self, *_: object) -> None:
        self._context.pop()

    def allocate(self, nbytes: int) -> Buffer:
        try:
            host = self._cuda.pagelocked_empty(nbytes, np.uint8)
        except self._cuda.MemoryError as error:
            raise _out_of_memory("page-locked memory", nbytes, error) from None
        return Buffer(host, *self.reserve(nbytes))

    def reserve(self, nbytes: int) -> Memory:
        try:
            memory = self._cuda.mem_alloc(nbytes)
        except self._cuda.MemoryError as error:
            raise _out_of_memory("GPU memory", nbytes, error) from None
        return Memory(int(memory), memory)

    def copy(self, buffer: Buffer, stream: Stream, *, up: bool) -> None:
        if up:
            self._cuda.memcpy_htod_async(buffer.address, buffer.host, stream.own)
        else:
            self._cuda.memcpy_dtoh_async(buffer.host, buffer.address, stream.own)

    def record(self, stream: Stream) -> Any:
        event = self._cuda.Event(self._cuda.event_flags.DISABLE_TIMING)
        event.record(stream.own)
        return event

    def wait(self, event: Any, stream: Stream | None = None) -> None:
        if stream is None:
            event.synchronize()
        else:
            stream.own.wait_for_event(event)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        library, queue = ctypes.CDLL(LIBRARY), ctypes.c_void_p(stream.handle)

        def call(name: str, *arguments: Any) -> None:
            if code := getattr(library, name)(*arguments):
                raise ResourceError(f"{self.gpu}: {name} failed with CUDA error {code}")

        graph, executable = ctypes.c_void_p(), ctypes.c_void_p()
        relaxed = 2
        call("cuStreamBeginCapture_v2", queue, relaxed)
        try:
            work()
        finally:
            call("cuStreamEndCapture", queue, ctypes.byref(graph))
        flags = ctypes.c_ulonglong(0)
        call("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, flags)
        call("cuGraphDestroy", graph)
        return lambda: call("cuGraphLaunch", executable, queue)


class CudaCore:
    """`Driver` over cuda.core."""

    def __init__(self, device: int) -> None:
        core = import_module("cuda.core")
        if device >= (count := len(core.Device.get_all_devices())):
            raise Unavailable(f"--device {device}: the driver has {count} GPUs")
        self._core, self._device = core, core.Device(device)
        with self:
            capability = self._device.compute_capability
            self.gpu, self.capability = self._device.name, (capability.major, capability.minor)
            made = [self._device.create_stream() for _ in Streams._fields]
        self.streams = Streams(*(Stream(int(own.handle), own) for own in made))
        self._pinned = core.LegacyPinnedMemoryResource()

    def __enter__(self) -> CudaCore:
        self._device.set_current()
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def allocate(self, nbytes: int) -> Buffer:
        try:
            pinned = self._pinned.allocate(nbytes)
        except Exception as error:  # cuda.core's CUDAError is an Exception and no more
            raise _out_of_memory("page-locked memory", nbytes, error) from None
        address, memory = self.reserve(nbytes)
        host = np.from_dlpack(pinned).view(np.uint8).reshape(-1)
        return Buffer(host, address, (pinned, memory))

    def reserve(self, nbytes: int) -> Memory:
        stream = self.streams.upload.own
        try:
            memory = self._device.allocate(nbytes, stream=stream)
        except Exception as error:
            raise _out_of_memory("GPU memory", nbytes, error) from None
        # Memory comes in the order of that stream; the others may use it at once.
        stream.sync()
        return Memory(int(memory.handle), memory)

    def copy(self, buffer: Buffer, stream: Stream, *, up: bool) -> None:
        pinned, memory = buffer.own
        source, target = (pinned, memory) if up else (memory, pinned)
        source.copy_to(target, stream=stream.own)

    def record(self, stream: Stream) -> Any:
        return stream.own.record()

    def wait(self, event: Any, stream: Stream | None = None) -> None:
        if stream is None:
            event.sync()
        else:
            stream.own.wait(event)

    def capture(self, stream: Stream, work: Callable[[], None]) -> Callable[[], None]:
        builder = stream.own.create_graph_builder()
        builder.begin_building()
        try:
            work()
        finally:
            builder.end_building()
        graph = builder.complete()
        return lambda: graph.launch(stream.own)


IMPLEMENTATIONS: dict[str, Callable[[int], Driver]] = {
    "pycuda.driver": PyCuda,
    "cuda.core": CudaCore,
}
"""Module that each needs -> the implementation, best first."""


def why_none() -> str | None:
    """None when a driver can be made, else what is missing and the way to it."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError:
        return f"there is no NVIDIA driver here ({LIBRARY} cannot be loaded)"
    reasons = []
    for name in IMPLEMENTATIONS:
        try:
            import_module(name)
            return None
        except Exception as error:  # a package without its libraries raises what it likes
            reasons.append(f"{name}: {(str(error) or repr(error)).splitlines()[0]}")
    return (
        f"neither pycuda nor cuda.core can be imported ({'; '.join(reasons)}): pip install "
        "'crn_fast[cuda]', or build pycuda's wheel: make pycuda-wheel"
    )


def capability(device: int = 0) -> tuple[int, int] | None:
    """A GPU's compute capability by the driver alone; None without a driver or such a GPU."""
    try:
        library = ctypes.CDLL(LIBRARY)
    except OSError:
        return None
    handle, values = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    if library.cuInit(0) or library.cuDeviceGet(ctypes.byref(handle), device):
        return None
    major_attribute, minor_attribute = 75, 76
    for value, attribute in zip(values, (major_attribute, minor_attribute), strict=True):
        library.cuDeviceGetAttribute(ctypes.byref(value), attribute, handle)
    return values[0].value, values[1].value


def make(device: int) -> Driver:
    """A driver for a GPU by its number.

    Raises:
        Unavailable: none can be made, or there is no such GPU.
    """
    if reason := why_none():
        raise Unavailable(reason)
    for name, implementation in IMPLEMENTATIONS.items():
        try:
            import_module(name)
        except Exception:  # `why_none` found another one
            continue
        return implementation(device)
    raise AssertionError("why_none found one")


def _out_of_memory(kind: str, nbytes: int, error: BaseException) -> ResourceError:
    """Inside `with driver:`."""
    return ResourceError(
        f"out of {kind}: {nbytes / 1e6:.1f} MB more needed, {library.free_memory() / 1e6:.1f} MB "
        f"of the GPU's free ({error}): close what else uses it, or take an engine of a smaller "
        "--batch"
    )
