"""Suite `train`: a step of training on a CPU, in several settings of the recipe.

A row's images a second are its case's `batch` over its time.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import training_steps
from crn_fast.measure.rows import Row
from suites import Bench

QUICK: tuple[str, ...] = ()
ALL = ("street-256",)


@pytest.mark.parametrize("subject", training_steps.SUBJECTS)
def test_train(
    subject: str,
    network: str,
    bench: Bench,
    show: Callable[[Row], None],
    request: pytest.FixtureRequest,
) -> None:
    show(bench.row(request.node, "train", network, subject, training_steps.measure, 5))
