"""The cascade as its users write it in torch, for the peers: conv, layer norm, leaky ReLU, resize.

From the uint8 label map to the uint8 picture: one-hot, pyramid, clipping and rounding are inside,
as they are part of what a picture costs. It shares no code with `crn_fast.cascade`; the gate
compares the two.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crn_fast.spec import CascadeSpec

EPS = 1e-12
Norm = Callable[[Tensor, Tensor, Tensor], Tensor]


class Network(nn.Module):
    """The network of a checkpoint.

    Args:
        spec: of the network.
        tensors: named as in `CascadeSpec.tensors`.
        norm: layer norm over channels, height and width: x, gamma, beta -> x.
        dtype: of convolutions and what lies between them; norms compute in float32.
        multiple: the layout's channels are padded to a multiple of this, as Tensor cores like it.
        channels_last: keep pixels before channels in memory.
    """

    def __init__(
        self,
        spec: CascadeSpec,
        tensors: Mapping[str, np.ndarray],
        norm: Norm,
        dtype: torch.dtype = torch.float32,
        multiple: int = 1,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.spec, self.norm, self.dtype = spec, norm, dtype
        classes = -(-spec.classes // multiple) * multiple
        for name, tensor in tensors.items():
            value = torch.from_numpy(np.array(tensor, np.float32))
            if name == "head.weight":
                value = value[:, :, None, None]
            if name.endswith("conv1.weight"):
                value = F.pad(value, (0, 0, 0, 0, 0, classes - spec.classes))
            if name.endswith("weight"):
                value = value.to(dtype)
            # Parameters, not buffers: compilers fold the former.
            self.register_parameter(_flat(name), nn.Parameter(value, requires_grad=False))
        self.register_buffer("ids", torch.arange(classes, dtype=torch.uint8)[:, None, None])
        self.format = torch.channels_last if channels_last else torch.contiguous_format
        self.to(memory_format=self.format)  # type: ignore[call-overload]

    ids: Tensor

    def forward(self, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Labels uint8 [N, H, W] -> RGB [N, K, H, W, 3]: uint8, and float before rounding."""
        soft = torch.eq(labels[:, None], self.ids).to(self.dtype)
        layouts = [soft.contiguous(memory_format=self.format)]
        for _ in self.spec.stages[1:]:
            layouts.append(F.avg_pool2d(layouts[-1], 2))
        x = None
        for stage in self.spec.stages:
            layout = layouts.pop()
            if x is not None:
                align = self.spec.upsampling == "align_corners"
                size = (stage.height, stage.width)
                x = F.interpolate(x, size=size, mode="bilinear", align_corners=align)
            x = layout if x is None else torch.cat([x, layout], dim=1)
            for conv in ("conv1", "conv2"):
                weight, gamma, beta = (
                    self.get_parameter(_flat(f"stages.{stage.index}.{conv}.{field}"))
                    for field in ("weight", "gamma", "beta")
                )
                x = F.leaky_relu(self.norm(F.conv2d(x, weight, padding=1), gamma, beta), 0.2)
        assert x is not None
        head, bias = self.get_parameter("head_weight"), self.get_parameter("head_bias")
        if self.dtype == torch.float32:
            y = F.conv2d(x, head, bias)
        else:
            y = F.conv2d(x, head).float() + bias[:, None, None]
        n, channels, height, width = y.shape
        rgb = (y.reshape(n, 3, channels // 3, height, width).permute(0, 2, 3, 4, 1) + 1) * 127.5
        return (rgb.clamp(0, 255) + 0.5).floor().to(torch.uint8), rgb


def _flat(name: str) -> str:
    return name.replace(".", "_")


def group_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """Torch's own op with one group: its fastest form in eager mode."""
    return F.group_norm(x, 1, gamma, beta, EPS)


def manual_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """By reductions, for ONNX, where a group norm with one group is read as an instance norm by
    some. In two steps, as libraries spread a reduction over channels but not one to a scalar.
    """
    difference = x - x.mean((2, 3), keepdim=True).mean(1, keepdim=True)
    variance = (difference * difference).mean((2, 3), keepdim=True).mean(1, keepdim=True)
    scale = gamma[:, None, None] * torch.rsqrt(variance + EPS)
    return difference * scale + beta[:, None, None]


def fused_norm(x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """By `var_mean` in float32 and one multiplication, for a GPU: torch.compile can fuse it, and
    group norm gives channels-first results there.
    """
    raw = x.float()
    variance, mean = torch.var_mean(raw, (1, 2, 3), correction=0, keepdim=True)
    scale = gamma[:, None, None] * torch.rsqrt(variance + EPS)
    return ((raw - mean) * scale + beta[:, None, None]).to(x.dtype)
