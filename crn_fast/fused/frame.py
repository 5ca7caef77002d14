"""One batch size of one network on one device: its buffers, planned once, and its CUDA graph."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from crn_fast import cascade
from crn_fast.cascade import CascadeWeights
from crn_fast.errors import BadInput, ResourceError
from crn_fast.fused.ops import Choices, FusedOps, Guard
from crn_fast.kernels.gpu.label_pyramid import known_ids
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.spec import CascadeSpec

STRANGE = (
    "labels that came from the GPU hold ids outside of the label set's {classes}; the pictures are "
    "thrown away: check what makes the labels"
)
"""Of the error for ids that only the device could check."""


class Ends(NamedTuple):
    """What a run reads besides weights and memory of its own, and raises."""

    labels: Tensor
    """uint8 [N, H, W]"""
    guard: Guard

    @classmethod
    def made(cls, spec: CascadeSpec, n: int, device: torch.device | str) -> Ends:
        labels = torch.zeros((n, *spec.size), dtype=torch.uint8, device=device)
        flag = torch.zeros(1, dtype=torch.int32, device=device)
        return cls(labels, Guard(known_ids(spec.classes).to(device), flag))


def run(queue: Queue, choices: Choices, weights: CascadeWeights, ends: Ends) -> Tensor:
    """Launch everything: uint8 RGB [N, K, H, W, 3]."""
    ops = FusedOps(queue, choices, ends.guard)
    pictures: Tensor = cascade.render(ops, choices.spec, weights, ends.labels)
    return pictures


def rehearse(choices: Choices, weights: CascadeWeights, n: int) -> Queue:
    """A queue that has recorded what rendering `n` layouts takes and launches."""
    queue = Queue("meta")
    run(queue, choices, weights, Ends.made(choices.spec, n, "meta"))
    return queue


class Frame:
    def __init__(
        self, choices: Choices, weights: CascadeWeights, n: int, device: torch.device
    ) -> None:
        """Allocate, compile what is not compiled yet, and on a GPU capture the graph.

        Raises:
            ResourceError: not enough memory on the device; needed and free are named.
        """
        self.choices, self.weights, self.device = choices, weights, device
        self.places, self.bytes = rehearse(choices, weights, n).plan()
        """`bytes`: of buffers, beside the weights."""
        if device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(device)
            free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            if self.bytes > free:
                raise ResourceError(
                    f"{n} layouts of {choices.spec.size[0]}x{choices.spec.size[1]} need "
                    f"{self.bytes / 1e6:.0f} MB on {device}, which has {free / 1e6:.0f} MB free; "
                    "close what else uses it, or take a smaller network"
                )
        self.arena = torch.empty(self.bytes, dtype=torch.uint8, device=device)
        self.ends = Ends.made(choices.spec, n, device)
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture()

    @property
    def labels(self) -> Tensor:
        """Where the graph reads them."""
        return self.ends.labels

    def _capture(self) -> None:
        stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.device(self.device), torch.cuda.stream(stream):
            self._run()  # compiles
            stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                self.pictures = self._run()
        self.graph = graph

    def _run(self) -> Tensor:
        self.ends.guard.flag.zero_()
        queue = Queue(self.device, self.arena, self.places)
        return run(queue, self.choices, self.weights, self.ends)

    def render(self, labels: Tensor) -> Tensor:
        """Labels uint8 [N, H, W], on any device -> uint8 RGB [N, K, H, W, 3] on the frame's.

        The result is overwritten by the next call. Ids are not checked here, but by `check`.
        """
        if self.graph is None:
            self.labels.copy_(labels)
            return self._run()
        with torch.cuda.device(self.device):
            self.labels.copy_(labels, non_blocking=True)
            self.graph.replay()
        return self.pictures

    def check(self) -> None:
        """Wait for the last `render`.

        Raises:
            BadInput: its labels held ids that are not the label set's.
        """
        if self.ends.guard.flag.item():
            raise BadInput(STRANGE.format(classes=self.choices.spec.classes))
