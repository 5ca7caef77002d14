"""Small networks and checkpoints that tests share."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from crn_fast import checkpoint, torch_file
from crn_fast.checkpoint import Checkpoint
from crn_fast.palette import label_set
from crn_fast.spec import CascadeSpec

SPEC = CascadeSpec(widths=(7, 6, 4), base=(3, 5), classes=12, images=2, upsampling="half_pixel")
"""Label set camvid; pictures of 12x20."""


def make_checkpoint(spec: CascadeSpec = SPEC, labels: str = "camvid") -> Checkpoint:
    """Random weights, the same at every call, in a range that gives visible pictures."""
    rng = np.random.default_rng(5)
    tensors = {
        name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in spec.tensors().items()
    }
    return Checkpoint(spec, label_set(labels), tensors, {"licence": "none", "steps": "0"})


def calm_checkpoint(spec: CascadeSpec) -> Checkpoint:
    """As `make_checkpoint`, for pictures that neither fade nor saturate."""
    made = make_checkpoint(spec)
    tensors = dict(made.tensors)
    tensors["head.weight"] = tensors["head.weight"] * np.float32(0.3)
    return dataclasses.replace(made, tensors=tensors)


def oracle(made: Checkpoint, labels: np.ndarray) -> np.ndarray:
    """The pictures in float64, neither clipped nor rounded: [N, K, H, W, 3]."""
    import torch

    from crn_fast.module import Cascade

    assert isinstance(made.spec, CascadeSpec)
    model = Cascade(made.spec).double()
    model.load_state_dict({n: torch.from_numpy(t) for n, t in made.tensors.items()})
    with torch.inference_mode():
        found: np.ndarray = model(torch.from_numpy(labels)).numpy()
        return found


def save_checkpoint(path: Path, spec: CascadeSpec = SPEC, labels: str = "camvid") -> Path:
    """Write `make_checkpoint` as .safetensors, or as the .pt that training writes."""
    made = make_checkpoint(spec, labels)
    if path.suffix == ".pt":
        import torch

        model = {name: torch.from_numpy(tensor) for name, tensor in made.tensors.items()}
        with path.open("wb") as stream:
            torch_file.write({**checkpoint.header(made), "model": model}, stream)
    else:
        checkpoint.save(path, made)
    return path


def labels_array(n: int = 1, spec: CascadeSpec = SPEC) -> np.ndarray:
    """uint8 [n, H, W] of random ids."""
    return np.random.default_rng(6).integers(0, spec.classes, (n, *spec.size), dtype=np.uint8)
