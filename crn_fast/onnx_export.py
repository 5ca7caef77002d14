"""The cascade as an ONNX file: an op table whose features are names of values in a graph.

Opset 18, ONNX's own operators alone: any runtime can run it. Input `labels`, uint8 [N, H, W];
output `pictures`, uint8 [N, K, H, W, 3]. Layer norm is written as means in float32: TensorRT reads
GroupNormalization of one group, the obvious operator, as an instance norm.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from crn_fast import __version__, cascade
from crn_fast.cascade import ConvWeights, HeadWeights
from crn_fast.errors import ResourceError, Unavailable, UsageError
from crn_fast.extras import way_to
from crn_fast.spec import CascadeSpec
from crn_fast.weights import arrange

OPSET = 18
IR_VERSION = 8
"""The oldest that has this opset, so that older runtimes take the file."""
PRECISIONS = ("fp32", "fp16")
LIMIT = 2_000_000_000
"""Bytes of weights that one file can hold: protobuf ends at 2 GiB."""
EPS = 1e-12
SLOPE = 0.2


class Features(NamedTuple):
    raw: str
    """[N, C, H, W] in the storage type"""
    scale: str
    """[N, C, 1, 1] float32"""
    shift: str
    """[N, C, 1, 1] float32"""


def export(
    spec: CascadeSpec,
    tensors: Mapping[str, np.ndarray],
    precision: str = "fp32",
    batch: int | None = 1,
    *,
    rgb: bool = False,
) -> bytes:
    """The file's content.

    Args:
        spec: the network.
        tensors: its weights, named as in `CascadeSpec.tensors`.
        precision: of convolutions: 'fp32' or 'fp16'.
        batch: number of layouts; None for any, named N.
        rgb: give the output `rgb` too: float32 [N, K, H, W, 3] around 0..255, unclipped.

    Raises:
        Unavailable: the package onnx is missing.
        UsageError: another precision, or a batch below 1.
        ResourceError: more weights than one ONNX file can hold.
    """
    if reason := why_no_onnx():
        raise Unavailable(reason)
    import onnx

    if precision not in PRECISIONS:
        raise UsageError(f"onnx: precision is {precision!r}; expected {', '.join(PRECISIONS)}")
    if batch is not None and batch < 1:
        raise UsageError(f"onnx: batch is {batch}; expected at least 1")
    if (size := spec.bytes(2 if precision == "fp16" else 4)) > LIMIT:
        raise ResourceError(f"onnx: {size / 1e9:.1f} GB of weights; one file holds 2 GB at most")
    ops = OnnxOps(np.float16 if precision == "fp16" else np.float32)
    labels = onnx.helper.make_tensor_value_info(
        "labels", onnx.TensorProto.UINT8, [batch or "N", *spec.size]
    )
    found = cascade.synthesize(ops, spec, arrange(spec, tensors), "labels")
    pictures = ops.to_uint8(found)
    shape = [batch or "N", spec.images, *spec.size, 3]
    outputs = [ops.output(pictures, "pictures", np.uint8, shape)]
    if rgb:
        outputs.append(ops.output(found, "rgb", np.float32, shape))
    graph = onnx.helper.make_graph(ops.nodes, "cascade", [labels], outputs, ops.constants)
    model = onnx.helper.make_model(
        graph,
        opset_imports=[onnx.helper.make_opsetid("", OPSET)],
        producer_name="crn_fast",
        producer_version=__version__,
        ir_version=IR_VERSION,
    )
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def why_no_onnx() -> str | None:
    """None when the package onnx can be imported, else the way to it."""
    try:
        import onnx
    except ImportError as error:
        return f"onnx cannot be imported ({error}): {way_to('onnx')}"
    return None if hasattr(onnx, "helper") else f"the onnx found here is not ONNX: {way_to('onnx')}"


class OnnxOps:
    """The op table: each op adds nodes to a graph."""

    def __init__(self, storage: type[np.floating[Any]]) -> None:
        self.storage = np.dtype(storage)
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._stage, self._stem = -1, ""
        self._shared: dict[tuple[Any, ...], str] = {}

    def label_pyramid(self, labels: str, classes: int, stages: int) -> list[str]:
        """One-hot at full size, then 2x2 means in float32: exact."""
        self._stem = "label_pyramid"
        # In this order: TensorRT does nothing with uint8 but cast it.
        ids = self._add("Unsqueeze", self._cast(labels, np.float32), self._ints(1))
        numbers = self._constant(np.arange(classes, dtype=np.float32).reshape(1, -1, 1, 1))
        equal = self._add("Equal", ids, numbers)
        soft = self._cast(equal, np.float32)
        pyramid = [self._cast(equal, self.storage)]
        for _ in range(stages - 1):
            soft = self._add("AveragePool", soft, kernel_shape=[2, 2], strides=[2, 2])
            pyramid.append(self._cast(soft, self.storage, np.float32))
        return pyramid[::-1]

    def refine(
        self, features: Features | None, layout: str, weights: ConvWeights, upsampling: str
    ) -> Features:
        """As `cascade.Ops.refine`."""
        self._stage += 1
        self._stem = f"stages.{self._stage}.conv1"
        x = layout
        if features is not None:
            upsampled = self._add(
                "Resize",
                self._activate(features, self.storage),
                "",
                self._floats(1, 1, 2, 2),
                mode="linear",
                coordinate_transformation_mode=upsampling,
            )
            x = self._add("Concat", upsampled, layout, axis=1)
        return self._convolve(x, weights)

    def conv(self, features: Features, weights: ConvWeights) -> Features:
        """As `cascade.Ops.conv`."""
        self._stem = f"stages.{self._stage}.conv2"
        return self._convolve(self._activate(features, self.storage), weights)

    def head(self, features: Features, weights: HeadWeights) -> str:
        """As `cascade.Ops.head`; gives float32."""
        self._stem = "head"
        kernel = self._constant(np.asarray(weights.weight, self.storage)[:, :, None, None])
        bias = self._constant(np.asarray(weights.bias, self.storage))
        x = self._add("Conv", self._activate(features, self.storage), kernel, bias)
        x = self._add("Add", self._cast(x, np.float32, self.storage), self._floats(1))
        x = self._add("Mul", x, self._floats(127.5))
        height_width = self._add("Shape", x, start=2)
        shape = self._add("Concat", self._ints(0, 3, len(weights.bias) // 3), height_width, axis=0)
        return self._add("Transpose", self._add("Reshape", x, shape), perm=[0, 2, 3, 4, 1])

    def to_uint8(self, rgb: str) -> str:
        """As `cascade.Ops.to_uint8`."""
        self._stem = "to_uint8"
        low, high = (self._constant(np.float32(value)) for value in (0, 255))
        raised = self._add("Add", self._add("Clip", rgb, low, high), self._floats(0.5))
        return self._cast(self._add("Floor", raised), np.uint8)

    def output(self, value: str, name: str, dtype: Any, shape: list[Any]) -> Any:
        """Call a value by a name, as an output of the graph."""
        import onnx

        if value == self.nodes[-1].output[0]:
            self.nodes[-1].output[0] = name
        else:
            self.nodes.append(onnx.helper.make_node("Identity", [value], [name], name))
        element = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return onnx.helper.make_tensor_value_info(name, element, shape)

    def _convolve(self, x: str, weights: ConvWeights) -> Features:
        kernel = self._constant(np.asarray(weights.weight, self.storage))
        raw = self._add("Conv", x, kernel, pads=[1, 1, 1, 1])
        values = self._cast(raw, np.float32, self.storage)
        mean = self._mean(values)
        centred = self._add("Sub", values, mean)
        variance = self._mean(self._add("Mul", centred, centred))
        deviation = self._add("Sqrt", self._add("Add", variance, self._floats(EPS)))
        gamma, beta = (
            self._constant(np.asarray(each, np.float32).reshape(1, -1, 1, 1))
            for each in (weights.gamma, weights.beta)
        )
        scale = self._add("Div", gamma, deviation)
        return Features(raw, scale, self._add("Sub", beta, self._add("Mul", mean, scale)))

    def _mean(self, values: str) -> str:
        return self._add("ReduceMean", values, self._ints(1, 2, 3), keepdims=1)

    def _activate(self, features: Features, dtype: Any) -> str:
        values = self._cast(features.raw, np.float32, self.storage)
        shifted = self._add("Add", self._add("Mul", values, features.scale), features.shift)
        return self._cast(self._add("LeakyRelu", shifted, alpha=SLOPE), dtype, np.float32)

    def _cast(self, value: str, dtype: Any, known: Any = None) -> str:
        """To a type; nothing to do when the value is `known` to have it."""
        import onnx

        if known is not None and np.dtype(known) == np.dtype(dtype):
            return value
        return self._add("Cast", value, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(dtype)))

    def _add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        import onnx

        name = f"{self._stem}.{operator}.{len(self.nodes)}"
        self.nodes.append(onnx.helper.make_node(operator, inputs, [name], name, **attributes))
        return name

    def _ints(self, *values: int) -> str:
        return self._small(np.array(values, np.int64))

    def _floats(self, *values: float) -> str:
        return self._small(np.array(values, np.float32))

    def _small(self, values: np.ndarray) -> str:
        """A constant that is stored once, however often it is used."""
        key = (values.dtype.str, *values.tolist())
        if key not in self._shared:
            self._shared[key] = self._constant(values)
        return self._shared[key]

    def _constant(self, values: Any) -> str:
        import onnx

        name = f"constant.{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(values, order="C"), name))
        return name
