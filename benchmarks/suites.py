"""What the suites share: options, measurements taken once, and the clock that replays them."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from crn_fast.backends import thread_count
from crn_fast.bench import inputs, origin
from crn_fast.files import make_folder
from crn_fast.measure import machine, rows
from crn_fast.measure.rows import Row

ROOT = Path(__file__).resolve().parents[1]
LARGE = ("256p", "512p", "1024p")
"""Networks that take seconds a picture."""
LARGE_ROUNDS = 3


def networks(metafunc: pytest.Metafunc) -> list[str]:
    """Those of --network, or the suite's own: `QUICK` or `ALL` of its module."""
    if named := metafunc.config.getoption("--network"):
        return [name for name in str(named).split(",") if name]
    quick = metafunc.config.getoption("--quick")
    return [*(metafunc.module.QUICK if quick else metafunc.module.ALL)]


class Clock:
    now = 0.0


def measured() -> float:
    """The timer that pytest-benchmark is given: it moves by what was measured, and by that only."""
    return Clock.now


class Bench:
    """What the suites share: the options, and each measurement, taken once."""

    def __init__(self, session: pytest.Session) -> None:
        config = session.config
        self._session, self._get = session, config.getoption
        self._taken: dict[Any, list[Row]] = {}
        self.quick: bool = self._get("--quick")
        self.threads = thread_count(self._get("--threads"))
        self.work: Path = self._get("--work")
        command = shlex.join(["pytest", *sys.argv[1:]])
        self.origin = origin.of(command, machine.commit(ROOT))
        make_folder(self.work)

    @property
    def all_rows(self) -> list[Row]:
        return [row for found in self._taken.values() for row in found]

    def rounds(self, network: str = "", default: int = 9) -> int:
        """How many to take of a case; `default` is for networks that take no seconds."""
        return self._get("--rounds") or (LARGE_ROUNDS if network in LARGE else default)

    def prepare(self, network: str, **given: Any) -> inputs.Inputs:
        layout = self._get("--layout")
        return inputs.prepare(network, self.work, layout, self._get("--oracle"), **given)

    def oracle(self) -> str:
        return str(self._get("--oracle"))

    def selected(self, node: pytest.Item, parameter: str) -> list[Any]:
        """The values of a parameter in the selected tests that differ from `node` in it alone."""
        found = []
        for item in self._session.items:
            if getattr(item, "originalname", None) == node.originalname and item.path == node.path:
                mine, theirs = dict(node.callspec.params), dict(item.callspec.params)
                value = theirs.pop(parameter)
                mine.pop(parameter)
                if mine == theirs:
                    found.append(value)
        return found

    def row(
        self,
        node: pytest.Item,
        suite: str,
        network: str,
        subject: str,
        measure: Callable[..., list[Row]],
        rounds: int,
    ) -> Row:
        """The row of one subject; all whose tests were selected take turns with it.

        Args:
            node: the test, with the parameters `network` and `subject`.
            suite: its name.
            network: of this test, and so is the next.
            subject: whose row is wanted.
            measure: given inputs, subjects, threads, rounds, origin and `told`, their rows.
            rounds: as the default of `rounds`.
        """
        names, count = self.selected(node, "subject"), self.rounds(network, rounds)

        def take() -> list[Row]:
            return measure(self.prepare(network), names, self.threads, count, self.origin, told)

        found = self.once((suite, network), take)
        return next(row for row in found if row.subject == subject)

    def once(self, key: Any, measure: Callable[[], Sequence[Row]]) -> list[Row]:
        """Rows of a measurement, which is made and appended to --rows the first time."""
        if key not in self._taken:
            found = list(measure())
            folder = self._get("--rows")
            make_folder(folder)
            for suite in dict.fromkeys(row.suite for row in found):
                rows.append(folder / f"{suite}.jsonl", [r for r in found if r.suite == suite])
            self._taken[key] = found
        return self._taken[key]


def told(message: str) -> None:
    print(message, file=sys.stderr, flush=True)
