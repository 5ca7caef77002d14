"""A CUDA driver that is not there: queues, memory and graphs, played in any order that they allow.

It stands in for pycuda, for cuda.core and for the driver's own library. What is queued runs only
when somebody waits, in a random order that respects streams and events, so that a missing wait, or
a buffer that is used again too early, gives wrong pictures. Its memory is the host's, full of NaN,
and its addresses are real ones. It also stands in for TensorRT's runtime; what machine code does is
for `Machine.play` to say (see `program_stand_in`).
"""

from __future__ import annotations

import ctypes
import random
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest

from crn_fast.cuda import driver
from crn_fast.cuda import library as cuda_library
from crn_fast.trt import flavour

ALIGNMENT = 256


class TensorMap(NamedTuple):
    """What a CUtensorMap was encoded from, outermost axis first."""

    address: int
    dtype: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """bytes, without the last axis"""
    box: tuple[int, ...]
    swizzle: int


class Event:
    done = False


class Stream:
    def __init__(self, machine: Machine) -> None:
        self.machine, self.handle = machine, 0x1000 + len(machine.streams)
        self.queue: list[Callable[[], bool]] = []
        self.captured: list[Callable[[], bool]] | None = None
        machine.streams.append(self)

    def put(self, work: Callable[[], Any]) -> None:
        def step() -> bool:
            work()
            return True

        (self.queue if self.captured is None else self.captured).append(step)

    def put_wait(self, event: Event) -> None:
        self.queue.append(lambda: event.done)

    def put_event(self, event: Event) -> None:
        self.put(lambda: setattr(event, "done", True))


class Machine:
    """A GPU: its streams, its memory by address, and a log of the calls."""

    def __init__(self, capability: tuple[int, int] = (8, 9)) -> None:
        self.capability, self.capacity = capability, 1 << 30
        self.streams: list[Stream] = []
        self.memory: dict[int, np.ndarray] = {}
        self.graphs: dict[int, list[Callable[[], bool]]] = {}
        self.log: list[str] = []
        self.random = random.Random(0)
        self.maps: dict[bytes, TensorMap] = {}
        self.functions: dict[int, tuple[bytes, str]] = {}
        self.play: Callable[[bytes, str, tuple[int, ...], list[int]], Callable[[], Any]] | None
        self.play = None
        """Given a cubin, its kernel's name, (grid, threads, shared) and the addresses of the
        parameters: what the launch does. Parameters are read before it returns."""

    @property
    def free(self) -> int:
        return self.capacity - sum(array.nbytes for array in self.memory.values())

    def allocate(self, nbytes: int) -> int:
        if nbytes > self.free:
            raise MemoryError("out of memory")
        room = np.full(nbytes + ALIGNMENT, 0xFF, np.uint8)
        start = -room.ctypes.data % ALIGNMENT
        array = room[start : start + nbytes]
        self.memory[array.ctypes.data] = array
        return int(array.ctypes.data)

    def at(self, address: int) -> np.ndarray:
        """Memory from an address on, to the end of what was allocated."""
        for start, array in self.memory.items():
            if start <= address < start + array.nbytes:
                return array[address - start :]
        raise AssertionError(f"an illegal address: {address:#x}")

    def stream(self, handle: int) -> Stream:
        return next(s for s in self.streams if s.handle == handle)

    def finish(self, event: Event) -> None:
        """Run what is queued, in a random order, until an event comes."""
        while not event.done:
            ready = [s for s in self.streams if s.queue]
            self.random.shuffle(ready)
            # Seldom fair: a stream runs for a while before another one does.
            assert any(self._advance(s) for s in ready), "a deadlock: nothing can run"

    def _advance(self, stream: Stream) -> bool:
        ran = False
        while stream.queue and stream.queue[0]():
            stream.queue.pop(0)
            ran = True
            if self.random.random() < 0.3:
                break
        return ran


def pycuda(machine: Machine) -> ModuleType:
    module: Any = ModuleType("pycuda.driver")

    class OutOfMemory(Exception):
        pass

    class Memory(int):
        pass

    class OwnStream(Stream):
        def __init__(self) -> None:
            super().__init__(machine)

        def wait_for_event(self, event: Any) -> None:
            self.put_wait(event)

    class OwnEvent(Event):
        def __init__(self, flags: int) -> None:
            assert flags == module.event_flags.DISABLE_TIMING

        def record(self, stream: Stream) -> None:
            stream.put_event(self)

        def synchronize(self) -> None:
            machine.finish(self)

    class Device:
        def __init__(self, number: int) -> None:
            assert number == 0

        @staticmethod
        def count() -> int:
            return 1

        def name(self) -> str:
            return "stand-in"

        def compute_capability(self) -> tuple[int, int]:
            return machine.capability

        def retain_primary_context(self) -> Any:
            return SimpleNamespace(
                push=lambda: machine.log.append("push"), pop=lambda: machine.log.append("pop")
            )

    def mem_alloc(nbytes: int) -> Memory:
        try:
            return Memory(machine.allocate(nbytes))
        except MemoryError as error:
            raise OutOfMemory(str(error)) from None

    def up(address: int, host: np.ndarray, stream: Stream) -> None:
        stream.put(lambda: machine.memory[address].__setitem__(slice(None), host))

    def down(host: np.ndarray, address: int, stream: Stream) -> None:
        stream.put(lambda: host.__setitem__(slice(None), machine.memory[address]))

    module.__dict__.update(
        init=lambda: machine.log.append("init"),
        event_flags=SimpleNamespace(DISABLE_TIMING=2),
        MemoryError=OutOfMemory,
        Device=Device,
        Stream=OwnStream,
        Event=OwnEvent,
        mem_alloc=mem_alloc,
        pagelocked_empty=lambda nbytes, dtype: np.full(nbytes, 0xCD, dtype),
        memcpy_htod_async=up,
        memcpy_dtoh_async=down,
    )
    return module


def cuda_core(machine: Machine) -> ModuleType:
    module: Any = ModuleType("cuda.core")

    class OwnEvent(Event):
        def sync(self) -> None:
            machine.finish(self)

    class OwnStream(Stream):
        def record(self) -> OwnEvent:
            event = OwnEvent()
            self.put_event(event)
            return event

        def wait(self, event: Event) -> None:
            self.put_wait(event)

        def sync(self) -> None:
            self.record().sync()

        def create_graph_builder(self) -> Any:
            steps: list[Callable[[], bool]] = []

            def launch(stream: Stream) -> None:
                machine.log.append("graph")
                stream.queue.extend(steps)

            return SimpleNamespace(
                begin_building=lambda: setattr(self, "captured", []),
                end_building=lambda: steps.extend(_end_capture(self)),
                complete=lambda: SimpleNamespace(launch=launch),
            )

    class Memory:
        def __init__(self, values: np.ndarray, handle: int) -> None:
            self.values, self.handle = values, handle

        def copy_to(self, target: Memory, *, stream: Stream) -> None:
            stream.put(lambda: target.values.__setitem__(slice(None), self.values))

        def __dlpack__(self, **options: Any) -> Any:
            return self.values.__dlpack__(**options)

        def __dlpack_device__(self) -> Any:
            return self.values.__dlpack_device__()

    class Device:
        name = "stand-in"

        @property
        def compute_capability(self) -> Any:
            return SimpleNamespace(major=machine.capability[0], minor=machine.capability[1])

        def __init__(self, number: int) -> None:
            assert number == 0

        @staticmethod
        def get_all_devices() -> list[int]:
            return [0]

        def set_current(self) -> None:
            machine.log.append("push")

        def create_stream(self) -> OwnStream:
            return OwnStream(machine)

        def allocate(self, nbytes: int, *, stream: Stream) -> Memory:
            address = machine.allocate(nbytes)
            return Memory(machine.memory[address], address)

    def pinned(nbytes: int) -> Memory:
        return Memory(np.full(nbytes, 0xCD, np.uint8), 0)

    module.Device = Device
    module.LegacyPinnedMemoryResource = lambda: SimpleNamespace(allocate=pinned)
    return module


def _end_capture(stream: Stream) -> list[Callable[[], bool]]:
    steps, stream.captured = stream.captured, None
    assert steps is not None
    return steps


def library(machine: Machine) -> Any:
    """libcuda.so.1, as far as `crn_fast.cuda` calls it through ctypes."""

    def begin(stream: Any, mode: int) -> int:
        assert mode == 2
        machine.stream(stream.value).captured = []
        return 0

    def end(stream: Any, graph: Any) -> int:
        graph._obj.value = 0x5000 + len(machine.graphs)
        machine.graphs[graph._obj.value] = _end_capture(machine.stream(stream.value))
        return 0

    def instantiate(executable: Any, graph: Any, flags: Any) -> int:
        assert flags.value == 0
        executable._obj.value = graph.value
        return 0

    def launch(executable: Any, stream: Any) -> int:
        machine.log.append("graph")
        machine.stream(stream.value).queue.extend(machine.graphs[executable.value])
        return 0

    def attribute(value: Any, number: int, device: Any) -> int:
        value._obj.value = machine.capability[{75: 0, 76: 1}[number]]
        return 0

    def load_data(module: Any, image: Any) -> int:
        machine.log.append("load")
        module._obj.value = 0x6000 + len(machine.functions)
        machine.functions[module._obj.value] = (image.value, "")
        return 0

    def get_function(function: Any, module: Any, name: Any) -> int:
        function._obj.value = module.value
        machine.functions[module.value] = (machine.functions[module.value][0], name.value.decode())
        return 0

    def launch_kernel(function: Any, *rest: Any) -> int:
        sizes, stream, parameters, extra = rest[:7], *rest[7:]
        assert extra is None
        assert all(isinstance(size, ctypes.c_uint) for size in sizes)
        cubin, name = machine.functions[function.value]
        machine.log.append("kernel")
        assert machine.play is not None
        numbers = tuple(size.value for size in sizes)
        assert numbers[4:6] == (1, 1)
        work = machine.play(cubin, name, (*numbers[:4], numbers[6]), list(parameters))
        machine.stream(stream.value).put(work)
        return 0

    def encode(made: Any, dtype: Any, rank: Any, address: Any, *rest: Any) -> int:
        shape, strides, box, steps, interleave, swizzle, promotion, fill = rest
        assert made.value % 64 == address.value % 16 == 0
        assert set(steps) == {1} and (interleave.value, fill.value) == (0, 0)
        assert promotion.value == 2 and len(shape) == rank.value
        assert all(0 < size <= 256 for size in box)
        assert all(stride % 16 == 0 and stride > 0 for stride in strides[: rank.value - 1])
        found = TensorMap(
            address.value,
            dtype.value,
            tuple(shape)[::-1],
            tuple(strides)[: rank.value - 1][::-1],
            tuple(box)[::-1],
            swizzle.value,
        )
        blob = (b"map %d" % len(machine.maps)).ljust(127, b".") + b"!"
        machine.maps[blob] = found
        ctypes.memmove(made.value, blob, 128)
        return 0

    def memory_info(free: Any, total: Any) -> int:
        free._obj.value, total._obj.value = machine.free, machine.capacity
        return 0

    def write(address: Any, source: Any, size: Any) -> int:
        values = np.frombuffer(ctypes.string_at(source, size.value), np.uint8)
        machine.at(address.value)[: size.value] = values
        return 0

    def copy(target: Any, source: Any, size: Any, stream: Any) -> int:
        def work() -> None:
            machine.at(target.value)[: size.value] = machine.at(source.value)[: size.value]

        machine.stream(stream.value).put(work)
        return 0

    def clear(address: Any, value: Any, count: Any, stream: Any) -> int:
        assert value.value == 0 < count.value
        zeros = np.zeros(count.value, np.uint8)
        there = machine.at(address.value)[: zeros.size]
        machine.stream(stream.value).put(lambda: there.__setitem__(slice(None), zeros))
        return 0

    def version(found: Any) -> int:
        found._obj.value = 13020
        return 0

    return SimpleNamespace(
        cuModuleLoadData=load_data,
        cuModuleGetFunction=get_function,
        cuFuncSetCacheConfig=lambda function, config: 0,
        cuFuncSetAttribute=lambda function, attribute, value: 0,
        cuLaunchKernel=launch_kernel,
        cuTensorMapEncodeTiled=encode,
        cuDriverGetVersion=version,
        cuMemGetInfo_v2=memory_info,
        cuMemcpyHtoD_v2=write,
        cuMemcpyDtoDAsync_v2=copy,
        cuMemsetD8Async=clear,
        cuCtxSynchronize=lambda: machine.log.append("synchronize"),
        cuStreamSynchronize=lambda stream: machine.log.append(f"wait for {stream.value}"),
        cuInit=lambda flags: 0,
        cuDeviceGet=lambda device, number: int(number > 0),
        cuDeviceGetAttribute=attribute,
        cuStreamBeginCapture_v2=begin,
        cuStreamEndCapture=end,
        cuGraphInstantiateWithFlags=instantiate,
        cuGraphDestroy=lambda graph: 0,
        cuGraphLaunch=launch,
    )


MODULES = {"pycuda.driver": pycuda, "cuda.core": cuda_core}


def install(monkeypatch: pytest.MonkeyPatch, machine: Machine, package: str) -> None:
    """Let `crn_fast.cuda` find this driver, through one of the two packages."""
    made = MODULES[package](machine)

    def find(name: str) -> ModuleType:
        if name == package:
            return made
        raise ImportError(f"No module named {name!r}")

    def load(name: str) -> Any:
        assert name == driver.LIBRARY
        return library(machine)

    monkeypatch.setattr(driver, "import_module", find)
    for module in (driver, cuda_library):
        monkeypatch.setattr(module, "ctypes", SimpleNamespace(**vars(ctypes) | {"CDLL": load}))


def pictures_of(labels: np.ndarray, images: int) -> np.ndarray:
    """What the stand-in's network makes: uint8 [N, H, W] -> [N, K, H, W, 3]."""
    k = np.arange(images).reshape(1, -1, 1, 1, 1)
    c = np.arange(3).reshape(1, 1, 1, 1, 3)
    return (labels[:, None, :, :, None] * 7 + k * 50 + c).astype(np.uint8)


def tensorrt(machine: Machine, tensors: dict[str, tuple[int, ...]], rtx: bool) -> flavour.Flavour:
    """A TensorRT whose every plan is one network, with these inputs and outputs."""
    (labels, shape), (pictures, _) = tensors.items()

    class Log:
        Severity = SimpleNamespace(ERROR=1, INTERNAL_ERROR=0)

    class Context:
        def __init__(self) -> None:
            self.addresses: dict[str, int] = {}
            self.layouts = shape[0]

        def set_input_shape(self, name: str, given: tuple[int, ...]) -> None:
            assert (name, shape[0]) == (labels, -1)
            self.layouts = given[0]

        def set_tensor_address(self, name: str, address: int) -> None:
            assert address in machine.memory
            self.addresses[name] = address

        def execute_async_v3(self, handle: int) -> bool:
            machine.log.append("execute")
            source = machine.memory[self.addresses[labels]]
            target = machine.memory[self.addresses[pictures]]
            n, size, images = self.layouts, shape[1:], tensors[pictures][1]

            def work() -> None:
                ids = source[: n * size[0] * size[1]].reshape(n, *size)
                made = pictures_of(ids, images)
                target[: made.size] = made.reshape(-1)

            machine.stream(handle).put(work)
            return True

    class Engine:
        num_io_tensors = 2
        device_memory_size_v2 = 1000

        def get_tensor_name(self, i: int) -> str:
            return list(tensors)[i]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            return tensors[name]

        def get_tensor_dtype(self, name: str) -> str:
            return "uint8"

        def create_execution_context(self, config: Any = None) -> Context:
            assert (config is not None) == rtx
            return Context()

        def create_runtime_config(self) -> Any:
            cache = SimpleNamespace(
                deserialize=lambda blob: machine.log.append(f"cache {bytes(blob).decode()}"),
                serialize=lambda: b"compiled",
            )
            return SimpleNamespace(create_runtime_cache=lambda: cache, set_runtime_cache=id)

    def deserialize(plan: bytes) -> Engine | None:
        machine.log.append("deserialize")
        return Engine() if plan.startswith(b"plan") else None

    module = SimpleNamespace(
        uint8="uint8",
        ILogger=Log,
        Runtime=lambda log: SimpleNamespace(deserialize_cuda_engine=deserialize),
        CudaGraphStrategy=SimpleNamespace(WHOLE_GRAPH_CAPTURE=1),
    )
    return flavour.Flavour(Hashable(module), "tensorrt_rtx" if rtx else "tensorrt", "1.2.3")


class Hashable(SimpleNamespace):
    """As modules are."""

    def __init__(self, other: SimpleNamespace) -> None:
        super().__init__(**vars(other))

    __hash__ = object.__hash__
