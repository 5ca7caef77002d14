"""The suites as pytest-benchmark runs them: their options, and how what was measured gets there.

Subjects have to be timed by turns, as otherwise no ratio would mean anything, and behind a gate;
pytest-benchmark times one function after the other. So `crn_fast.measure` measures all the subjects
of a case that were selected, at the first of their tests. Each test then gives pytest-benchmark the
rounds of its subject, by a clock that stands still except for the seconds that were measured. Its
table, statistics, comparisons and JSON are of those seconds; ratios and errors are in the rows,
which are appended to --rows, and are shown at the end.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from crn_fast.bench import inputs, table
from crn_fast.measure.rows import Row
from suites import ROOT, Bench, Clock, measured, networks

KEPT = Path(os.path.relpath(ROOT / "build" / "bench"))
"""Relative, as rows name the files of commands."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("crn_fast", "the suites of crn_fast")
    group.addoption("--quick", action="store_true", help="the small cases; minutes")
    group.addoption("--network", help="names with commas; default: the suite's own")
    group.addoption("--rounds", type=int, help="default: by the size of the network")
    group.addoption("--threads", type=int, help="default: all usable CPUs")
    group.addoption("--layout", type=Path, help="layout of a preset")
    group.addoption("--oracle", choices=inputs.ORACLES, default="float64")
    group.addoption("--work", type=Path, default=KEPT, help="kept files")
    group.addoption(
        "--rows",
        type=Path,
        default=KEPT / "rows",
        help="folder to whose files SUITE.jsonl rows are appended",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test that asks for `network` runs for each, unless its suite sees to that."""
    if "network" in metafunc.fixturenames and not hasattr(metafunc.module, "pytest_generate_tests"):
        metafunc.parametrize("network", networks(metafunc))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        item.add_marker(pytest.mark.benchmark(timer=measured))


BENCH = pytest.StashKey[Bench]()


@pytest.fixture(scope="session")
def bench(request: pytest.FixtureRequest) -> Bench:
    request.session.stash[BENCH] = found = Bench(request.session)
    return found


@pytest.fixture
def show(benchmark: Any) -> Callable[[Row], None]:
    """Gives pytest-benchmark a row's rounds; skips what was not measured, fails what is wrong."""

    def hand_over(row: Row) -> None:
        if row.wrong:
            pytest.fail(str(row.reason), pytrace=False)
        if row.reason is not None:
            pytest.skip(f"not measured: {row.reason}")
        benchmark.group = f"{row.suite} {row.case.get('network', '')}".strip()
        known = asdict(row)
        benchmark.extra_info.update({name: known[name] for name in ("case", "error", "ratios")})
        seconds: Iterator[float] = iter(row.seconds)

        def pass_by() -> None:
            Clock.now += next(seconds)

        benchmark.pedantic(pass_by, rounds=len(row.seconds))

    return hand_over


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Ratios, errors and what was not measured: what pytest-benchmark's table has no column for."""
    session = terminalreporter._session
    if BENCH not in session.stash or not (found := session.stash[BENCH].all_rows):
        return
    from rich.console import Console

    terminalreporter.section("rows")
    console = Console(width=120)
    for made in table.tables([row for row in found if row.suite in ("frame", "endtoend")]):
        console.print(made)
    for line in table.notes(found):
        terminalreporter.write_line(line)
    terminalreporter.write_line(f"rows are in {config.getoption('--rows')}")
