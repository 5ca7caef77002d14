"""Other networks that a user would pick for the job: SPADE's and pix2pixHD's generators.

Written from the published layer lists, with random weights: their time and operations can be
compared with ours at equal size, their pictures cannot. As they are at inference: spectral norms
are folded into the weights, dropout is gone.

Sources:
    SPADE: Park et al. 2019, https://arxiv.org/abs/1903.07291, figures 12 to 14; the settings for
        Cityscapes of https://github.com/NVlabs/SPADE.
    pix2pixHD: Wang et al. 2018, https://arxiv.org/abs/1711.11585, appendix; the defaults and
        scripts/test_1024p.sh of https://github.com/NVIDIA/pix2pixHD.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crn_fast.errors import UsageError

MODULATION = 128
"""Channels between a layout and the scale and shift that SPADE makes of it."""


class SpatialNorm(nn.Module):
    """SPADE: normalised features, scaled and shifted by what convolutions make of the layout."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(channels, affine=False)
        self.shared = nn.Conv2d(classes, MODULATION, 3, padding=1)
        self.scale = nn.Conv2d(MODULATION, channels, 3, padding=1)
        self.shift = nn.Conv2d(MODULATION, channels, 3, padding=1)

    def forward(self, x: Tensor, layout: Tensor) -> Tensor:
        hidden = F.relu(self.shared(F.interpolate(layout, x.shape[2:], mode="nearest")))
        found: Tensor = self.norm(x) * (1 + self.scale(hidden)) + self.shift(hidden)
        return found


class SpatialBlock(nn.Module):
    """Two of norm, leaky ReLU and convolution, and a way round them, 1x1 where widths differ."""

    def __init__(self, inputs: int, outputs: int, classes: int) -> None:
        super().__init__()
        between = min(inputs, outputs)
        self.norm1 = SpatialNorm(inputs, classes)
        self.conv1 = nn.Conv2d(inputs, between, 3, padding=1)
        self.norm2 = SpatialNorm(between, classes)
        self.conv2 = nn.Conv2d(between, outputs, 3, padding=1)
        self.norm_round: SpatialNorm | None = None
        if inputs != outputs:
            self.norm_round = SpatialNorm(inputs, classes)
            self.conv_round = nn.Conv2d(inputs, outputs, 1, bias=False)

    def forward(self, x: Tensor, layout: Tensor) -> Tensor:
        y = self.conv1(F.leaky_relu(self.norm1(x, layout), 0.2))
        y = self.conv2(F.leaky_relu(self.norm2(y, layout), 0.2))
        if self.norm_round is not None:
            x = self.conv_round(self.norm_round(x, layout))
        found: Tensor = x + y
        return found


class Spade(nn.Module):
    """SPADE's generator as for Cityscapes: six doublings from a layout of 1/64 of the size."""

    WIDTHS = (1024, 1024, 1024, 1024, 512, 256, 128, 64)
    """Before the first block, and after each; all but the first block double the size."""
    DOUBLINGS = len(WIDTHS) - 2

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        _require_multiple("spade", size, 2**self.DOUBLINGS)
        self.first = nn.Conv2d(classes, self.WIDTHS[0], 3, padding=1)
        pairs = zip(self.WIDTHS, self.WIDTHS[1:], strict=False)
        self.blocks = nn.ModuleList(SpatialBlock(*widths, classes) for widths in pairs)
        self.last = nn.Conv2d(self.WIDTHS[-1], 3, 3, padding=1)

    def forward(self, layout: Tensor) -> Tensor:
        """One-hot float [N, classes, H, W] -> RGB [N, 3, H, W] in -1..1."""
        height, width = (side >> self.DOUBLINGS for side in layout.shape[2:])
        x = self.first(F.interpolate(layout, (height, width), mode="nearest"))
        for index, block in enumerate(self.blocks):
            if index:
                x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = block(x, layout)
        return torch.tanh(self.last(F.leaky_relu(x, 0.2)))


class Residual(nn.Module):
    """Two convolutions of mirrored edges, and a way round them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *_normed(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect")),
            *_normed(nn.Conv2d(channels, channels, 3, padding=1, padding_mode="reflect"))[:-1],
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = x + self.body(x)
        return found


class Pix2pixHD(nn.Sequential):
    """The global generator: four halvings, nine residual blocks, four doublings."""

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        _require_multiple("pix2pixhd", size, 16)
        super().__init__(*_global(classes, 64), *_picture(64))


class Pix2pixHDLocal(nn.Module):
    """The local enhancer round the global generator's features at half the size."""

    def __init__(self, classes: int, size: tuple[int, int]) -> None:
        super().__init__()
        _require_multiple("pix2pixhd_local", size, 32)
        self.coarse = nn.Sequential(*_global(classes, 64))
        self.pool = nn.AvgPool2d(3, stride=2, padding=1, count_include_pad=False)
        self.down = nn.Sequential(*_wide(classes, 32), *_halving(32))
        self.up = nn.Sequential(*(Residual(64) for _ in range(3)), *_doubling(64), *_picture(32))

    def forward(self, layout: Tensor) -> Tensor:
        """As `Spade.forward`."""
        found: Tensor = self.up(self.down(layout) + self.coarse(self.pool(layout)))
        return found


NETWORKS: dict[str, Callable[[int, tuple[int, int]], nn.Module]] = {
    "spade": Spade,
    "pix2pixhd": Pix2pixHD,
    "pix2pixhd_local": Pix2pixHDLocal,
}
"""Name -> maker, of the number of classes and the (height, width).

The modules take one-hot float [N, classes, H, W] and give RGB [N, 3, H, W] in -1..1. Errors:
UsageError where a side is no multiple of what the halvings need.
"""


def flops(name: str, classes: int, size: tuple[int, int]) -> int:
    """Operations of a picture: two for each product of every convolution; nothing is computed.

    A transposed convolution's products with the zeros between its inputs are not counted.
    """
    with torch.device("meta"):
        network = NETWORKS[name](classes, size).eval()
        layout = torch.empty(1, classes, *size)
    counted = []

    def count(module: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        read = isinstance(module, nn.ConvTranspose2d)
        pixels = (inputs[0] if read else output)[0, 0].numel()
        counted.append(2 * module.weight.numel() * pixels)

    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.register_forward_hook(count)
    network(layout)
    return sum(counted)


def parameters(name: str, classes: int, size: tuple[int, int]) -> int:
    """Trained numbers of a network."""
    with torch.device("meta"):
        return sum(tensor.numel() for tensor in NETWORKS[name](classes, size).parameters())


def _global(classes: int, width: int) -> list[nn.Module]:
    """The global generator up to its last features."""
    widths = [width << level for level in range(5)]
    layers = _wide(classes, width)
    for channels in widths[:-1]:
        layers += _halving(channels)
    layers += [Residual(widths[-1]) for _ in range(9)]
    for channels in widths[:0:-1]:
        layers += _doubling(channels)
    return layers


def _wide(classes: int, width: int) -> list[nn.Module]:
    return _normed(nn.Conv2d(classes, width, 7, padding=3, padding_mode="reflect"))


def _halving(channels: int) -> list[nn.Module]:
    return _normed(nn.Conv2d(channels, 2 * channels, 3, stride=2, padding=1))


def _doubling(channels: int) -> list[nn.Module]:
    return _normed(
        nn.ConvTranspose2d(channels, channels // 2, 3, stride=2, padding=1, output_padding=1)
    )


def _picture(width: int) -> list[nn.Module]:
    return [nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"), nn.Tanh()]


def _normed(conv: nn.Conv2d | nn.ConvTranspose2d) -> list[nn.Module]:
    return [conv, nn.InstanceNorm2d(conv.out_channels), nn.ReLU()]


def _require_multiple(name: str, size: tuple[int, int], of: int) -> None:
    if any(side < of or side % of for side in size):
        height, width = size
        raise UsageError(f"{name}: size is {height}x{width}; expected multiples of {of}")
