"""Suite `endtoend`: whole processes of `crn-fast render`, file to file: a frame, a folder, a video.

The case of a folder or video has `layouts` and `output`; see `crn_fast.bench.endtoend`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from crn_fast.bench import endtoend
from crn_fast.measure.rows import Row
from suites import Bench, told

QUICK: tuple[str, ...] = ()
ALL = ("street-256", "street-1024")
LAYOUTS = 8
OUTPUTS = [(output, name) for output, names in endtoend.OUTPUTS.items() for name in names]


@pytest.mark.parametrize("subject", endtoend.SUBJECTS)
def test_one_frame(
    subject: str,
    network: str,
    bench: Bench,
    show: Callable[[Row], None],
    request: pytest.FixtureRequest,
) -> None:
    def measure(*given: Any) -> list[Row]:
        ready, names, threads, rounds, *rest = given
        return endtoend.measure(ready, names, threads, rounds, bench.work, *rest)

    show(bench.row(request.node, "endtoend", network, subject, measure, 7))


@pytest.mark.parametrize(("output", "subject"), OUTPUTS)
def test_many(
    output: str, subject: str, network: str, bench: Bench, show: Callable[[Row], None]
) -> None:
    rounds = bench.rounds(network, 3)

    def measure() -> list[Row]:
        ready = bench.prepare(network, batch=LAYOUTS)
        given = (bench.threads, rounds, bench.work, bench.origin, told)
        return endtoend.measure_many(ready, output, *given)

    found = bench.once(("endtoend", network, output), measure)
    show(next(row for row in found if row.subject == subject))
