"""What gpu_check.py compares with: torch in half precision, and cuDNN with our passes around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast.bench.network import Network, fused_norm
from crn_fast.fused.ops import Choices, FusedOps
from crn_fast.kernels.gpu.apply import apply
from crn_fast.kernels.gpu.conv import conv
from crn_fast.kernels.gpu.operands import Convolution, Features
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.refine import refine
from crn_fast.spec import CascadeSpec


class Written(Network):
    """The network in torch on a GPU, channels last, with the layout's channels padded to a multiple
    of 8: uint8 [N, H, W] -> uint8 RGB [N, K, H, W, 3], on the device.
    """

    def __init__(self, spec: CascadeSpec, tensors: Any, dtype: torch.dtype) -> None:
        super().__init__(spec, tensors, fused_norm, dtype, multiple=8, channels_last=True)
        self.to("cuda")

    def forward(self, labels: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(labels)[0]


class Lap(NamedTuple):
    """One convolution of a picture, with what went into it."""

    op: str
    stage: int
    features: Features | None
    layout: Tensor | None
    weights: Convolution
    upsampling: str

    def ours(self, choices: Choices) -> Tensor:
        """The raw result through our kernels."""
        queue = Queue(self.weights.gamma.device)
        tf32 = choices.precision == "tf32"
        if self.op == "conv":
            _, tile = choices.tile(self.stage, "conv2", self.weights)
            assert self.features is not None
            return conv(queue, self.features, self.weights, tile, tf32).raw
        _, tile = choices.tile(self.stage, "conv1", self.weights)
        assert self.layout is not None
        return refine(
            queue, self.features, self.layout, self.weights, self.upsampling, tile, tf32
        ).raw

    def kernel(self) -> Tensor:
        """The weights as cuDNN wants them, layout and all."""
        taps = [self.weights.weight] if self.features is not None else []
        if self.layout is not None and self.weights.layout is not None:
            taps.append(self.weights.layout)
        weight = torch.cat(taps, 2)
        kernel = weight.view(3, 3, weight.shape[1], -1).permute(2, 3, 0, 1)
        return kernel.contiguous(memory_format=torch.channels_last)

    def cudnn(self, kernel: Tensor) -> Tensor:
        """The same: our apply pass, torch's concatenation, cuDNN, and statistics by torch."""
        dtype, parts = self.weights.weight.dtype, []
        if self.features is not None:
            queue = Queue(self.weights.gamma.device)
            mode = self.upsampling if self.op == "refine" else "none"
            parts.append(apply(queue, self.features, dtype, mode))
        if self.layout is not None and self.weights.layout is not None:
            layout, classes = self.layout, self.weights.layout.shape[2]
            if layout.dtype == torch.uint8:
                ids = torch.arange(classes, device=layout.device, dtype=torch.uint8)
                layout = layout[..., None] == ids
            parts.append(layout.to(dtype))
        x = torch.cat(parts, 3) if len(parts) > 1 else parts[0]
        raw = F.conv2d(x.permute(0, 3, 1, 2), kernel, padding=1)
        torch.var_mean(raw, (1, 2, 3), correction=0)  # sums half precision in float32
        return raw.permute(0, 2, 3, 1)

    def values(self, raw: Tensor) -> np.ndarray:
        """Without the padding channels, float32."""
        array: np.ndarray = raw[..., : self.weights.channels].float().cpu().numpy()
        return array


class Recorder:
    """An op table around `FusedOps` that keeps what goes into each convolution."""

    def __init__(self, ops: FusedOps) -> None:
        self.ops, self.laps = ops, list[Lap]()

    def __getattr__(self, op: str) -> Any:
        return getattr(self.ops, op)

    def refine(self, features: Any, layout: Any, weights: Any, upsampling: str) -> Any:
        self.laps.append(Lap("refine", self.ops.stage, features, layout, weights, upsampling))
        return self.ops.refine(features, layout, weights, upsampling)

    def conv(self, features: Any, weights: Any) -> Any:
        self.laps.append(Lap("conv", self.ops.stage, features, None, weights, "none"))
        return self.ops.conv(features, weights)


def graph(run: Callable[[], object]) -> Callable[[], None]:
    """A CUDA graph of what `run` launches."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
        stream.synchronize()
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured, stream=stream):
            run()
    return captured.replay


def elapsed(run: Callable[[], None], repeats: int) -> float:
    """Seconds of one run, of several in a row."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / repeats
