"""Memory planning: what lives at once lies apart, and nothing is wasted that need not be."""

from __future__ import annotations

from itertools import pairwise

import pytest

pytest.importorskip("torch", reason="queues hand out tensors")

import torch
from hypothesis import given
from hypothesis import strategies as st

from crn_fast.kernels.gpu.queue import PIECE, Queue


@given(st.lists(st.tuples(st.integers(1, 5000), st.integers(0, 3)), min_size=1, max_size=30))
def test_what_lives_at_once_lies_apart(steps: list[tuple[int, int]]) -> None:
    """Each step takes a size, then gives back so many of the oldest."""

    def run(queue: Queue) -> list[list[torch.Tensor]]:
        live: list[torch.Tensor] = []
        moments = []
        for size, returned in steps:
            live.append(queue.take((size,), torch.uint8))
            moments.append(list(live))
            queue.give(*live[:returned])
            del live[:returned]
        return moments

    paper = Queue("meta")
    moments = run(paper)
    plan = paper.plan()
    least = max(sum(-(-t.numel() // PIECE) * PIECE for t in moment) for moment in moments)
    assert least <= plan.bytes <= 2 * least
    arena = torch.empty(plan.bytes, dtype=torch.uint8)
    for moment in run(Queue("cpu", arena, plan.places)):
        spans = sorted((t.data_ptr(), t.data_ptr() + t.numel()) for t in moment)
        assert spans[0][0] >= arena.data_ptr()
        assert spans[-1][1] <= arena.data_ptr() + plan.bytes
        assert all(end <= start for (_, end), (start, _) in pairwise(spans))
        assert all((start - arena.data_ptr()) % PIECE == 0 for start, _ in spans)


def test_types_and_shapes() -> None:
    paper = Queue("meta")
    paper.take((2, 3, 16), torch.float16)
    plan = paper.plan()
    arena = torch.zeros(plan.bytes, dtype=torch.uint8)
    tensor = Queue("cpu", arena, plan.places).take((2, 3, 16), torch.float16)
    assert tensor.shape == (2, 3, 16) and tensor.dtype == torch.float16 and tensor.is_contiguous()
    assert Queue("meta").plan().bytes == 0


def test_only_what_was_taken_is_given_back() -> None:
    queue = Queue("cpu")
    with pytest.raises(ValueError, match="unpack"):
        queue.give(torch.zeros(1))
