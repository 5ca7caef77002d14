"""Runs a Gluon kernel's own source on a CPU, with stand-ins for Gluon's primitives.

Triton's interpreter knows no Gluon. Here the functions run as plain Python on torch tensors, each
partition of the warps in a thread of its own, one at a time, in an order that a seed decides. What
is asynchronous on the device is as late as it may be, or as early, by lot:

- a TMA load fills its buffer with NaN when it is issued and with values at some later moment, when
  it also reports to its mbarrier;
- a product reads its operands when it is waited for, so a buffer that was given back too early has
  other values by then;
- a TMA store reads its buffer when it is waited for.

A deadlock, an mbarrier with too many arrivals, and a store without its fence are errors. What is
not modelled: memory layouts, swizzles, registers, and that warps of one partition drift apart
(where Triton's compiler puts barriers).
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from math import prod
from types import FunctionType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from crn_fast.kernels.gpu.queue import Box


class Deadlock(Exception):
    """Nobody can go on."""


class Schedule:
    """Threads of which one runs at a time, and things that happen by themselves."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.events: list[Callable[[], None]] = []
        self._tasks: list[_Task] = []
        self._current: _Task | None = None
        self._turn = threading.Semaphore(0)

    def run(self, functions: list[Callable[[], None]]) -> None:
        """Until all have ended; raises what they raise, or Deadlock."""
        self._tasks = [_Task(function, self._turn) for function in functions]
        while live := [task for task in self._tasks if not task.done]:
            choices: list[_Task | None] = [task for task in live if task.ready()]
            choices += [None] * len(self.events)
            if not choices:
                self._abandon()
                raise Deadlock
            task = self.random.choice(choices)
            if task is None:
                self.events.pop(self.random.randrange(len(self.events)))()
                continue
            self._current = task
            task.go.release()
            self._turn.acquire()
            if task.error is not None:
                self._abandon()
                raise task.error
        while self.events:
            self.events.pop(0)()

    def wait(self, ready: Callable[[], bool]) -> None:
        """Let others run, until `ready`."""
        task = self._current
        assert task is not None
        task.ready = ready
        self._turn.release()
        task.go.acquire()
        if task.abandoned:
            raise SystemExit

    def _abandon(self) -> None:
        for task in self._tasks:
            if not task.done:
                task.abandoned = True
                task.go.release()
                task.thread.join()


class _Task:
    def __init__(self, function: Callable[[], None], turn: threading.Semaphore) -> None:
        self.go, self.ready = threading.Semaphore(0), lambda: True
        self.done = self.abandoned = False
        self.error: BaseException | None = None

        def body() -> None:
            self.go.acquire()
            try:
                if not self.abandoned:
                    function()
            except SystemExit:
                pass
            except BaseException as error:
                self.error = error
            self.done = True
            turn.release()

        self.thread = threading.Thread(target=body, daemon=True)
        self.thread.start()


class Barrier:
    """An mbarrier: a phase ends when all have arrived and all bytes have."""

    def __init__(self) -> None:
        self.count = self.missing = self.bytes = self.phase = 0

    def init(self, count: int) -> None:
        self.count = self.missing = count

    def arrive(self, count: int) -> None:
        self.missing -= count
        assert self.missing >= 0, "an mbarrier has more arrivals than it expects"
        self._end()

    def _end(self) -> None:
        if self.missing == 0 and self.bytes == 0:
            self.phase ^= 1
            self.missing = self.count

    def expect(self, count: int) -> None:
        self.bytes += count
        self.arrive(1)

    def complete(self, count: int) -> None:
        self.bytes -= count
        self._end()


class Shared:
    """Shared memory, or a part of it."""

    def __init__(self, values: Tensor) -> None:
        self.values, self.dtype = values, values.dtype
        self.fenced = False

    def index(self, i: int) -> Shared:
        return Shared(self.values[i])

    def reshape(self, shape: tuple[int, ...]) -> Shared:
        view = Shared(self.values.view(shape))
        view.store = self.store  # type: ignore[method-assign]
        return view

    def permute(self, order: tuple[int, ...]) -> Shared:
        return Shared(self.values.permute(order))

    def store(self, values: Tensor) -> None:
        self.values.copy_(values.view(self.values.shape))
        self.fenced = False


class Barriers:
    def __init__(self, count: int) -> None:
        self.barriers = [Barrier() for _ in range(count)]

    def index(self, i: int) -> Barrier:
        return self.barriers[i]


class Descriptor:
    """A tensor that is read and written in boxes: zeros, and nothing, outside of it."""

    def __init__(self, box: Box) -> None:
        self.tensor, self.block_shape, self.layout = box.tensor, list(box.shape), None
        self.dtype = box.tensor.dtype
        self.block_type = SimpleNamespace(nbytes=prod(box.shape) * box.tensor.element_size())

    def read(self, corner: list[int]) -> Tensor:
        found = torch.zeros(self.block_shape, dtype=self.dtype)
        there, here = self._overlap(corner)
        found[here] = self.tensor[there]
        return found

    def write(self, corner: list[int], values: Tensor) -> None:
        there, here = self._overlap(corner)
        self.tensor[there] = values[here]

    def _overlap(self, corner: list[int]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
        there, here = [], []
        for first, wide, size in zip(corner, self.block_shape, self.tensor.shape, strict=True):
            start, stop = max(first, 0), max(min(first + wide, size), 0)
            there.append(slice(start, max(stop, start)))
            here.append(slice(start - first, max(stop, start) - first))
        return tuple(there), tuple(here)


class Pointer:
    def __init__(self, values: Tensor, at: int = 0) -> None:
        self.values, self.at = values, at

    def __add__(self, more: int) -> Pointer:
        return Pointer(self.values, self.at + more)


class Program:
    """One program of a launch."""

    def __init__(self, schedule: Schedule, warps: int, number: int, programs: int) -> None:
        self.schedule = schedule
        self.products: list[tuple[Tensor, Shared, Shared]] = []
        self.stores: list[Callable[[], None]] = []
        self.fences: list[Shared] = []
        self.gl = SimpleNamespace(
            program_id=lambda axis: number,
            num_programs=lambda axis: programs,
            num_warps=lambda: warps,
            float32=torch.float32,
            int64=torch.int64,
            NVMMADistributedLayout=lambda *_: None,
            SliceLayout=lambda *_: None,
            zeros=lambda shape, dtype, layout: torch.zeros(shape, dtype=dtype),
            arange=lambda start, stop, layout: torch.arange(start, stop),
            static_range=range,
            allocate_shared_memory=self._allocate,
            warp_specialize=self._specialise,
        )
        self.tl = SimpleNamespace(
            float32=torch.float32,
            sum=lambda x, axis=None, keep_dims=False: (
                x.sum() if axis is None else x.sum(axis, keepdim=keep_dims)
            ),
            where=torch.where,
            maximum=lambda a, b: torch.clamp(torch.as_tensor(a), min=b),
            store=lambda pointer, value: pointer.values.view(-1).__setitem__(pointer.at, value),
        )
        self.mbarrier = SimpleNamespace(
            MBarrierLayout=lambda: None,
            init=lambda barrier, count: barrier.init(count),
            expect=lambda barrier, count: barrier.expect(count),
            arrive=lambda barrier, count, pred=True: barrier.arrive(count) if pred else None,
            wait=lambda barrier, odd: schedule.wait(lambda: barrier.phase != odd),
        )
        self.tma = SimpleNamespace(store_wait=lambda pendings: self._drain())

    def names(self) -> dict[str, Any]:
        """What a kernel's source calls."""
        return {
            "gl": self.gl,
            "tl": self.tl,
            "tma": self.tma,
            "mbarrier": self.mbarrier,
            "load": self._load,
            "store": self._store,
            "reinterpret": self._reinterpret,
            "fence_async_shared": self._fence,
            "warpgroup_mma": self._multiply,
            "warpgroup_mma_wait": self._wait,
        }

    def _allocate(self, dtype: torch.dtype, shape: list[int], layout: object) -> Any:
        if dtype == torch.int64:
            return Barriers(shape[0])
        made = Shared(torch.full(shape, torch.nan, dtype=dtype))
        self.fences.append(made)
        return made

    def _specialise(self, partitions: Any, warps: list[int], registers: list[int]) -> None:
        self.schedule.run([lambda f=f, a=a: f(*a) for f, a in partitions])

    def _load(self, box: Descriptor, corner: list[int], barrier: Barrier, buffer: Shared) -> None:
        buffer.values.fill_(torch.nan)

        def arrive() -> None:
            buffer.values.copy_(box.read(corner))
            barrier.complete(box.block_type.nbytes)

        self.schedule.events.append(arrive)

    def _store(self, box: Descriptor, corner: list[int], buffer: Shared) -> None:
        assert buffer.fenced, "a TMA store without a fence after the values were written"
        self.stores.append(lambda: box.write(corner, buffer.values))

    def _drain(self) -> None:
        while self.stores:
            self.stores.pop(0)()

    def _fence(self) -> None:
        for shared in self.fences:
            shared.fenced = True

    def _reinterpret(
        self, buffer: Shared, dtype: torch.dtype, shape: list[int], _: object
    ) -> Shared:
        assert buffer.dtype == dtype
        return Shared(buffer.values.view(-1)[: prod(shape)].view(shape))

    def _multiply(self, a: Shared, b: Shared, acc: Tensor, is_async: bool) -> Tensor:
        self.products.append((acc, a, b))
        return acc

    def _wait(self, num_outstanding: int, deps: tuple[Tensor]) -> Tensor:
        self.schedule.wait(lambda: True)
        while len(self.products) > num_outstanding:
            acc, a, b = self.products.pop(0)
            acc += a.values.float() @ b.values.float()
        return deps[0]


def launch(
    kernel: Any,
    programs: int,
    warps: int,
    arguments: dict[str, Any],
    seed: int = 0,
    **replaced: Any,
) -> None:
    """Run a Gluon kernel, program by program. `replaced`: functions instead of those it calls.

    Raises:
        Deadlock: partitions wait for each other.
        AssertionError: a rule of the device is broken.
    """

    def live(value: Any) -> Any:
        if isinstance(value, Box):
            return Descriptor(value)
        return Pointer(value) if isinstance(value, Tensor) else value

    for number in range(programs):
        program = Program(Schedule(seed + number), warps, number, programs)
        rebuild(kernel, program.names() | replaced)(**{k: live(v) for k, v in arguments.items()})


def rebuild(kernel: Any, names: dict[str, Any]) -> Callable[..., Any]:
    """A jitted function as plain Python, with other things under the names that it calls."""
    plain = kernel.fn
    space = dict(plain.__globals__)
    found = FunctionType(plain.__code__, space, plain.__name__, plain.__defaults__)
    for name in plain.__code__.co_names:
        called = names.get(name, space.get(name))
        if hasattr(called, "fn"):
            space[name] = rebuild(called, names)
        elif name in names:
            space[name] = called
        elif hasattr(called, "value"):
            space[name] = called.value
    return found
