"""The Triton label_pyramid against the reference: in the interpreter, or on a GPU."""

from __future__ import annotations

import pytest

from ops.gpu_ops import DEVICE, Poisoned, label_pyramid, padded, reference

# isort: split

import numpy as np
import torch


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize(
    ("n", "classes", "base", "stages"),
    [(2, 12, (3, 5), 3), (1, 40, (1, 1), 6), (1, 3, (2, 3), 5), (1, 255, (1, 3), 2)],
)
def test_matches_the_reference(
    n: int, classes: int, base: tuple[int, int], stages: int, dtype: torch.dtype
) -> None:
    height, width = (side << (stages - 1) for side in base)
    rng = np.random.default_rng(0)
    labels = torch.from_numpy(rng.integers(0, classes, (n, height, width), dtype=np.uint8))
    queue = Poisoned(DEVICE)
    whole, found = label_pyramid(queue, labels.to(DEVICE), classes, stages, dtype)
    expected = reference.label_pyramid(labels, classes, stages)
    assert len(found) == stages
    assert torch.equal(found[-1].cpu(), labels)
    for soft, oracle in zip(found[:-1], expected[:-1], strict=True):
        assert soft.shape == (n, *oracle.shape[2:], padded(classes))
        # Multiples of 1/256 are exact; coarser maps are rounded once.
        assert torch.equal(soft.cpu()[..., :classes].permute(0, 3, 1, 2), oracle.to(dtype))
        assert not soft[..., classes:].any()
    assert whole is not None
    queue.give(whole)
    assert queue.live == 0


def test_one_stage_has_ids_alone() -> None:
    labels = torch.zeros(1, 3, 4, dtype=torch.uint8)
    whole, found = label_pyramid(Poisoned("cpu"), labels, 5, 1, torch.float16)
    assert whole is None and len(found) == 1 and found[0] is labels
