"""The op table of the backend `fused`: the Triton launchers, with the tile for each shape."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crn_fast.cascade import CascadeWeights, HeadWeights
from crn_fast.kernels.gpu import packing
from crn_fast.kernels.gpu.conv import conv
from crn_fast.kernels.gpu.head import head
from crn_fast.kernels.gpu.label_pyramid import check_ids, label_pyramid
from crn_fast.kernels.gpu.operands import Convolution, Features, Head, float_type
from crn_fast.kernels.gpu.queue import Queue
from crn_fast.kernels.gpu.refine import refine
from crn_fast.kernels.gpu.tuning import BYTES, Shape, Tile, choose
from crn_fast.spec import CascadeSpec

LEAN_BYTES = 64 << 20
"""Activated maps of one layout above this are not made in the lean schedule."""


class Guard(NamedTuple):
    """What ids are checked with on the device: see `check_ids`."""

    known: Tensor
    flag: Tensor


class Choices:
    """Which tile each convolution takes on one architecture, in one precision."""

    def __init__(
        self,
        spec: CascadeSpec,
        arch: int,
        precision: str,
        table: Mapping[str, Tile],
        lean: bool = False,
    ) -> None:
        """`lean`: convolve large maps on load, which is slower and needs half the memory."""
        self.spec, self.arch, self.precision, self.table = spec, arch, precision, table
        self.lean = lean

    def leaner(self) -> Choices:
        """The same in the lean schedule."""
        return Choices(self.spec, self.arch, self.precision, self.table, lean=True)

    def tile(self, stage: int, conv: str, weights: Convolution) -> tuple[Shape, Tile]:
        """The shape of a stage's convolution, and its tile."""
        there = self.spec.stages[stage]
        first = conv == "conv1"
        fp8 = weights.channel_scale is not None
        shape = Shape(
            precision="fp8" if fp8 else "fp16" if self.precision == "fp8" else self.precision,
            height=there.height,
            width=there.width,
            inputs=there.features if first else there.channels,
            classes=there.classes if first else 0,
            outputs=there.channels,
            upsampling=self.spec.upsampling if first and there.features else "none",
        )
        tile = choose(shape, self.arch, self.table)
        map_bytes = shape.height * shape.width * shape.inputs * BYTES[shape.precision]
        if self.lean and tile.form == "apply" and not fp8 and map_bytes > LEAN_BYTES:
            tile = on_load_tile(tile)
        return shape, tile

    def fold(self, weights: CascadeWeights) -> CascadeWeights:
        """The weights, with premixed ones where a tile wants them."""
        stages = []
        for i, stage in enumerate(weights.stages):
            conv1: Any = stage.conv1
            if self.tile(i, "conv1", conv1)[1].form == "fold":
                conv1 = conv1._replace(folded=packing.fold(conv1.weight, conv1.layout))
            stages.append(stage._replace(conv1=conv1))
        return weights._replace(stages=tuple(stages))


def on_load_tile(tile: Tile) -> Tile:
    """For the same convolution on load: as large as keeps the registers of such a kernel."""
    return Tile(
        form="on_load",
        rows=1,
        wide=64,
        outputs=min(tile.outputs, 64),
        depth=32,
        warps=4,
        stages=min(tile.stages, 3),
    )


class FusedOps:
    """The op table for one run of the cascade, whose stages it counts.

    Every op gives back to the queue what it was the last to read. Weights are `Convolution`s.
    """

    def __init__(self, queue: Queue, choices: Choices, guard: Guard | None = None) -> None:
        """`guard`: None for ids that are known to be right."""
        self.queue, self.choices, self.guard = queue, choices, guard
        self.tf32 = choices.precision == "tf32"
        self.stage = 0
        self._pyramid: Tensor | None = None

    def label_pyramid(self, labels: Tensor, classes: int, stages: int) -> list[Tensor]:
        dtype = {"fp16": torch.float16, "fp8": torch.float16, "bf16": torch.bfloat16}.get(
            self.choices.precision, torch.float32
        )
        if self.guard is not None:
            check_ids(self.queue, labels, *self.guard)
        self._pyramid, maps = label_pyramid(self.queue, labels, classes, stages, dtype)
        return maps

    def refine(
        self, features: Features | None, layout: Tensor, weights: Any, upsampling: str
    ) -> Features:
        _, tile = self.choices.tile(self.stage, "conv1", weights)
        found = refine(self.queue, features, layout, weights, upsampling, tile, self.tf32)
        if features is not None:
            self.queue.give(*features)
        return found

    def conv(self, features: Features, weights: Any) -> Features:
        _, tile = self.choices.tile(self.stage, "conv2", weights)
        assert float_type(weights) == features.raw.dtype
        found = conv(self.queue, features, weights, tile, self.tf32)
        self.queue.give(*features)
        self.stage += 1
        return found

    def head(self, features: Features, weights: HeadWeights) -> Tensor:
        """uint8 RGB: clipping and rounding are in the same kernel."""
        if self._pyramid is not None:
            self.queue.give(self._pyramid)
        rgb = head(self.queue, features, Head(*weights), torch.uint8)
        self.queue.give(*features)
        return rgb

    def to_uint8(self, rgb: Tensor) -> Tensor:
        """As it is: see `head`."""
        return rgb
