"""A tiny data set and feature network, made on the spot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from crn_fast import image, layout
from crn_fast.palette import label_set

VGG_NAMES = (0, 2, 5, 7, 10, 12, 14, 16, 19, 21, 23, 25, 28, 30)
"""Indices of VGG-19's first 14 convolutions in torchvision's `features`."""


def write_pairs(root: Path, count: int = 5, size: tuple[int, int] = (24, 40)) -> Path:
    """Write root/photos and root/labels in the label set camvid; flat colours by class."""
    rng = np.random.default_rng(0)
    for folder in ("photos", "labels"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        ids = np.kron(rng.integers(0, 12, (3, 5), dtype=np.uint8), np.ones((8, 8), np.uint8))
        ids = ids[: size[0], : size[1]]
        found = layout.from_array(ids, label_set("camvid"))
        layout.write(found, root / "labels" / f"{i}.png")
        image.write(root / "photos" / f"{i}.png", layout.colorize(found))
    return root


def vgg_state(widths: tuple[int, ...] = (4, 6, 8, 8, 8)) -> dict[str, torch.Tensor]:
    """Random weights named as torchvision's VGG-19, narrow."""
    generator = torch.Generator().manual_seed(0)
    state, before = {}, 3
    blocks = (0, 0, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4)
    for index, block in zip(VGG_NAMES, blocks, strict=True):
        width = widths[block]
        state[f"features.{index}.weight"] = (
            torch.randn(width, before, 3, 3, generator=generator) / 5
        )
        state[f"features.{index}.bias"] = torch.randn(width, generator=generator) / 5
        before = width
    return state
