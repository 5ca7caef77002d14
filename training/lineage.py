"""What a run may go on from: its own checkpoint under the same recipe, or another's weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from crn_fast import checkpoint
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import Mismatch
from crn_fast.palette import LabelSet
from crn_fast.spec import CascadeSpec
from crn_fast.training.recipe import Recipe

MAY_CHANGE = (
    *("steps", "epochs", "sample_every", "save_every", "keep", "tensorboard", "workers"),
    "peak_tflops",
)
"""Parts of [training] that a resumed run may have otherwise than before."""


def require_same(now: Recipe, labels: LabelSet, before: Recipe, found: Checkpoint) -> None:
    """Check that a run may be resumed.

    Args:
        now: the recipe it would go on with.
        labels: the label set it would go on with.
        before: the recipe that it began with.
        found: the checkpoint it left.

    Raises:
        Mismatch: they differ in more than MAY_CHANGE.
    """
    path = found.source
    free = {name: getattr(before.training, name) for name in MAY_CHANGE}
    now = replace(now, training=replace(now.training, **free))
    if found.labels.names != labels.names:
        raise Mismatch(f"{path}: its label set is {found.labels.name}, not {labels.name}")
    for table in ("network", "baseline", "data", "validation", "loss", "training"):
        if getattr(now, table) != getattr(before, table):
            raise Mismatch(
                f"{path}: the recipe's [{table}] is not what this run began with; resume with "
                f"the same, or begin another run with --init-from {path}"
            )


def take_weights(
    model: nn.Module, spec: CascadeSpec | BaselineSpec, path: Path
) -> tuple[Checkpoint, int]:
    """Copy a checkpoint's weights into a network wherever names and shapes agree.

    The head of one image becomes that of each image, a little apart.

    Returns:
        the checkpoint, and how many of its tensors were taken.

    Raises:
        BadInput: it cannot be read.
        Mismatch: its network is of another family than `spec`.
    """
    found = checkpoint.load(path)
    if _family(spec) != _family(found.spec):
        raise Mismatch(
            f"{path}: kind, base size, classes or upsampling differ from the recipe's network"
        )
    own = model.state_dict()
    given = {name: torch.from_numpy(array) for name, array in found.tensors.items()}
    if found.spec.images == 1 < spec.images:
        for name in ("head.weight", "head.bias"):
            given[name] = _replicate(given[name], spec.images)
    fitting = [n for n, t in given.items() if n in own and own[n].shape == t.shape]
    for name in fitting:
        own[name].copy_(given[name])
    return found, len(fitting)


def _replicate(head: Tensor, images: int) -> Tensor:
    """Rows R, G, B of a head of one image -> of `images`, in the order of `HeadWeights`.

    They are a tenth of the rows' deviation apart: images that begin alike would stay alike.
    """
    rows = head.float().repeat_interleave(images, 0)
    return rows + 0.1 * head.float().std() * torch.randn(rows.shape)


def _family(spec: CascadeSpec | BaselineSpec) -> tuple[object, ...]:
    """What two networks must have in common for one to begin with the other's weights."""
    if isinstance(spec, CascadeSpec):
        return "cascade", spec.base, spec.classes, spec.upsampling
    return (spec,)
