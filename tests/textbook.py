"""The network as the paper's figures draw it: conv, layer norm, leaky ReLU, resize, concatenate.

An independent check of `cascade` with the reference ops, which hold back the norm instead. It
shares no code with them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast.spec import CascadeSpec


def synthesize(spec: CascadeSpec, tensors: dict[str, Tensor], labels: Tensor) -> Tensor:
    """Labels uint8 [N, H, W] -> RGB [N, K, H, W, 3] around 0..255."""
    onehot = F.one_hot(labels.long(), spec.classes).movedim(-1, 1).to(tensors["head.bias"].dtype)
    x = None
    for stage in spec.stages:
        layout = onehot
        while layout.shape[-2] > stage.height:
            layout = F.avg_pool2d(layout, 2)
        x = layout if x is None else torch.cat([upsample(x, spec.upsampling), layout], dim=1)
        for conv in ("conv1", "conv2"):
            stem = f"stages.{stage.index}.{conv}"
            x = F.conv2d(x, tensors[f"{stem}.weight"], padding=1)
            x = F.group_norm(x, 1, tensors[f"{stem}.gamma"], tensors[f"{stem}.beta"], eps=1e-12)
            x = F.leaky_relu(x, 0.2)
    assert x is not None
    y = torch.einsum("oc,nchw->nohw", tensors["head.weight"], x)
    y = y + tensors["head.bias"].view(1, -1, 1, 1)
    k = spec.images
    images = [torch.stack([y[:, i], y[:, k + i], y[:, 2 * k + i]], dim=-1) for i in range(k)]
    return (torch.stack(images, dim=1) + 1) / 2 * 255


def upsample(x: Tensor, upsampling: str) -> Tensor:
    """Bilinear x2 by its formula: two matrix products."""
    rows, columns = (interpolation(n, upsampling).to(x.dtype) for n in x.shape[-2:])
    return rows @ x @ columns.T


def interpolation(n: int, upsampling: str) -> Tensor:
    """[2n, n]: the weight of each source pixel in each of the 2n results."""
    matrix = torch.zeros(2 * n, n, dtype=torch.float64)
    for i in range(2 * n):
        if upsampling == "align_corners":
            source = i * (n - 1) / (2 * n - 1)
        else:
            source = min(max((i + 0.5) / 2 - 0.5, 0.0), n - 1.0)
        low = min(int(source), n - 1)
        high = min(low + 1, n - 1)
        matrix[i, low] += 1 - (source - low)
        matrix[i, high] += source - low
    return matrix
