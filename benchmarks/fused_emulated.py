"""What the fused backend's roundings cost a picture: its arithmetic in torch on a CPU, no GPU.

    python benchmarks/fused_emulated.py street-256 [LAYOUT.png ...]

An op table that rounds where the Triton kernels round: weights as they are packed, activations as
the apply pass writes them, raw maps as they are stored; sums, statistics and norms stay float32.
Not emulated: the order of sums, and that Hopper's tensor cores keep 14 bits while they add up one
product of fp8 values. It tells of the roundings' cost alone; nothing is timed.

Printed are PSNR and the largest difference, of uint8 pictures, to eager rendering in float32: for
fp16, bf16, fp8 with the stages that are packed so by default, each stage alone, and all of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast import cascade, checkpoint, fp8, layout, models, palette
from crn_fast.checkpoint import Checkpoint
from crn_fast.fused import packed
from crn_fast.fused.ops import Choices
from crn_fast.kernels import reference
from crn_fast.kernels.gpu import packing
from crn_fast.kernels.gpu.label_pyramid import LEVELS
from crn_fast.kernels.gpu.operands import Convolution, float_type
from crn_fast.kernels.reference import Features
from crn_fast.module import Cascade
from crn_fast.spec import CascadeSpec

ARCH = 90
"""Forms are chosen as for this architecture."""


class Emulated:
    """The op table. Maps are float32 [N, C, H, W], padded channels, of values that were rounded.

    Weights are the packed `Convolution`s that the fused op table takes.
    """

    def __init__(self, choices: Choices) -> None:
        self.choices = choices
        self.stage = 0

    def narrow(self, x: Tensor, dtype: torch.dtype, quantum: float) -> Tensor:
        """As the apply pass writes features."""
        if dtype == packed.FP8:
            x = (x * quantum).clamp(-packing.E4M3_MAX, packing.E4M3_MAX)
        return rounded(x, dtype)

    def label_pyramid(self, labels: Tensor, classes: int, stages: int) -> list[Tensor]:
        dtype = packed.TYPES[self.choices.precision]
        maps: list[Tensor] = [labels]
        exact = reference.one_hot(labels, classes, torch.float32)
        for level in range(1, stages):
            exact = F.avg_pool2d(exact, 2)
            maps.append(rounded(exact, dtype))
            if level % LEVELS == 0:
                exact = maps[-1]
        return maps[::-1]

    def refine(self, features: Any, layout: Tensor, weights: Any, upsampling: str) -> Features:
        _, tile = self.choices.tile(self.stage, "conv1", weights)
        classes = weights.layout.shape[2]
        if layout.dtype == torch.uint8:
            layout = reference.one_hot(layout, classes, torch.float32)
        layout = F.pad(layout, (0, 0, 0, 0, 0, classes - layout.shape[1]))
        beside = F.conv2d(layout, kernel(weights.layout), padding=1)
        if features is None:
            return stored(beside, weights)
        if tile.form == "fold":
            return stored(self._folded(features, layout, beside, weights), weights)
        x = upsample(reference.activate(features), upsampling)
        x = self.narrow(x, weights.weight.dtype, weights.quantum)
        return stored(product(x, weights) + beside, weights)

    def _folded(self, features: Any, layout: Tensor, beside: Tensor, weights: Any) -> Tensor:
        activated = reference.activate(features)
        dtype = weights.weight.dtype
        x = F.pad(rounded(activated, dtype), (1, 1, 1, 1), mode="replicate")
        folded = F.conv2d(x, kernel(weights.folded.weight))
        folded = folded + F.conv2d(layout, kernel(weights.folded.layout), stride=2, padding=1)
        n, columns, height, width = folded.shape
        phases = folded.view(n, 2, 2, columns // 4, height, width).permute(0, 3, 4, 1, 5, 2)
        found = phases.reshape(n, columns // 4, 2 * height, 2 * width)
        # The outermost ring, where the folded form is not right, is computed from what it reads.
        fine = rounded(upsample(activated, "half_pixel"), dtype)
        for near, edge in ((slice(0, 2), 0), (slice(-2, None), -1)):
            found[:, :, edge] = (product(fine[:, :, near], weights))[:, :, edge]
            found[:, :, edge] += beside[:, :, edge]
            found[:, :, :, edge] = (product(fine[:, :, :, near], weights))[:, :, :, edge]
            found[:, :, :, edge] += beside[:, :, :, edge]
        return found

    def conv(self, features: Any, weights: Any) -> Features:
        self.stage += 1
        x = self.narrow(reference.activate(features), weights.weight.dtype, weights.quantum)
        return stored(product(x, weights), weights)

    def head(self, features: Any, weights: Any) -> Tensor:
        y = F.conv2d(reference.activate(features), weights.weight[:, :, None, None], weights.bias)
        n, channels, height, width = y.shape
        rgb = y.view(n, channels // 3, 3, height, width).permute(0, 1, 3, 4, 2)
        return (rgb + 1) * 127.5

    def to_uint8(self, rgb: Tensor) -> Tensor:
        return reference.to_uint8(rgb)


def rounded(x: Tensor, dtype: torch.dtype) -> Tensor:
    """To the nearest value of `dtype`, as float32."""
    return x.to(dtype).float()


def kernel(taps: Tensor) -> Tensor:
    """[side * side, C_out, C_in] -> float32 [C_out, C_in, side, side]."""
    side = round(len(taps) ** 0.5)
    return taps.float().permute(1, 2, 0).unflatten(2, (side, side)).contiguous()


def product(x: Tensor, weights: Convolution) -> Tensor:
    """The 3x3 convolution of features, in float32."""
    raw = F.conv2d(x, kernel(weights.weight), padding=1)
    return raw if weights.channel_scale is None else raw * weights.channel_scale[:, None, None]


def stored(raw: Tensor, weights: Convolution) -> Features:
    """The raw map as it is stored, with the norm that float32 sums give."""
    variance, mean = torch.var_mean(raw[:, : weights.channels], (1, 2, 3), correction=0)
    scale = weights.gamma * torch.rsqrt(variance + reference.EPS)[:, None]
    return Features(rounded(raw, float_type(weights)), scale, weights.beta - mean[:, None] * scale)


def upsample(x: Tensor, upsampling: str) -> Tensor:
    """Bilinear x2: columns, then rows, with sources found in integers."""
    for axis in (3, 2):
        low, high, weight = sources(x.shape[axis], upsampling)
        weight = weight.view(-1, *[1] * (3 - axis))
        x = x.index_select(axis, low) * (1 - weight) + x.index_select(axis, high) * weight
    return x


def sources(size: int, upsampling: str) -> tuple[Tensor, Tensor, Tensor]:
    """For each result, the low and the high source and the weight of the high one."""
    i = torch.arange(2 * size)
    if upsampling == "align_corners":
        position = i * (size - 1)
        low = position // (2 * size - 1)
        weight = (position - low * (2 * size - 1)).float() / (2 * size - 1)
    else:
        low = (i + 1) // 2 - 1
        weight = torch.where(i % 2 == 0, 0.75, 0.25)
    return low.clamp(0, size - 1), (low + 1).clamp(max=size - 1), weight


def render(made: Checkpoint, labels: Tensor, precision: str, stages: str | None = None) -> Tensor:
    """Labels uint8 [N, H, W] -> uint8 [N, K, H, W, 3]. `stages`: in fp8, as '4,5'; or by rule."""
    assert isinstance(made.spec, CascadeSpec)
    choices = Choices(made.spec, ARCH, precision, {})
    with patch.dict(os.environ, {} if stages is None else {fp8.VARIABLE: stages}):
        if stages is None:
            os.environ.pop(fp8.VARIABLE, None)
        arrays = packed.pack(made.spec, made.tensors, precision)
    weights = choices.fold(packed.unpack(made.spec, arrays, torch.device("cpu")))
    with torch.inference_mode():
        found: Tensor = cascade.render(Emulated(choices), made.spec, weights, labels)
        return found


def compare(found: Tensor, expected: Tensor) -> tuple[float, int]:
    """PSNR in decibels and the largest difference, of uint8 pictures."""
    difference = (found.int() - expected.int()).abs()
    squares = float(difference.double().square().mean())
    return 10 * float(np.log10(255**2 / squares)) if squares else np.inf, int(difference.max())


def variants(spec: CascadeSpec) -> Iterable[tuple[str, str, str | None]]:
    """Name, precision, and stages in fp8."""
    yield "fp16", "fp16", None
    yield "bf16", "bf16", None
    yield "fp8, default stages", "fp8", None
    later = [str(stage.index) for stage in spec.stages]
    for stage in spec.stages:
        yield f"fp8, stage {stage.index} ({stage.height}x{stage.width})", "fp8", str(stage.index)
    yield "fp8, all stages", "fp8", ",".join(later)


@click.command()
@click.argument("model")
@click.argument("layouts", nargs=-1, type=click.Path(exists=True, path_type=Path))
def main(model: str, layouts: tuple[Path, ...]) -> None:
    """Compare MODEL's emulated pictures of LAYOUTS (the packaged example) with float32's."""
    made = checkpoint.load(models.resolve(model))
    assert isinstance(made.spec, CascadeSpec)
    eager = Cascade(made.spec).eval()
    eager.load_state_dict({name: torch.from_numpy(x) for name, x in made.tensors.items()})
    maps = []
    for path in layouts or (models.example_of(model),):
        read = layout.read(path, palette.label_set(models.LABEL_SET))
        maps.append(torch.tensor(layout.fit(read, made.spec.size, "nearest").array)[None])
    with torch.inference_mode():
        expected = [reference.to_uint8(eager(labels)) for labels in maps]
    print(f"{model}, {len(maps)} layouts: PSNR of each, dB; largest difference, grey levels")
    for name, precision, stages in variants(made.spec):
        found = [
            compare(render(made, labels, precision, stages), picture)
            for labels, picture in zip(maps, expected, strict=True)
        ]
        each = " ".join(f"{psnr:.1f}" for psnr, _ in found)
        print(f"{name:32} {each}   {max(largest for _, largest in found)}", flush=True)


if __name__ == "__main__":
    main()
