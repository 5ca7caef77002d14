"""Flat tensors by name, as files hold them <-> the nested weights that the cascade takes.

It only arranges: values, dtypes and devices are the caller's. Packing for one backend's kernels
belongs to that backend.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from crn_fast.cascade import CascadeWeights, ConvWeights, HeadWeights, StageWeights
from crn_fast.spec import CascadeSpec


def arrange(spec: CascadeSpec, tensors: Mapping[str, Any]) -> CascadeWeights:
    """Nest the tensors named as in `CascadeSpec.tensors`. A missing name is a KeyError."""

    def conv(stem: str) -> ConvWeights:
        return ConvWeights(*(tensors[f"{stem}.{field}"] for field in ConvWeights._fields))

    stages = tuple(
        StageWeights(conv(f"stages.{i}.conv1"), conv(f"stages.{i}.conv2"))
        for i in range(len(spec.widths))
    )
    return CascadeWeights(stages, HeadWeights(tensors["head.weight"], tensors["head.bias"]))
