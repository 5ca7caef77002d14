"""The shape of a baseline network: to it what `CascadeSpec` is to the cascade.

It holds no weights, and needs torch only for what is counted from the layers themselves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal, get_args

from crn_fast.errors import BadInput, Unavailable
from crn_fast.extras import why_no_torch
from crn_fast.spec import MAX_CLASSES

if TYPE_CHECKING:
    from torch import nn

Kind = Literal["unet", "dilated"]
KINDS: tuple[Kind, ...] = get_args(Kind)
SMALLEST = 2
"""Side of a picture in pixels."""


@dataclass(frozen=True)
class BaselineSpec:
    """A whole network, which makes one picture of a layout.

    Raises:
        BadInput: a field is out of range; the message names it.
    """

    kind: Kind
    size: tuple[int, int]
    """Height and width of the picture, in pixels."""
    classes: int
    """Channels of the layout, 'none of them' included."""
    width: int = 64
    """Channels of the U-Net's first convolution; of every one in the dilated network."""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"spec: kind is {self.kind!r}; expected one of {', '.join(KINDS)}")
        if not isinstance(self.size, (list, tuple)) or len(self.size) != 2:
            raise BadInput(f"spec: size is {self.size!r}; expected height and width")
        object.__setattr__(self, "size", tuple(self.size))
        limits = {
            "height": (self.size[0], SMALLEST, 1 << 14),
            "picture's width": (self.size[1], SMALLEST, 1 << 14),
            "classes": (self.classes, 1, MAX_CLASSES),
            "width": (self.width, 1, 1024),
        }
        for name, (value, low, high) in limits.items():
            if type(value) is not int or not low <= value <= high:
                raise BadInput(f"spec: {name} is {value!r}; expected an integer {low} to {high}")

    @property
    def images(self) -> int:
        """Pictures made from one layout."""
        return 1

    def build(self) -> nn.Module:
        """The network with random weights: uint8 [N, H, W] -> float RGB [N, 1, H, W, 3]."""
        from crn_fast.baselines.dilated import Dilated
        from crn_fast.baselines.unet import UNet

        network: Callable[..., nn.Module] = {"unet": UNet, "dilated": Dilated}[self.kind]
        return network(self.size, self.classes, self.width)

    def _outline(self) -> nn.Module:
        """The network with shapes and no values."""
        if reason := why_no_torch():
            raise Unavailable(f"a network of kind {self.kind} runs in torch; {reason}")
        import torch

        with torch.device("meta"):
            return self.build()

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Every weight's name and shape, in order.

        Raises:
            Unavailable: there is no torch.
        """
        return {name: tuple(p.shape) for name, p in self._outline().state_dict().items()}

    def parameters(self) -> int:
        """Number of trained values."""
        return sum(prod(shape) for shape in self.tensors().values())

    def flops(self) -> int:
        """Operations for one layout: two for each multiply-add of the convolutions."""
        network = self._outline()
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        with FlopCounterMode(display=False) as counter:
            network(torch.zeros(1, *self.size, dtype=torch.uint8, device="meta"))
        return int(counter.get_total_flops())

    def bytes(self, itemsize: int = 4) -> int:
        """Size of the weights in bytes, at `itemsize` bytes a value."""
        return self.parameters() * itemsize

    def to_json(self) -> str:
        """The spec as one line of JSON, as checkpoints carry it."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> BaselineSpec:
        """Read what `to_json` wrote.

        Raises:
            BadInput: not JSON, or a field is missing, unknown or out of range.
        """
        try:
            fields: Any = json.loads(text)
            return cls(**fields)
        except BadInput:
            raise
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInput(f"spec: not that of a baseline network ({error})") from None
