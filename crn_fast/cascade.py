"""The Cascaded Refinement Network, written once, as a function of a table of ops.

A backend is another `Ops`; there is no second copy of the network. Layer norm takes its statistics
over a whole map, so it cannot be applied before the map is complete: features therefore travel as
*raw convolution output plus a pending scale and shift for each channel*, and the next op applies
norm and leaky ReLU as it loads them. What features, layouts and weights are made of is the op
table's own business.

Legend of shapes: N layouts, K images a layout, H x W pixels, C channels.

Source: Chen & Koltun 2017, section 3.2, figure 3.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from crn_fast.spec import CascadeSpec


class ConvWeights(NamedTuple):
    """A 3x3 convolution without bias, and the layer norm that follows it."""

    weight: Any
    """[C_out, C_in, 3, 3]"""
    gamma: Any
    """[C_out], the norm's scale"""
    beta: Any
    """[C_out], the norm's shift"""


class StageWeights(NamedTuple):
    conv1: ConvWeights
    conv2: ConvWeights


class HeadWeights(NamedTuple):
    """The 1x1 convolution to RGB. Image k is output channels k, K + k, 2K + k."""

    weight: Any
    """[3K, C]"""
    bias: Any
    """[3K]"""


class CascadeWeights(NamedTuple):
    stages: tuple[StageWeights, ...]
    head: HeadWeights


class Ops(Protocol):
    """The five ops that a backend provides."""

    def label_pyramid(self, labels: Any, classes: int, stages: int) -> Sequence[Any]:
        """Labels uint8 [N, H, W] -> the layout at each stage, coarse to fine."""

    def refine(self, features: Any, layout: Any, weights: ConvWeights, upsampling: str) -> Any:
        """Norm and leaky ReLU, bilinear x2, concatenate the layout, 3x3 convolution.

        `features` is None at the first stage, which sees the layout alone.
        """

    def conv(self, features: Any, weights: ConvWeights) -> Any:
        """Norm and leaky ReLU, 3x3 convolution."""

    def head(self, features: Any, weights: HeadWeights) -> Any:
        """Norm and leaky ReLU, 1x1 convolution -> float RGB in 0..255, [N, K, H, W, 3]."""

    def to_uint8(self, rgb: Any) -> Any:
        """Clip to 0..255 and round half up -> uint8."""


def synthesize(ops: Ops, spec: CascadeSpec, weights: CascadeWeights, labels: Any) -> Any:
    """Labels uint8 [N, H, W], every id < spec.classes -> float RGB [N, K, H, W, 3], unclipped.

    Values lie around 0..255. Differentiable where the ops are.
    """
    layouts = ops.label_pyramid(labels, spec.classes, len(spec.stages))
    features = None
    for layout, stage in zip(layouts, weights.stages, strict=True):
        features = ops.refine(features, layout, stage.conv1, spec.upsampling)
        features = ops.conv(features, stage.conv2)
    return ops.head(features, weights.head)


def render(ops: Ops, spec: CascadeSpec, weights: CascadeWeights, labels: Any) -> Any:
    """Labels uint8 [N, H, W], every id < spec.classes -> uint8 RGB [N, K, H, W, 3]."""
    return ops.to_uint8(synthesize(ops, spec, weights, labels))
