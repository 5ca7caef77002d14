"""A TensorRT network definition, run layer by layer in numpy: what the graph we gave it computes.

Independent of `crn_fast.trt.network` and of torch: it knows TensorRT's layers, not the cascade.
Each result is rounded to the type of its tensor; sums are taken in float64. numpy has no fp8: such
values are float32 here, rounded to e4m3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Array = np.ndarray


def run(trt: Any, network: Any, feeds: dict[str, Array]) -> dict[str, Array]:
    """Every tensor of the network by its name, given its inputs by theirs."""
    values = dict(feeds)
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = layer.type.name
        # The network hands out base classes; this is how TensorRT's own samples narrow them.
        layer.__class__ = getattr(trt, CLASSES[kind])
        inputs = [values[layer.get_input(k).name] for k in range(layer.num_inputs)]
        tensor = layer.get_output(0)
        found = LAYERS[kind](layer, *inputs)
        assert len(found.shape) == len(tensor.shape), (layer.name, found.shape, tensor.shape)
        for size, declared in zip(found.shape, tensor.shape, strict=True):
            assert declared in (-1, size), (layer.name, found.shape, tensor.shape)
        exact = tensor.dtype == trt.fp8
        values[tensor.name] = found.astype(np.float32 if exact else trt.nptype(tensor.dtype))
    return values


def activation(layer: Any, x: Array) -> Array:
    assert layer.type.name == "LEAKY_RELU"
    return np.where(x > 0, x, x * np.float32(layer.alpha))


def cast(layer: Any, x: Array) -> Array:
    return x  # `run` rounds to the type of the output


def concatenation(layer: Any, *inputs: Array) -> Array:
    return np.concatenate(inputs, axis=layer.axis)


def constant(layer: Any) -> Array:
    return np.array(layer.weights).reshape(tuple(layer.shape))


def convolution(layer: Any, x: Array, weight: Array | None = None) -> Array:
    channels, (height, width) = layer.num_output_maps, tuple(layer.kernel_size_nd)
    given = layer.kernel if weight is None else weight
    kernel = np.array(given, np.float64).reshape(channels, x.shape[1], height, width)
    bias = np.array(layer.bias, np.float64)
    assert tuple(layer.stride_nd) == tuple(layer.dilation_nd) == (1, 1)
    assert layer.num_groups == 1
    down, right = tuple(layer.padding_nd)
    padded = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (down, down), (right, right)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), (2, 3))
    result = np.einsum("nihwyx,oiyx->nohw", windows, kernel, optimize=True)
    return result + (bias.reshape(1, -1, 1, 1) if bias.size else 0)


def dequantize(layer: Any, x: Array, scale: Array) -> Array:
    assert scale.ndim == 0
    return x * scale


def elementwise(layer: Any, a: Array, b: Array) -> Array:
    operations: dict[str, Callable[[Array, Array], Array]] = {
        "SUM": np.add,
        "SUB": np.subtract,
        "PROD": np.multiply,
        "DIV": np.divide,
        "MAX": np.maximum,
        "MIN": np.minimum,
        "EQUAL": np.equal,
    }
    assert a.ndim == b.ndim and a.dtype == b.dtype, (layer.name, a.dtype, b.dtype)
    return operations[layer.op.name](a, b)


def pooling(layer: Any, x: Array) -> Array:
    assert layer.type.name == "AVERAGE"
    assert tuple(layer.window_size_nd) == tuple(layer.stride_nd) == (2, 2)
    n, c, h, w = x.shape
    return x.astype(np.float64).reshape(n, c, h // 2, 2, w // 2, 2).mean((3, 5))


def quantize(layer: Any, x: Array, scale: Array) -> Array:
    """To e4m3: the nearest, of two equally near the one with an even code; no infinities."""
    assert scale.ndim == 0 and layer.get_output(0).dtype.name == "FP8"
    codes = np.arange(127)
    power, fraction = codes >> 3, codes & 7
    values = np.where(power > 0, (8 + fraction) * 2.0 ** (power - 10), fraction * 2.0**-9)
    magnitude = np.abs(x.astype(np.float64) / scale).clip(0, values[-1])
    above = np.searchsorted(values, magnitude).clip(1)
    middle = (values[above] + values[above - 1]) / 2
    down = (magnitude < middle) | ((magnitude == middle) & (above % 2 == 1))
    return np.copysign(values[above - down], x)


def reduce(layer: Any, x: Array) -> Array:
    assert layer.op.name == "AVG" and layer.keep_dims
    axes = tuple(axis for axis in range(x.ndim) if layer.axes >> axis & 1)
    return x.astype(np.float64).mean(axes, keepdims=True)


def resize(layer: Any, x: Array) -> Array:
    assert layer.resize_mode.name == "LINEAR"
    scales = list(layer.scales)
    assert scales[:2] == [1, 1]
    for axis in (2, 3):
        size = x.shape[axis]
        out = int(size * scales[axis])
        positions = np.arange(out, dtype=np.float64)
        if layer.coordinate_transformation.name == "ALIGN_CORNERS":
            sources = positions * (size - 1) / max(out - 1, 1)
        else:
            assert layer.coordinate_transformation.name == "HALF_PIXEL"
            sources = ((positions + 0.5) / scales[axis] - 0.5).clip(0, size - 1)
        low = np.floor(sources).astype(int).clip(0, size - 1)
        high = (low + 1).clip(0, size - 1)
        weight = (sources - low).reshape(-1, *(1,) * (3 - axis))
        x = np.take(x, low, axis) * (1 - weight) + np.take(x, high, axis) * weight
    return x


def shuffle(layer: Any, x: Array) -> Array:
    assert tuple(layer.first_transpose)[: x.ndim] == tuple(range(x.ndim))
    shape = [x.shape[i] if size == 0 else size for i, size in enumerate(layer.reshape_dims)]
    x = x.reshape(shape)
    return x.transpose(tuple(layer.second_transpose)[: x.ndim])


def unary(layer: Any, x: Array) -> Array:
    return {"SQRT": np.sqrt, "FLOOR": np.floor}[layer.op.name](x)


LAYERS: dict[str, Callable[..., Array]] = {
    **{f.__name__.upper(): f for f in (activation, cast, concatenation, constant, convolution)},
    **{f.__name__.upper(): f for f in (dequantize, elementwise, pooling, quantize, reduce)},
    **{f.__name__.upper(): f for f in (resize, shuffle, unary)},
}
CLASSES = {
    kind: f"I{'ElementWise' if kind == 'ELEMENTWISE' else kind.capitalize()}Layer"
    for kind in LAYERS
}
