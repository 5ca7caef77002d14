"""Feature networks for the content loss: frozen, from a weights file on the user's disk.

Each takes float RGB [N, 3, H, W] in 0..255 and gives its input (in its own colour space) followed
by the features of its layers; input range, channel order and pooling are each network's own
business. Nothing is ever downloaded.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crn_fast import torch_file
from crn_fast.errors import BadInput, ResourceError, Unavailable
from crn_fast.extras import way_to
from crn_fast.files import require_file
from crn_fast.training import matconvnet

BLOCKS = (2, 2, 4, 4, 4)
"""Convolutions in each block of VGG-19."""
IMAGENET_MEAN_RGB = (123.68, 116.779, 103.939)
"""Subtracted by MatConvNet's VGG-19, in 0..255."""


class Extractor(nn.Module):
    """A frozen feature network."""

    layers: tuple[str, ...]
    """Names of the features it gives, after the input."""
    smallest: int = 1
    """Side in pixels below which its last layer would have nothing to look at."""

    def forward(self, rgb: Tensor) -> list[Tensor]:
        """Float RGB [N, 3, H, W] in 0..255 -> the input, then each layer's features."""
        raise NotImplementedError


class VGG19(Extractor):
    """VGG-19 (Simonyan & Zisserman 2014) up to conv5_2, features after the ReLU of conv{1..5}_2.

    As in the CRN authors' trainer: average pooling and MatConvNet's weights, RGB minus the mean.
    torchvision's weights want RGB / 255, normalised by mean and deviation, and max pooling.
    """

    layers = tuple(f"conv{block}_2" for block in range(1, 6))
    smallest = 16
    mean: Tensor
    deviation: Tensor

    def __init__(self, weights: list[tuple[Tensor, Tensor]], *, torchvision: bool) -> None:
        """`weights`: (OIHW weight, bias) of the first 14 convolutions, conv1_1 to conv5_2."""
        super().__init__()
        self.torchvision = torchvision
        if torchvision:
            mean = torch.tensor((0.485, 0.456, 0.406)) * 255
            deviation = torch.tensor((0.229, 0.224, 0.225)) * 255
        else:
            mean, deviation = torch.tensor(IMAGENET_MEAN_RGB), torch.ones(3)
        self.register_buffer("mean", mean.view(1, 3, 1, 1), persistent=False)
        self.register_buffer("deviation", deviation.view(1, 3, 1, 1), persistent=False)
        self.convs = nn.ModuleList()
        for weight, bias in weights:
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.weight.data, conv.bias.data = weight.float(), bias.float()  # type: ignore[union-attr]
            self.convs.append(conv)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        x = (rgb - self.mean) / self.deviation
        features = [x]
        convs = iter(self.convs)
        pool = F.max_pool2d if self.torchvision else F.avg_pool2d
        for block, count in enumerate(BLOCKS):
            if block:
                x = pool(x, 2)
            for index in range(min(count, 2) if block == 4 else count):
                x = F.relu(next(convs)(x))
                if index == 1:
                    features.append(x)
        return features


class Distilled(Extractor):
    """A VGG-19 distilled to a tenth of the width (Wang et al. 2020, Collaborative Distillation).

    Keys conv0 (1x1, RGB in 0..1 to the space it was trained in), conv11 ... conv51, and for each
    block a 1x1 head conv{k}1_aux back to VGG-19's own channels: its ReLU approximates relu{k}_1.
    """

    layers = tuple(f"relu{block}_1" for block in range(1, 6))
    smallest = 32  # its borders mirror, for which the last layer needs two pixels

    def __init__(self, state: dict[str, Tensor]) -> None:
        super().__init__()
        self.convs = nn.ModuleDict()
        for name in sorted({key.rpartition(".")[0] for key in state}):
            weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2])
            conv.weight.data, conv.bias.data = weight.float(), bias.float()  # type: ignore[union-attr]
            self.convs[name] = conv

    def forward(self, rgb: Tensor) -> list[Tensor]:
        x = self.convs["conv0"](rgb / 255)
        features = [x]
        for block, count in enumerate((*BLOCKS[:4], 1), start=1):
            if block > 1:
                x = F.max_pool2d(x, 2)
            for index in range(1, count + 1):
                x = F.relu(
                    self.convs[f"conv{block}{index}"](F.pad(x, (1, 1, 1, 1), mode="reflect"))
                )
                if index == 1:
                    features.append(F.relu(self.convs[f"conv{block}1_aux"](x)))
        return features


def load(kind: str, path: str | Path) -> Extractor:
    """Load a feature network, frozen.

    Args:
        kind: 'vgg19' (a torchvision .pth state dict, or MatConvNet's .mat) or 'distilled' (.pt).
        path: the weights file.

    Raises:
        BadInput: no path given, no such file, or not the weights of that network.
        Unavailable: a .mat file, and scipy is not installed.
        ResourceError: out of memory.
    """
    if not str(path):
        raise BadInput(
            f"the content loss needs the weights of its feature network ({kind}) on this disk: "
            "--set loss.weights=PATH"
        )
    path = Path(path)
    require_file(path, f"the weights of the feature network {kind}")
    try:
        if path.suffix == ".mat":
            extractor: Extractor = VGG19(_matconvnet(path), torchvision=False)
        else:
            state = torch_file.read_foreign(path, f"the weights of the feature network {kind}")
            extractor = (
                Distilled(state) if kind == "distilled" else VGG19(_pth(state), torchvision=True)
            )
        side = 1 << len(BLOCKS)
        with torch.no_grad():
            extractor(torch.zeros(1, 3, side, side))
    except (BadInput, ResourceError, Unavailable):
        raise
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(
            f"{path}: not the weights of the feature network {kind} ({reason})"
        ) from error
    return extractor.eval().requires_grad_(False)


def _pth(state: dict[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    indices = sorted(
        int(k.split(".")[1]) for k in state if k.startswith("features.") and "weight" in k
    )
    return [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i in indices[:14]]


def _matconvnet(path: Path) -> list[tuple[Tensor, Tensor]]:
    if find_spec("scipy") is None:
        raise Unavailable(f"{path}: reading .mat files needs scipy: {way_to('train')}")
    return [
        (
            torch.from_numpy(weight).permute(3, 2, 0, 1).contiguous(),
            torch.from_numpy(bias).flatten(),
        )
        for weight, bias in matconvnet.read(path)
    ]
