"""The tensors of an engine file for the Triton kernels: made, checked, and put on a device.

Under the names of `CascadeSpec.tensors`:

- `stages.I.convJ.weight` [9, C_out, C_in]: tap by tap, channels padded to multiples of 16; features
  alone, so the first stage's conv1 has none. float16 or float32; bfloat16 as its bytes, uint8 with
  one more axis of two; fp8 (e4m3) as its bits in uint8, with `stages.I.convJ.channel_scale` float32
  [C_out], what 1.0 stands for.
- `stages.I.conv1.layout` [9, C_out, classes]: the layout's part, never in fp8.
- `stages.I.convJ.gamma`, `.beta` [C_out], as they are.
- `head.weight` float32 [3K, C] and `head.bias` [3K], image by image.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from crn_fast import fp8
from crn_fast.cascade import CascadeWeights, HeadWeights, StageWeights
from crn_fast.errors import BadInput, Mismatch
from crn_fast.kernels.gpu import packing
from crn_fast.kernels.gpu.operands import Convolution, Head, padded
from crn_fast.spec import CascadeSpec

FP8 = torch.float8_e4m3fn
FLOAT: np.dtype[Any] = np.dtype(np.float32)
HALF: np.dtype[Any] = np.dtype(np.float16)
BITS: np.dtype[Any] = np.dtype(np.uint8)
DTYPES = {FLOAT: torch.float32, HALF: torch.float16, BITS: torch.uint8}
TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
TYPES |= {"fp32": torch.float32, "fp8": torch.float16}
"""Precision -> type of maps, and of weights that are not fp8."""


def pack(
    spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
) -> dict[str, np.ndarray]:
    """See the top of this file. `precision`: one of TYPES.

    Raises:
        BadInput: a weight is beyond the range of the precision.
        UsageError: $CRN_FAST_FP8_STAGES names a stage that is not there.
    """
    narrow = fp8.stages(spec) if precision == "fp8" else set()
    packed: dict[str, np.ndarray] = {}
    for stage in spec.stages:
        for conv, features in (("conv1", stage.features), ("conv2", stage.channels)):
            stem = f"stages.{stage.index}.{conv}"
            weight = torch.from_numpy(np.asarray(tensors[f"{stem}.weight"], np.float32))
            if features and stage.index in narrow:
                taps, worth = packing.quantise(packing.by_taps(weight[:, :features]))
                packed[f"{stem}.weight"] = _store(f"{stem}.weight", taps)
                packed[f"{stem}.channel_scale"] = worth.numpy()
            elif features:
                taps = packing.by_taps(weight[:, :features]).to(TYPES[precision])
                packed[f"{stem}.weight"] = _store(f"{stem}.weight", taps)
            if conv == "conv1":
                layout = packing.by_taps(weight[:, features:]).to(TYPES[precision])
                packed[f"{stem}.layout"] = _store(f"{stem}.layout", layout)
            for name in (f"{stem}.gamma", f"{stem}.beta"):
                packed[name] = np.asarray(tensors[name], np.float32)
    order = np.arange(3 * spec.images).reshape(3, -1).T.ravel()
    head = np.asarray(tensors["head.weight"], np.float32)[order]
    packed["head.weight"] = np.pad(head, ((0, 0), (0, padded(head.shape[1]) - head.shape[1])))
    packed["head.bias"] = np.asarray(tensors["head.bias"], np.float32)[order]
    return packed


def _store(name: str, tensor: torch.Tensor) -> np.ndarray:
    if not tensor.float().isfinite().all():
        raise BadInput(f"{name} holds values that fp16 cannot; take --precision bf16")
    if tensor.dtype == torch.bfloat16:
        tensor = tensor[..., None].view(torch.uint8)
    elif tensor.dtype == FP8:
        tensor = tensor.view(torch.uint8)
    array: np.ndarray = tensor.numpy()
    return array


def check(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
    """BadInput unless `packed` is what `pack` gives for this spec, in any precision."""
    plain = packed["stages.0.conv1.layout"].dtype if "stages.0.conv1.layout" in packed else FLOAT
    expected = _expected(spec, plain, _narrow(packed))
    if wrong := sorted(expected.keys() ^ packed.keys()):
        state = "missing" if wrong[0] in expected else "unexpected"
        raise BadInput(f"{source}: its tensors do not fit its spec: {state} {wrong[0]}")
    for name, (dtype, shape) in expected.items():
        found = packed[name]
        if found.shape != shape or found.dtype != dtype:
            raise BadInput(
                f"{source}: tensor {name} is {found.dtype} {found.shape}; its spec says {dtype} "
                f"{shape}"
            )
        if not _finite(found):
            raise BadInput(f"{source}: tensor {name} holds values that are no finite numbers")


def _narrow(packed: Iterable[str]) -> set[str]:
    """The indices of the stages in fp8."""
    return {name.split(".")[1] for name in packed if name.endswith(".channel_scale")}


def _finite(array: np.ndarray) -> bool:
    if array.dtype == np.uint8 and array.ndim == 4:  # bfloat16, low byte first
        return bool((((array[..., 1] & 0x7F) != 0x7F) | (array[..., 0] < 0x80)).all())
    if array.dtype == np.uint8:  # e4m3
        return bool(((array & 0x7F) != 0x7F).all())
    return bool(np.isfinite(array).all())


def _expected(
    spec: CascadeSpec, plain: np.dtype[Any], narrow: Container[str]
) -> dict[str, tuple[np.dtype[Any], tuple[int, ...]]]:
    """Type and shape of each tensor. `plain`: of layouts, and of weights that are not fp8."""
    pair = (2,) if plain == BITS else ()
    expected: dict[str, tuple[np.dtype[Any], tuple[int, ...]]] = {}
    for stage in spec.stages:
        outputs = padded(stage.channels)
        for conv, features in (("conv1", stage.features), ("conv2", stage.channels)):
            stem = f"stages.{stage.index}.{conv}"
            taps = (9, outputs, padded(features))
            if features and str(stage.index) in narrow:
                expected[f"{stem}.weight"] = (BITS, taps)
                expected[f"{stem}.channel_scale"] = (FLOAT, (outputs,))
            elif features:
                expected[f"{stem}.weight"] = (plain, (*taps, *pair))
            if conv == "conv1":
                expected[f"{stem}.layout"] = (plain, (9, outputs, padded(spec.classes), *pair))
            for name in ("gamma", "beta"):
                expected[f"{stem}.{name}"] = (FLOAT, (stage.channels,))
    expected["head.weight"] = (FLOAT, (3 * spec.images, padded(spec.widths[-1])))
    expected["head.bias"] = (FLOAT, (3 * spec.images,))
    return expected


def blank(spec: CascadeSpec, precision: str) -> CascadeWeights:
    """Weights without values, on the device `meta`: enough to plan and to compile."""
    plain = {"bf16": BITS, "fp32": FLOAT, "tf32": FLOAT}.get(precision, HALF)
    narrow = set(map(str, fp8.stages(spec))) if precision == "fp8" else set()
    expected = _expected(spec, plain, narrow)
    arrays = {
        name: np.broadcast_to(np.zeros((), dtype), shape)
        for name, (dtype, shape) in expected.items()
    }
    return unpack(spec, arrays, torch.device("meta"))


def precision_of(packed: Mapping[str, np.ndarray], asked: str) -> str:
    """The precision to run in: the one asked for, or for 'auto' the one it was packed in.

    Raises:
        Mismatch: they differ.
    """
    plain = str(packed["stages.0.conv1.layout"].dtype)
    held = {"float16": ["fp16"], "uint8": ["bf16"]}.get(plain, ["fp32", "tf32"])
    if _narrow(packed):
        held = ["fp8"]
    # Stages in fp8 are chosen by rule, and a small network may have none.
    if asked == "auto" or asked in held or (asked, held) == ("fp8", ["fp16"]):
        return held[0] if asked == "auto" else asked
    raise Mismatch(
        f"fused: the weights are packed in {held[0]}, not {asked}: crn-fast build-engine CKPT "
        f"--backend fused --precision {asked}"
    )


def unpack(
    spec: CascadeSpec, packed: Mapping[str, np.ndarray], device: torch.device
) -> CascadeWeights:
    """The weights as the op table takes them, on a device."""

    def place(name: str) -> torch.Tensor:
        array = packed[name]
        if device.type == "meta":
            tensor = torch.empty(array.shape, dtype=DTYPES[array.dtype], device=device)
        else:
            tensor = torch.tensor(array).to(device)  # a copy: files are mapped read-only
        if tensor.dtype != torch.uint8:
            return tensor
        return tensor.view(torch.bfloat16)[..., 0] if tensor.ndim == 4 else tensor.view(FP8)

    def convolution(index: int, conv: str, before: str | None) -> Convolution:
        stem = f"stages.{index}.{conv}"
        gamma, beta = place(f"{stem}.gamma"), place(f"{stem}.beta")
        layout = place(f"{stem}.layout") if conv == "conv1" else None
        if before is not None:
            weight = place(f"{stem}.weight")
        else:
            assert layout is not None
            weight = layout[:, :, :0]
        channel_scale, quantum = None, 1.0
        if f"{stem}.channel_scale" in packed:
            assert before is not None
            quantum = fp8.quantum(packed[f"{before}.gamma"], packed[f"{before}.beta"])
            channel_scale = place(f"{stem}.channel_scale") / quantum
        return Convolution(
            weight,
            layout,
            packing.pad_channels(gamma),
            packing.pad_channels(beta),
            len(gamma),
            channel_scale,
            quantum,
        )

    stages: list[StageWeights] = []
    before = None
    for stage in spec.stages:
        conv1: Any = convolution(stage.index, "conv1", before)
        conv2: Any = convolution(stage.index, "conv2", f"stages.{stage.index}.conv1")
        stages.append(StageWeights(conv1, conv2))
        before = f"stages.{stage.index}.conv2"
    head = Head(place("head.weight"), place("head.bias"))
    return CascadeWeights(tuple(stages), HeadWeights(*head))
