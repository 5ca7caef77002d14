"""Rows on disk -> what a report shows: the newest of each case, beside what ran in the same run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from crn_fast.measure import rows
from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread

SUITES = ("frame", "ops", "scaling", "endtoend", "startup", "train", "alternatives")
RENAMED = {"stages": "ops", "threads": "scaling"}
"""As rows from before call them."""
SCALED = "-width-"
"""Between a network's name and what its widths are multiplied by."""
OURS = ("fused", "trt", "native")
"""This package's backends as subjects; of a run, the first that was measured is 'ours'."""
BASES = {"startup": ("python",), "train": ("plain",)}
"""Suite -> what the others are compared with, where that is not ours."""


class Group(NamedTuple):
    """The rows of one table: of one suite, network, machine and, of `scaling`, axis."""

    suite: str
    network: str
    """And what varies: 'street-256, by batch'."""
    machine: str
    rows: list[Row]


class History:
    """All rows, old ones too."""

    def __init__(self, found: Iterable[Row]) -> None:
        self._all = list(found)
        self._measured: dict[tuple[str, str], list[Row]] = {}
        for row in self._all:
            if row.time:
                self._measured.setdefault((row.origin.run, _together(row)), []).append(row)

    def groups(self, suite: str) -> list[Group]:
        """The newest row of each case and subject, a group for each network and machine."""
        newest: dict[tuple[str, str, str], Row] = {}
        for row in self._all:
            if suite_of(row) == suite:
                newest[_case(row), machine_of(row), row.subject] = row
        found: dict[tuple[str, str], Group] = {}
        for row in newest.values():
            name = title_of(row), machine_of(row)
            found.setdefault(name, Group(suite, *name, [])).rows.append(row)
        return list(found.values())

    def base(self, row: Row) -> Row | None:
        """The row that it is compared with: of ours, in the same run and case."""
        beside = self._measured.get((row.origin.run, _together(row)), [])
        bases = _bases(row)
        return min(
            (other for other in beside if is_base(other)),
            key=lambda other: bases.index(other.subject.split()[0]),
            default=None,
        )

    def ratio(self, row: Row) -> Spread | None:
        """How many times longer it took than the base, round by round; None for that itself."""
        base = self.base(row)
        return base.ratios.get(row.subject) if base else None


def read(folder: Path) -> History:
    """The rows of all suites in a folder.

    Raises:
        BadInput: a line of a file is no row.
    """
    files = [folder / f"{suite}.jsonl" for suite in (*SUITES, *RENAMED)]
    return History(row for file in files if file.exists() for row in rows.read(file))


def suite_of(row: Row) -> str:
    return RENAMED.get(row.suite, row.suite)


def title_of(row: Row) -> str:
    """The network; of `scaling` with the axis; of `alternatives`, other networks, the size."""
    network = str(row.case.get("network", ""))
    if suite_of(row) == "alternatives":
        return f"{row.case.get('height')}x{row.case.get('width')}"
    if suite_of(row) == "scaling":
        return f"{network.partition(SCALED)[0]}, by {axis_of(row)}"
    return network


def is_base(row: Row) -> bool:
    """'native' is, and so is 'native street-256' among other networks."""
    return row.subject.split()[0] in _bases(row)


def axis_of(row: Row) -> str:
    """What varies in `scaling`; rows from before know threads alone."""
    return str(row.case.get("axis", "threads"))


def machine_of(row: Row) -> str:
    """Its GPU where one was used, else its CPU."""
    return row.origin.machine.gpu or row.origin.machine.cpu


def _bases(row: Row) -> tuple[str, ...]:
    return BASES.get(row.suite, OURS)


def _case(row: Row) -> str:
    return str(sorted(row.case.items()))


def _together(row: Row) -> str:
    """What is compared with ours: the suite, and the case without what may differ."""
    free = ("precision", "network") if row.suite == "alternatives" else ("precision",)
    return f"{suite_of(row)} {sorted((k, v) for k, v in row.case.items() if k not in free)}"
