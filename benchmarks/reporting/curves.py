"""Time against what grows: the lines of the suite `scaling`, with their fitted exponents."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread
from history import Group, axis_of

QUANTITIES = {"threads": 1.0, "operations": 1e9, "bytes": 1e9}
"""What time is drawn against -> its unit: threads of the same picture, or what it must compute and
move."""


class Curve(NamedTuple):
    title: str
    """Of the group: 'street-256, by batch'."""
    subject: str
    quantity: str
    """Of `QUANTITIES`."""
    points: list[tuple[float, Spread]]
    """In rising order, in the quantity's unit."""
    exponent: float
    """Of time ~ quantity ** exponent: the row's own, else fitted here."""


def curves(groups: Sequence[Group]) -> list[Curve]:
    """The lines of at least two points: of each group and subject, against each quantity."""
    made = []
    for group in groups:
        for subject in dict.fromkeys(row.subject for row in group.rows):
            rows = [row for row in group.rows if row.subject == subject and row.time]
            for quantity in QUANTITIES:
                points = sorted(_points(rows, quantity), key=lambda point: point[0])
                if len({x for x, _ in points}) > 1:
                    exponent = rows[0].exponents.get(quantity, fit(points))
                    made.append(Curve(group.network, subject, quantity, points, exponent))
    return made


def fit(points: Sequence[tuple[float, Spread]]) -> float:
    """The slope of log time over log x, by least squares."""
    logs = [(math.log(x), math.log(time.median)) for x, time in points]
    mean_x, mean_y = (sum(values) / len(logs) for values in zip(*logs, strict=True))
    above = sum((x - mean_x) * (y - mean_y) for x, y in logs)
    return float(above / sum((x - mean_x) ** 2 for x, _ in logs))


def _points(rows: Sequence[Row], quantity: str) -> Iterator[tuple[float, Spread]]:
    for row in rows:
        if row.time and (axis_of(row) == "threads") == (quantity == "threads"):
            rate = {"operations": row.gflops, "bytes": row.gbs}.get(quantity)
            x = (
                float(row.case["threads"])
                if quantity == "threads"
                else rate and rate * row.time.median
            )
            if x:
                yield x, row.time
