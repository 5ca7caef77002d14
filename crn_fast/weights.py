"""Flat tensors by name, as files hold them -> the nested weights that the cascade takes.

It checks and arranges: values, dtypes and devices are the caller's. Packing for one backend's
kernels belongs to that backend.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from crn_fast.baselines.spec import BaselineSpec
from crn_fast.cascade import CascadeWeights, ConvWeights, HeadWeights, StageWeights
from crn_fast.errors import BadInput
from crn_fast.spec import CascadeSpec


def check_tensors(
    source: str, spec: CascadeSpec | BaselineSpec, tensors: Mapping[str, np.ndarray]
) -> None:
    """Check that tensors are those of the spec's network.

    Raises:
        BadInput: names that are missing or unexpected, another shape or type than the spec's, or
            values that are no finite numbers; `source` and the first such tensor are named.
    """
    expected = spec.tensors()
    missing, unexpected = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
    if missing or unexpected:
        found = [f"missing {_some(missing)}"] if missing else []
        found += [f"unexpected {_some(unexpected)}"] if unexpected else []
        raise BadInput(f"{source}: its tensors do not fit its spec: {'; '.join(found)}")
    for name, shape in expected.items():
        tensor = tensors[name]
        if tensor.shape != shape:
            raise BadInput(
                f"{source}: tensor {name} has shape {tensor.shape}; its spec says {shape}"
            )
        if tensor.dtype not in (np.float32, np.float16):
            raise BadInput(
                f"{source}: tensor {name} is {tensor.dtype}; expected float32 or float16"
            )
        if not np.isfinite(tensor).all():
            raise BadInput(
                f"{source}: tensor {name} holds values that are no finite numbers; the training "
                "diverged or a conversion overflowed: use an earlier checkpoint"
            )


def _some(names: Iterable[str]) -> str:
    first = sorted(map(str, names))
    return ", ".join(first[:4]) + (f" and {len(first) - 4} more" if len(first) > 4 else "")


def arrange(spec: CascadeSpec, tensors: Mapping[str, Any]) -> CascadeWeights:
    """Nest the tensors named as in `CascadeSpec.tensors`. A missing name is a KeyError."""

    def conv(stem: str) -> ConvWeights:
        return ConvWeights(*(tensors[f"{stem}.{field}"] for field in ConvWeights._fields))

    stages = tuple(
        StageWeights(conv(f"stages.{i}.conv1"), conv(f"stages.{i}.conv2"))
        for i in range(len(spec.widths))
    )
    return CascadeWeights(stages, HeadWeights(tensors["head.weight"], tensors["head.bias"]))
