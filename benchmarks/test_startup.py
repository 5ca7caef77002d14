"""Suite `startup`: import, --version, --help, and the first frames of a new process.

Parts of 'one frame' and 'five frames': 'start' (interpreter, imports, way out), 'open',
'cold frame', 'warm frames' (four of them), 'write'.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import startup
from crn_fast.measure.rows import Row
from suites import Bench, told

QUICK = ("street-256",)
ALL = ("street-256", "street-1024")


@pytest.mark.parametrize("subject", startup.SUBJECTS)
def test_startup(
    subject: str,
    network: str,
    bench: Bench,
    show: Callable[[Row], None],
    request: pytest.FixtureRequest,
) -> None:
    names = bench.selected(request.node, "subject")
    rounds = bench.rounds(network, 10)

    def measure() -> list[Row]:
        inputs = bench.prepare(network)
        return startup.measure(inputs, names, bench.threads, rounds, bench.origin, told)

    found = bench.once(("startup", network), measure)
    show(next(row for row in found if row.subject == subject))
