"""The cascade as a TensorRT network definition: an op table whose features are its tensors.

`define` runs `cascade.render` once with symbolic tensors; every layer is added to the network and
named after what it computes, so that profiles can be read. Nothing here knows of builders, targets
or plans.

Types: convolutions and what travels between layers in the storage type; statistics, norm, leaky
ReLU and the picture in float32. fp8 is fp16 with the inputs and weights of some convolutions
quantised, by one scale each: with a scale for each channel of the weights TensorRT writes the
result as float32, and fp8's precision hardly depends on the scale. A layer norm is written as
reductions of float32: TensorRT's own normalisation layer keeps its statistics in half precision on
some targets, and runs as a single block of threads on others.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from crn_fast import cascade, fp8
from crn_fast.cascade import CascadeWeights, ConvWeights, HeadWeights
from crn_fast.spec import CascadeSpec

LABELS, PICTURES = "labels", "pictures"
"""Names of the engine's input, uint8 [N, H, W], and output, uint8 [N, K, H, W, 3]."""
EPS = 1e-12
SLOPE = 0.2


class Features(NamedTuple):
    raw: Any
    """[N, C, H, W] in the storage type, convolution output"""
    scale: Any
    """[N, C, 1, 1] float32"""
    shift: Any
    """[N, C, 1, 1] float32; the features are leaky_relu(raw * scale + shift)"""
    quantum: float
    """What they are multiplied by where they become fp8"""


def define(
    trt: Any,
    network: Any,
    spec: CascadeSpec,
    weights: CascadeWeights,
    precision: str,
    batch: int,
    table: type[TensorRTOps] | None = None,
) -> list[np.ndarray]:
    """Add the whole cascade to an empty, strongly typed network.

    Args:
        trt: the module `tensorrt` or `tensorrt_rtx`.
        network: its INetworkDefinition.
        spec: what to build.
        weights: float32 or float16 arrays.
        precision: 'fp32', 'tf32', 'bf16', 'fp16' or 'fp8'; the first two are the same network.
        batch: number of layouts, -1 to leave it to an optimisation profile.
        table: the ops; None for those of this file.

    Returns:
        the arrays that TensorRT reads while it builds: keep them until then.

    Raises:
        UsageError: $CRN_FAST_FP8_STAGES names no stage.
    """
    narrow = fp8.stages(spec) if precision == "fp8" else set()
    ops = (table or TensorRTOps)(trt, network, precision, narrow)
    labels = network.add_input(LABELS, trt.uint8, (batch, *spec.size))
    pictures = cascade.render(ops, spec, weights, labels)
    pictures.name = PICTURES
    network.mark_output(pictures)
    return ops.arrays


class TensorRTOps:
    """The op table: each op adds layers to a network."""

    def __init__(self, trt: Any, network: Any, precision: str, narrow: set[int]) -> None:
        """`narrow`: stages whose convolutions of features are in fp8."""
        self.trt, self.network = trt, network
        types = {"bf16": trt.bfloat16, "fp16": trt.float16, "fp8": trt.float16}
        self.storage = types.get(precision, trt.float32)
        # bfloat16 steps by half a grey level near black and white.
        self.head_type = trt.float16 if self.storage == trt.float16 else trt.float32
        self.arrays: list[np.ndarray] = []
        self._names = _names()
        self._narrow = {f"stages.{index}" for index in narrow}
        self._stem = ""

    def label_pyramid(self, labels: Any, classes: int, stages: int) -> list[Any]:
        """One-hot at full size, then 2x2 means: exact in float32, and the first in any type."""
        self._stem = "label_pyramid"
        ids = self._cast(labels, self.trt.float32)
        column = self._reshape(ids, (0, 1, *tuple(labels.shape)[1:]))
        numbers = np.arange(classes, dtype=np.float32).reshape(1, -1, 1, 1)
        equal = self._elementwise(column, self._constant(numbers), "EQUAL", "one_hot")
        soft = self._cast(equal, self.storage)
        pyramid = [soft]
        for _ in range(stages - 1):
            mean = self.network.add_pooling_nd(soft, self.trt.PoolingType.AVERAGE, (2, 2))
            mean.stride_nd = (2, 2)
            soft = self._cast(self._add("mean", mean).get_output(0), self.trt.float32)
            pyramid.append(soft)
        return pyramid[::-1]

    def refine(
        self, features: Features | None, layout: Any, weights: ConvWeights, upsampling: str
    ) -> Features:
        """As `cascade.Ops.refine`."""
        self._stem = next(self._names)
        x = self._cast(layout, self.storage)
        if features is not None:
            x = self._concatenated(features, x, upsampling)
            # The layout's 1.0 must fit beside the features.
            return self._convolve(x, weights, min(features.quantum, fp8.LARGEST))
        return self._convolve(x, weights)

    def conv(self, features: Features, weights: ConvWeights) -> Features:
        """As `cascade.Ops.conv`."""
        self._stem = next(self._names)
        x = self._cast(self._activate(features), self.storage)
        return self._convolve(x, weights, features.quantum)

    def head(self, features: Features, weights: HeadWeights) -> Any:
        """As `cascade.Ops.head`; gives float32."""
        self._stem = "head"
        x = self._cast(self._activate(features), self.head_type)
        y = self._convolution(x, weights.weight[:, :, None, None], weights.bias, self.head_type)
        y = self._cast(y, self.trt.float32)
        grey = self._constant(np.full((1, 1, 1, 1), 127.5, np.float32))
        one = self._constant(np.ones((1, 1, 1, 1), np.float32))
        y = self._elementwise(self._elementwise(y, one, "SUM", "offset"), grey, "PROD", "grey")
        channels, height, width = tuple(y.shape)[1:]
        images = self._add("images", self.network.add_shuffle(y))
        images.reshape_dims = (0, 3, channels // 3, height, width)
        images.second_transpose = (0, 2, 3, 4, 1)
        return images.get_output(0)

    def to_uint8(self, rgb: Any) -> Any:
        """As `cascade.Ops.to_uint8`."""
        self._stem = "to_uint8"
        low, half, high = (
            self._constant(np.full((1,) * 5, value, np.float32)) for value in (0, 0.5, 255)
        )
        clipped = self._elementwise(self._elementwise(rgb, low, "MAX", "low"), high, "MIN", "high")
        raised = self._elementwise(clipped, half, "SUM", "half")
        floor = self.network.add_unary(raised, self.trt.UnaryOperation.FLOOR)
        return self._cast(self._add("floor", floor).get_output(0), self.trt.uint8)

    def _concatenated(self, features: Features, layout: Any, upsampling: str) -> Any:
        """The features upsampled x2, then the layout."""
        modes = self.trt.ResizeCoordinateTransformation
        resize = self.network.add_resize(self._cast(self._activate(features), self.storage))
        resize.resize_mode = self.trt.InterpolationMode.LINEAR
        resize.scales = (1, 1, 2, 2)
        resize.coordinate_transformation = getattr(modes, upsampling.upper())
        upsampled = self._add("upsample", resize).get_output(0)
        concatenation = self.network.add_concatenation([upsampled, layout])
        concatenation.axis = 1
        return self._add("concatenate", concatenation).get_output(0)

    def _convolve(self, x: Any, weights: ConvWeights, quantum: float | None = None) -> Features:
        """3x3 convolution, and the norm that it leaves pending: statistics in float32, two-pass.

        `quantum`: of features in `x`.
        """
        if quantum is not None and self._stem.rpartition(".")[0] in self._narrow:
            raw = self._narrow_convolution(x, weights.weight, quantum)
        else:
            raw = self._convolution(x, weights.weight, None, self.storage)
        channels, height, width = tuple(raw.shape)[1:]
        mean = self._mean(self._float(raw, (0, channels, height * width)), "mean")
        mean = self._reshape(mean, (0, 1, 1, 1))
        values = self._float(raw, (0, channels, height * width, 1))
        centred = self._elementwise(values, mean, "SUB", "centre")
        variance = self._mean(self._elementwise(centred, centred, "PROD", "square"), "variance")
        eps = self._constant(np.full((1, 1, 1, 1), EPS, np.float32))
        deviation = self._unary(self._elementwise(variance, eps, "SUM", "eps"), "SQRT", "deviation")
        gamma, beta = (
            self._constant(np.asarray(values, np.float32).reshape(1, -1, 1, 1))
            for values in (weights.gamma, weights.beta)
        )
        scale = self._elementwise(gamma, deviation, "DIV", "scale")
        shift = self._elementwise(
            beta, self._elementwise(mean, scale, "PROD", "mean_scale"), "SUB", "shift"
        )
        return Features(raw, scale, shift, fp8.quantum(weights.gamma, weights.beta))

    def _activate(self, features: Features) -> Any:
        scaled = self._elementwise(
            self._cast(features.raw, self.trt.float32), features.scale, "PROD", "apply_scale"
        )
        shifted = self._elementwise(scaled, features.shift, "SUM", "apply_shift")
        leaky = self.network.add_activation(shifted, self.trt.ActivationType.LEAKY_RELU)
        leaky.alpha = SLOPE
        return self._add("leaky_relu", leaky).get_output(0)

    def _convolution(self, x: Any, weight: Any, bias: Any, dtype: Any) -> Any:
        size = weight.shape[-1]
        kernel = self._weights(weight, dtype)
        shift = self.trt.Weights() if bias is None else self._weights(bias, dtype)
        layer = self.network.add_convolution_nd(x, len(weight), (size, size), kernel, shift)
        layer.padding_nd = (size // 2, size // 2)
        return self._add("convolution", layer).get_output(0)

    def _narrow_convolution(self, x: Any, weight: Any, quantum: float) -> Any:
        """In fp8: TensorRT finds the convolution between what is quantised and read back."""
        values = np.asarray(weight, np.float32)
        largest = float(np.abs(values).max()) or 1.0
        kernel = self._quantised(self._constant(values), largest / fp8.LARGEST, "weight")
        layer = self.network.add_convolution_nd(
            self._quantised(x, 1 / quantum, "input"), len(values), (3, 3), self.trt.Weights()
        )
        layer.set_input(1, kernel)
        layer.padding_nd = (1, 1)
        return self._add("convolution", layer).get_output(0)

    def _quantised(self, x: Any, worth: float, name: str) -> Any:
        """To e4m3 and back to the storage type; `worth` is what 1.0 of e4m3 stands for."""
        scale = self._constant(np.array(worth, np.float32))
        narrow = self._add(
            f"quantise_{name}", self.network.add_quantize(x, scale, self.trt.fp8)
        ).get_output(0)
        wide = self.network.add_dequantize(narrow, scale, self.storage)
        return self._add(f"dequantise_{name}", wide).get_output(0)

    def _float(self, raw: Any, shape: tuple[int, ...]) -> Any:
        """The values in float32 and a shape that no other reader of `raw` has.

        The shape is what keeps the cast inside the kernel that reads it. Readers that share one
        cast make TensorRT write it to memory as a float32 copy of the whole map, and transpose it:
        twice the bytes of the authors' network, for the same arithmetic.
        """
        return self._cast(self._reshape(raw, shape), self.trt.float32)

    def _mean(self, x: Any, name: str) -> Any:
        """Over all but the layouts; dimensions are kept."""
        axes = (1 << len(x.shape)) - 2
        layer = self.network.add_reduce(x, self.trt.ReduceOperation.AVG, axes, True)
        return self._add(name, layer).get_output(0)

    def _reshape(self, x: Any, shape: tuple[int, ...]) -> Any:
        """A 0 in the shape keeps that dimension."""
        layer = self.network.add_shuffle(x)
        layer.reshape_dims = shape
        return self._add("reshape", layer).get_output(0)

    def _elementwise(self, a: Any, b: Any, operation: str, name: str) -> Any:
        kind = getattr(self.trt.ElementWiseOperation, operation)
        return self._add(name, self.network.add_elementwise(a, b, kind)).get_output(0)

    def _unary(self, x: Any, operation: str, name: str) -> Any:
        kind = getattr(self.trt.UnaryOperation, operation)
        return self._add(name, self.network.add_unary(x, kind)).get_output(0)

    def _cast(self, x: Any, dtype: Any) -> Any:
        if x.dtype == dtype:
            return x
        return self._add("cast", self.network.add_cast(x, dtype)).get_output(0)

    def _constant(self, values: np.ndarray) -> Any:
        layer = self.network.add_constant(values.shape, self._weights(values, self.trt.float32))
        return self._add("constant", layer).get_output(0)

    def _weights(self, values: Any, dtype: Any) -> Any:
        if dtype == self.trt.bfloat16:
            array = to_bfloat16(np.asarray(values, np.float32))
            self.arrays.append(array)
            return self.trt.Weights(dtype, array.ctypes.data, array.size)
        array = np.ascontiguousarray(values, np.dtype(self.trt.nptype(dtype)))
        self.arrays.append(array)
        return self.trt.Weights(array)

    def _add(self, name: str, layer: Any) -> Any:
        layer.name = f"{self._stem}.{name}.{self.network.num_layers}"
        return layer


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> bits of bfloat16 in uint16, rounded to nearest even; numpy has no such type."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def _names() -> Iterator[str]:
    """stages.0.conv1, stages.0.conv2, stages.1.conv1 ...: the order in which they are added."""
    stage = 0
    while True:
        yield f"stages.{stage}.conv1"
        yield f"stages.{stage}.conv2"
        stage += 1
