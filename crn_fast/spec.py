"""The shape of a Cascaded Refinement Network, and what follows from it: sizes, weights, cost.

A spec says what the network *is*; it holds no weights, no label names and no backend. Presets are
data here and are never guessed from a file's name: every checkpoint and engine carries its spec.

Source: Chen & Koltun, "Photographic Image Synthesis with Cascaded Refinement Networks", ICCV 2017,
section 3; widths as in the authors' released models.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from math import prod
from typing import Any, Literal, get_args

from crn_fast.errors import BadInput

Upsampling = Literal["align_corners", "half_pixel"]

MAX_CLASSES = 255
"""A label map is uint8, and the value 255 is left free for 'no label'."""


@dataclass(frozen=True)
class StageSpec:
    """One refinement module: its output size and the channels that enter and leave it."""

    index: int
    height: int
    width: int
    features: int
    """Channels that arrive from the stage before, upsampled x2 (0 for the first stage)."""
    classes: int
    """Channels of the layout, concatenated after the features."""
    channels: int
    """Channels that each of the two 3x3 convolutions gives."""

    @property
    def macs(self) -> int:
        """Multiply-adds of the two 3x3 convolutions for one layout."""
        fan_in = (self.features + self.classes) + self.channels
        return 9 * fan_in * self.channels * self.height * self.width


@dataclass(frozen=True)
class CascadeSpec:
    """A whole network.

    Raises:
        BadInput: a field is out of range; the message names it.
    """

    widths: tuple[int, ...]
    """Channels of each stage, coarse to fine. Their number is the number of stages."""
    base: tuple[int, int] = (4, 8)
    """Height and width of the first stage, in pixels. Each further stage doubles both."""
    classes: int = 20
    """Channels of the layout, 'none of them' included."""
    images: int = 1
    """Pictures made from one layout (K). Image k is head channels k, K + k, 2K + k (R, G, B)."""
    upsampling: Upsampling = "align_corners"

    def __post_init__(self) -> None:
        object.__setattr__(self, "widths", tuple(self.widths))
        object.__setattr__(self, "base", tuple(self.base))
        _check_range("number of stages", len(self.widths), 1, 12)
        for i, width in enumerate(self.widths):
            _check_range(f"widths[{i}]", width, 1, 4096)
        if len(self.base) != 2:
            raise BadInput(f"spec: base is {self.base!r}; expected height and width, as in (4, 8)")
        _check_range("base height", self.base[0], 1, 1024)
        _check_range("base width", self.base[1], 1, 1024)
        _check_range("classes", self.classes, 1, MAX_CLASSES)
        _check_range("images", self.images, 1, 64)
        if self.upsampling not in get_args(Upsampling):
            raise BadInput(
                f"spec: upsampling is {self.upsampling!r}; expected one of {get_args(Upsampling)}"
            )

    @cached_property
    def stages(self) -> tuple[StageSpec, ...]:
        """Every stage, coarse to fine."""
        height, width = self.base
        before = (0, *self.widths)
        return tuple(
            StageSpec(i, height << i, width << i, before[i], self.classes, channels)
            for i, channels in enumerate(self.widths)
        )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the picture, in pixels."""
        last = self.stages[-1]
        return last.height, last.width

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every weight's name and shape, in order: convolutions are OIHW, the head is [3K, C]."""
        shapes: dict[str, tuple[int, ...]] = {}
        for stage in self.stages:
            inputs = {"conv1": stage.features + stage.classes, "conv2": stage.channels}
            for conv, channels in inputs.items():
                stem = f"stages.{stage.index}.{conv}"
                shapes[f"{stem}.weight"] = (stage.channels, channels, 3, 3)
                shapes[f"{stem}.gamma"] = (stage.channels,)
                shapes[f"{stem}.beta"] = (stage.channels,)
        shapes["head.weight"] = (3 * self.images, self.widths[-1])
        shapes["head.bias"] = (3 * self.images,)
        return shapes

    def parameters(self) -> int:
        """Number of trained values."""
        return sum(prod(shape) for shape in self.tensors().values())

    def flops(self) -> int:
        """Operations for one layout: two for each multiply-add of the convolutions and the head."""
        height, width = self.size
        head = 3 * self.images * self.widths[-1] * height * width
        return 2 * (sum(stage.macs for stage in self.stages) + head)

    def bytes(self, itemsize: int = 4) -> int:
        """Size of the weights in bytes, at `itemsize` bytes a value."""
        return self.parameters() * itemsize

    def to_json(self) -> str:
        """The spec as one line of JSON, as checkpoints and engines carry it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> CascadeSpec:
        """Read what `to_json` wrote.

        Raises:
            BadInput: not JSON, a field missing or unknown, a value of the wrong type or range.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"spec: not valid JSON ({error})") from None
        return cls.from_dict(fields)

    @classmethod
    def from_dict(cls, fields: Any) -> CascadeSpec:
        """Build a spec from plain values, as found in JSON or TOML.

        Raises:
            BadInput: a field is missing or unknown, or its value has the wrong type or range.
        """
        known = cls.__dataclass_fields__
        if not isinstance(fields, dict) or "widths" not in fields:
            raise BadInput(f"spec: expected a table with 'widths', found {str(fields)[:80]}")
        if unknown := sorted(set(fields) - set(known)):
            raise BadInput(f"spec: unknown field {unknown[0]!r}; known are {', '.join(known)}")
        for name in {"widths", "base"} & set(fields):
            if not isinstance(fields[name], (list, tuple)):
                raise BadInput(f"spec: {name} is {fields[name]!r}; expected a list of integers")
        return cls(**fields)


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise BadInput(f"spec: {name} is {value!r}; expected an integer from {low} to {high}")


_AUTHORS = (1024,) * 5 + (512, 512, 128, 32)
_SMALL = (192,) * 4 + (128, 96, 64, 32, 16)

PRESETS: dict[str, CascadeSpec] = {
    "256p": CascadeSpec(widths=_AUTHORS[:7], images=9),
    "512p": CascadeSpec(widths=_AUTHORS[:8]),
    "1024p": CascadeSpec(widths=_AUTHORS),
    "256p-small": CascadeSpec(widths=_SMALL[:7]),
    "512p-small": CascadeSpec(widths=_SMALL[:8]),
    "1024p-small": CascadeSpec(widths=_SMALL),
}
"""The authors' three networks, and three of a few million weights for laptops at the same sizes."""
