"""Suite `frame`: a whole picture from labels in memory to pixels in memory, ours and the peers.

    pytest benchmarks/test_frame.py --network street-256,256p -k "native or openvino"

One case a network and batch; `crn_fast.bench.frame` measures. All that were selected take turns.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from crn_fast.bench import frame
from crn_fast.measure.rows import Row
from suites import Bench

QUICK = ("street-256",)
ALL = ("street-256", "street-1024", "256p", "1024p")


@pytest.mark.parametrize("subject", frame.SUBJECTS)
def test_frame(
    subject: str,
    network: str,
    bench: Bench,
    show: Callable[[Row], None],
    request: pytest.FixtureRequest,
) -> None:
    show(bench.row(request.node, "frame", network, subject, frame.compare, 15))
