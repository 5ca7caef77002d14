"""The full-resolution network: dilated convolutions, no pixel ever left out.

The paper modifies the context aggregation network of Yu & Koltun: fewer layers, skip connections
and layer norm. It gives no table of the layers; here they are those of the authors' next work, with
the layout itself as the skip into every layer, and the cascade's norm and leaky ReLU.

Sources: Chen & Koltun 2017, section 5; Yu & Koltun 2016, "Multi-Scale Context Aggregation by
Dilated Convolutions"; Chen, Xu & Koltun 2017, "Fast Image Processing with Fully-Convolutional
Networks", table 1.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crn_fast.kernels.reference import SLOPE, one_hot

DILATIONS = (1, 2, 4, 8, 16, 32, 64, 1)
"""Of the 3x3 convolutions; those that reach beyond every picture are left out."""


class Dilated(nn.Module):
    """A full-resolution network from a layout to its picture.

    Args:
        size: height and width of the picture.
        classes: channels of the layout.
        width: channels of every layer.
    """

    def __init__(self, size: tuple[int, int], classes: int, width: int = 64) -> None:
        super().__init__()
        self.classes = classes
        self.convs, self.norms = nn.ModuleList(), nn.ModuleList()
        for dilation in (d for d in DILATIONS if d < min(size)):
            inputs = classes + (width if self.convs else 0)
            self.convs.append(
                nn.Conv2d(inputs, width, 3, padding=dilation, dilation=dilation, bias=False)
            )
            self.norms.append(nn.GroupNorm(1, width))
        self.head = nn.Conv2d(width, 3, 1)
        for conv in (*self.convs, self.head):
            nn.init.xavier_uniform_(conv.weight)
        assert self.head.bias is not None
        nn.init.zeros_(self.head.bias)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels uint8 [N, H, W], every id < classes -> float RGB [N, 1, H, W, 3], unclipped."""
        layout = one_hot(labels, self.classes, self.head.weight.dtype)
        x = layout
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = torch.cat([x, layout], 1) if index else x
            x = F.leaky_relu(norm(conv(x)), SLOPE)
        rgb: Tensor = self.head(x)
        wide = torch.promote_types(rgb.dtype, torch.float32)
        return ((rgb.to(wide) + 1) * 127.5).movedim(1, -1)[:, None]
