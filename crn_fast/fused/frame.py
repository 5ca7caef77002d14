"""One batch size of one network on one device: its buffers, planned once, and its CUDA graph."""

from __future__ import annotations

import torch
from torch import Tensor

from crn_fast import cascade
from crn_fast.cascade import CascadeWeights
from crn_fast.errors import ResourceError
from crn_fast.fused.ops import Choices, FusedOps
from crn_fast.kernels.gpu.queue import Queue


def rehearse(choices: Choices, weights: CascadeWeights, n: int) -> Queue:
    """A queue that has recorded what rendering `n` layouts takes and launches."""
    queue = Queue("meta")
    labels = torch.empty((n, *choices.spec.size), dtype=torch.uint8, device="meta")
    cascade.render(FusedOps(queue, choices), choices.spec, weights, labels)
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
            if self.bytes > free:
                raise ResourceError(
                    f"{n} layouts of {choices.spec.size[0]}x{choices.spec.size[1]} need "
                    f"{self.bytes / 1e6:.0f} MB on {device}, which has {free / 1e6:.0f} MB free; "
                    "try fewer layouts"
                )
        self.arena = torch.empty(self.bytes, dtype=torch.uint8, device=device)
        self.labels = torch.zeros((n, *choices.spec.size), dtype=torch.uint8, device=device)
        self.graph: torch.cuda.CUDAGraph | None = None
        if device.type == "cuda":
            self._capture()

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
        ops = FusedOps(Queue(self.device, self.arena, self.places), self.choices)
        pictures: Tensor = cascade.render(ops, self.choices.spec, self.weights, self.labels)
        return pictures

    def render(self, labels: Tensor) -> Tensor:
        """Labels uint8 [N, H, W], on any device -> uint8 RGB [N, K, H, W, 3] on the frame's.

        The result is overwritten by the next call.
        """
        if self.graph is None:
            self.labels.copy_(labels)
            return self._run()
        with torch.cuda.device(self.device):
            self.labels.copy_(labels, non_blocking=True)
            self.graph.replay()
        return self.pictures
