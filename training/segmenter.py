"""A small segmentation network: trained on real photos, run on rendered ones by `crn-fast eval`.

What it reads back from a rendered picture, against what it reads from the photo, tells how well the
picture follows its layout. It is a ruler, not a product. How it is trained is `segment`'s business.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from crn_fast import checkpoint, torch_file
from crn_fast.errors import BadInput, Mismatch
from crn_fast.files import require_file, write_whole
from crn_fast.palette import LabelSet

KIND = "segmenter"
SIZE = (160, 320)
"""Of the windows it trains on. A picture is brought to this width, in its own aspect."""
WIDTHS = (24, 48, 96)
"""Channels at a half, a quarter and an eighth of SIZE."""
DILATIONS = (1, 2, 4, 8)
"""Of the residual convolutions at an eighth: together they see 120 pixels to each side."""


class Segmenter(nn.Module):
    """Encoder to an eighth of the picture, dilated residual convolutions, decoder with two skips.

    Args:
        labels: the label set it tells apart; its void class is never an answer.
        size: height and width of its training windows.
        widths: channels at a half, a quarter and an eighth.
        mean, deviation: of the training photos' R, G and B in 0..255.
    """

    def __init__(
        self,
        labels: LabelSet,
        size: tuple[int, int] = SIZE,
        widths: tuple[int, int, int] = WIDTHS,
        mean: tuple[float, ...] = (127.5,) * 3,
        deviation: tuple[float, ...] = (64.0,) * 3,
    ) -> None:
        super().__init__()
        self.labels, self.size, self.widths = labels, size, widths
        self.mean, self.deviation = mean, deviation
        half, quarter, eighth = widths
        self.stem = _conv(3, half, stride=2)
        self.encode = nn.Sequential(
            _conv(half, quarter, stride=2), _conv(quarter, quarter), _conv(quarter, quarter)
        )
        self.deepen = _conv(quarter, eighth, stride=2)
        self.dilated = nn.ModuleList(_conv(eighth, eighth, dilation=d) for d in DILATIONS)
        self.to_quarter = nn.Conv2d(eighth, quarter, 1)
        self.at_quarter = _conv(quarter, quarter)
        self.to_half = nn.Conv2d(quarter, half, 1)
        self.at_half = _conv(half, half)
        self.head = nn.Conv2d(half, labels.classes, 1)

    def forward(self, rgb: Tensor) -> Tensor:
        """Float RGB [N, 3, H, W] in 0..255 -> a score for each class [N, classes, H, W]."""
        shape = rgb.shape[-2:]
        mean, deviation = (rgb.new_tensor(v).view(3, 1, 1) for v in (self.mean, self.deviation))
        half = self.stem((rgb - mean) / deviation)
        quarter = self.encode(half)
        x = self.deepen(quarter)
        for conv in self.dilated:
            x = x + conv(x)
        x = self.at_quarter(_to(self.to_quarter(x), quarter.shape[-2:]) + quarter)
        x = self.at_half(_to(self.to_half(x), half.shape[-2:]) + half)
        return _to(self.head(x), shape)

    @torch.inference_mode()
    def segment(self, rgb: Tensor) -> Tensor:
        """The class of each pixel: uint8 RGB [N, H, W, 3] -> uint8 [N, H, W].

        The pictures are brought to the training windows' width and the scores back to the
        pictures' own pixels.
        """
        shape = rgb.shape[1:3]
        scaled = (max(8, round(shape[0] * self.size[1] / shape[1])), self.size[1])
        x = rgb.movedim(-1, 1).float()
        x = F.interpolate(x, scaled, mode="bilinear", antialias=True)
        scores = _to(self(x), shape)
        if self.labels.void is not None:
            scores[:, self.labels.void] = -math.inf
        return scores.argmax(1).to(torch.uint8)


def _conv(inputs: int, outputs: int, stride: int = 1, dilation: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, dilation, dilation, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


def _to(x: Tensor, size: torch.Size | tuple[int, ...]) -> Tensor:
    return F.interpolate(x, tuple(size), mode="bilinear")


def save(path: str | Path, model: Segmenter, notes: dict[str, str]) -> None:
    """Write a segmenter's checkpoint; it loads with weights_only.

    Raises:
        ResourceError: the file cannot be written.
    """
    state = {
        "format": checkpoint.FORMAT,
        "version": str(checkpoint.VERSION),
        "kind": KIND,
        "labels": model.labels.to_json(),
        "size": model.size,
        "widths": model.widths,
        "mean": model.mean,
        "deviation": model.deviation,
        "notes": json.dumps(notes),
        # Without batch norm's step counters, which are no weights; loading sets them to 0.
        "model": {
            name: tensor.cpu().contiguous()
            for name, tensor in model.state_dict().items()
            if tensor.is_floating_point()
        },
    }
    write_whole(path, lambda stream: torch_file.write(state, stream))


def load(path: str | Path, labels: LabelSet) -> Segmenter:
    """Read what `save` wrote.

    Args:
        path: the file.
        labels: the label set that it must tell apart.

    Raises:
        BadInput: missing, damaged, or no segmenter's checkpoint.
        Mismatch: it tells other classes apart.
    """
    require_file(path, "a segmenter's checkpoint (.pt)")
    state = checkpoint.load_training(path)
    if state.get("kind") != KIND:
        raise BadInput(
            f"{path}: holds a network of kind {state.get('kind')!r}; expected {KIND!r}, as "
            "python -m crn_fast.training.segment writes"
        )
    try:
        found = LabelSet.from_json(state["labels"])
        model = Segmenter(
            found,
            tuple(state["size"]),
            tuple(state["widths"]),
            tuple(state["mean"]),
            tuple(state["deviation"]),
        )
        model.load_state_dict(state["model"])
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInput(f"{path}: its contents do not make a segmenter ({reason})") from None
    if found.names != labels.names:
        raise Mismatch(
            f"{path}: tells the classes of {found.name} apart, the model's are {labels.name}: "
            "train one on photos of that set"
        )
    return model.eval().requires_grad_(False)
