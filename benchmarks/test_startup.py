"""Suite `startup`: import, --version, --help, and the first frames of a new process.

Parts of 'one frame' and 'five frames': 'start' (interpreter, imports, way out), 'open',
'cold frame', 'warm frames' (four of them), 'write'.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import startup
from crn_fast.measure.rows import Row
from suites import Bench

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
    show(bench.row(request.node, "startup", network, subject, startup.measure, 10))
