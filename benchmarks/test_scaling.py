"""Suite `scaling`: time against threads, batch, size and width, one axis at a time.

    pytest benchmarks/test_scaling.py -k size

The case of a row has `axis`, what varies, and `value`: threads, layouts, pixels of the picture, or
what all widths are multiplied by. `exponents` holds the fitted powers of operations and bytes, or
of threads. Rows from before, of threads alone, are of the suite `threads`.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

import scaling
from crn_fast.backends import thread_count
from crn_fast.measure.rows import Row
from suites import Bench, networks, told

QUICK = ("street-256",)
ALL = ("street-256",)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test for each subject at each point of each axis."""
    get = metafunc.config.getoption
    threads, quick = thread_count(get("--threads")), get("--quick")
    cases = [
        pytest.param(network, axis, point.value, subject, id=f"{axis} {point.name} {subject}")
        for network in networks(metafunc)
        for axis in scaling.AXES
        for point in scaling.points(axis, network, threads, quick)
        for subject in scaling.SUBJECTS
    ]
    metafunc.parametrize(("network", "axis", "value", "subject"), cases)


def test_scaling(
    network: str,
    axis: str,
    value: float,
    subject: str,
    bench: Bench,
    show: Callable[[Row], None],
) -> None:
    def measure() -> list[Row]:
        points = scaling.points(axis, network, bench.threads, bench.quick)
        rounds = bench.rounds(network, 7)
        return scaling.measure(points, bench.prepare, rounds, bench.origin, told)

    found = bench.once(("scaling", network, axis), measure)
    of_subject = [row for row in found if row.subject == subject]
    show(next(row for row in of_subject if row.case["value"] == value))
