"""The encoder-decoder with skips: the U-Net generator of pix2pix.

4x4 convolutions of stride 2 down to a bottleneck and back up, each level joined to its mirror
image. Instance norm stands for batch norm, which is the same thing for a batch of one, as the
authors train and render; their dropout, by their account nearly without effect on the pictures, is
left out, so that a layout has one picture.

Source: Isola et al. 2017, "Image-to-Image Translation with Conditional Adversarial Networks",
sections 3.2 and 6.1.1.
"""

from __future__ import annotations

from math import log2

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crn_fast.kernels.reference import one_hot

DEEPEST = 8
"""Levels, as published for 256x256; fewer where the picture is too small for them."""
SLOPE = 0.2
"""Of the encoder's leaky ReLU below zero; the decoder's is a plain ReLU."""
DEVIATION = 0.02
"""Of the convolutions' random weights, as published."""


class UNet(nn.Module):
    """A U-Net from a layout to its picture, of any size.

    Args:
        size: height and width of the picture.
        classes: channels of the layout.
        width: channels of the first level; each further one doubles them, up to 8 times.
    """

    def __init__(self, size: tuple[int, int], classes: int, width: int = 64) -> None:
        super().__init__()
        self.classes = classes
        depth = min(DEEPEST, int(log2(min(size))))
        channels = [min(width << level, 8 * width) for level in range(depth)]
        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        self.down_norms, self.up_norms = nn.ModuleList(), nn.ModuleList()
        before = classes
        for level, outputs in enumerate(channels):
            self.down.append(nn.Conv2d(before, outputs, 4, 2, 1, bias=False))
            # The first level sees the layout as it is, the last is too small for statistics.
            normed = 0 < level < depth - 1
            self.down_norms.append(instance_norm(outputs) if normed else nn.Identity())
            before = outputs
        for level in reversed(range(depth)):
            inputs = channels[level] * (1 if level == depth - 1 else 2)
            outputs = channels[level - 1] if level else 3
            self.up.append(nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=level == 0))
            self.up_norms.append(instance_norm(outputs) if level else nn.Identity())
        for conv in (*self.down, *self.up):
            nn.init.normal_(conv.weight, std=DEVIATION)
        nn.init.zeros_(self.up[-1].get_parameter("bias"))

    def forward(self, labels: Tensor) -> Tensor:
        """Labels uint8 [N, H, W], every id < classes -> float RGB [N, 1, H, W, 3] in 0..255."""
        x = one_hot(labels, self.classes, self.down[0].get_parameter("weight").dtype)
        sizes, skips = [], []
        for level, (conv, norm) in enumerate(zip(self.down, self.down_norms, strict=True)):
            sizes.append(x.shape[-2:])
            x = norm(conv(F.leaky_relu(x, SLOPE) if level else x))
            skips.append(x)
        skips.pop()
        for conv, norm in zip(self.up, self.up_norms, strict=True):
            # A side that was odd before it was halved gets its last pixel back.
            x = norm(conv(F.relu(x), output_size=sizes.pop()))
            if skips:
                x = torch.cat([x, skips.pop()], 1)
        wide = torch.promote_types(x.dtype, torch.float32)
        return ((x.to(wide).tanh() + 1) * 127.5).movedim(1, -1)[:, None]


def instance_norm(channels: int) -> nn.Module:
    """Each channel of each sample by its own mean and deviation, then a trained scale and shift."""
    return nn.GroupNorm(channels, channels)
