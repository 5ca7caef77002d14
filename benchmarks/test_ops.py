"""Suite `ops`: each op of a picture at its real shapes. Rows from before were called `stages`.

    pytest benchmarks/test_ops.py --network 256p -k "stage and conv"

The ops are timed within whole pictures, whichever are selected.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import op_times
from crn_fast.bench import inputs
from crn_fast.engine import buildable
from crn_fast.measure.rows import Row
from suites import Bench, networks, told

QUICK = ("street-256",)
ALL = ("street-256", "street-1024", "256p", "1024p")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each op of each network."""
    work = metafunc.config.getoption("--work")
    loaded = {name: inputs.load(name, work)[1] for name in networks(metafunc)}
    cases = [
        (name, op) for name, made in loaded.items() for op in op_times.names_of(buildable(made))
    ]
    metafunc.parametrize(("network", "op"), cases)


def test_ops(network: str, op: str, bench: Bench, show: Callable[[Row], None]) -> None:
    def measure() -> list[Row]:
        prepared, rounds = bench.prepare(network), bench.rounds(network, 30)
        return op_times.measure(prepared, bench.threads, rounds, bench.oracle(), bench.origin, told)

    found = bench.once(("ops", network), measure)
    show(next(row for row in found if row.case["op"] == op))
