"""Whether a step may be taken, and what is kept of one that may not: its batch, and the weights.

A step whose loss or gradient is no finite number would spoil every weight, so it is not taken.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from crn_fast.files import write_whole
from crn_fast.training.data import Sample

FORMAT = "crn_fast.diverged"


def is_finite(losses: Sequence[Tensor], networks: Sequence[nn.Module]) -> bool:
    """Whether scalar losses and all gradients are finite; waits for the device, once."""
    gradients = [p.grad for n in networks for p in n.parameters() if p.grad is not None]
    largest = nn.utils.get_total_norm(gradients, math.inf)
    return bool(torch.stack([*losses, largest]).isfinite().all())


def explain(losses: Mapping[str, float], network: nn.Module) -> str:
    """What is wrong with a step, for people. `losses`: by what they are called."""
    for name, value in losses.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    return f"{len(spoilt(network))} weights have a gradient that is no finite number"


def spoilt(network: nn.Module) -> list[str]:
    """Names of the weights whose gradient is not finite."""
    named = network.named_parameters()
    return [n for n, p in named if p.grad is not None and not p.grad.isfinite().all()]


def save(
    path: Path,
    samples: list[Sample],
    ids: Tensor,
    terms: Mapping[str, float],
    network: nn.Module,
    facts: Mapping[str, Any],
) -> None:
    """Write what a process met; `torch.load(path, weights_only=True)` gives it back as a dict.

    - 'photos', 'layouts': paths of the batch's files; 'windows': the part of each that was used.
    - 'photo_windows': their pixels, uint8 RGB [h, w, 3] each; 'ids': the layouts as the network
      saw them, uint8 [N, H, W].
    - 'terms': the loss's, unweighted, of this batch.
    - 'model': the network's weights, before the step; 'spoilt': names of those whose gradient is
      not finite.
    - and `facts`.

    Raises:
        ResourceError: it cannot be written.
    """
    state = {
        "format": FORMAT,
        "version": "1",
        "photos": [sample.name for sample in samples],
        "layouts": [sample.labels_name for sample in samples],
        "windows": [sample.window._asdict() for sample in samples],
        "photo_windows": [sample.photo for sample in samples],
        "ids": ids.cpu(),
        "terms": dict(terms),
        "model": {name: tensor.detach().cpu() for name, tensor in network.state_dict().items()},
        "spoilt": spoilt(network),
        **facts,
    }
    write_whole(path, lambda stream: torch.save(state, stream))
