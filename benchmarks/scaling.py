"""Suite `scaling`: whole pictures against threads, batch, size and width, one axis at a time.

All points of an axis take turns, each in a process of its own, so that the machine's drift bends no
curve. How time grows with operations and bytes is fitted: a straight line through the logarithms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from crn_fast.bench import frame
from crn_fast.bench.frame import Run
from crn_fast.bench.inputs import SCALED, Inputs
from crn_fast.measure import pairs
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Timing
from crn_fast.measure.turns import Taken
from crn_fast.spec import CascadeSpec

AXES = ("threads", "batch", "size", "width")
SUBJECTS = ("native", "eager")
BASES = ((1, 2), (2, 4), (4, 8), (8, 16), (16, 32))
"""Of the first stage: pictures of 64x128 to 1024x2048 by networks of seven stages."""
BATCHES = (1, 2, 4, 8, 16)
WIDTHS = (0.25, 0.5, 1.0, 2.0)
"""What all widths are multiplied by; the weights are random."""


class Point(NamedTuple):
    axis: str
    value: float
    """What is on the axis: threads, layouts, pixels, or the factor of the widths."""
    network: str
    threads: int
    given: Mapping[str, Any]
    """What `inputs.prepare` is given besides."""

    @property
    def name(self) -> str:
        return f"{self.value:g}"


def points(axis: str, network: str, threads: int, quick: bool) -> list[Point]:
    """The points of an axis; `quick` leaves out the large ones."""
    few = slice(3 if quick else None)
    if axis == "threads":
        return [Point(axis, n, network, n, {}) for n in range(1, threads + 1)]
    if axis == "batch":
        return [Point(axis, n, network, threads, {"batch": n}) for n in BATCHES[few]]
    if axis == "size":
        pixels = [64 * base[0] * 64 * base[1] for base in BASES[few]]
        sizes = zip(pixels, BASES[few], strict=True)
        return [Point(axis, area, network, threads, {"base": base}) for area, base in sizes]
    factors = WIDTHS[few]
    return [Point(axis, f, f"{network}{SCALED}{f:g}", threads, {}) for f in factors]


def measure(
    chosen: Sequence[Point],
    prepare: Callable[..., Inputs],
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of an axis: of each point, ours and eager torch.

    A row's ratios are to the other subject at the same point, and to the first point of the axis.
    """
    runs = {
        (index, subject): Run(subject, inputs, point.threads, f"{subject} {point.name}")
        for index, point in enumerate(chosen)
        for inputs in [prepare(point.network, **point.given)]
        for subject in SUBJECTS
    }
    taken = frame.measure([*runs.values()], rounds, told)
    found = []
    for (index, subject), run in runs.items():
        point = chosen[index]
        case = {**frame.case_of(run.inputs, run.threads), "axis": point.axis, "value": point.value}
        peers = {other: runs[index, other].key for other in SUBJECTS if other != subject}
        first = runs[0, subject].key
        others = {**peers, **({first: first} if first != run.key else {})}
        row = taken.row("scaling", case, run.key, origin, partial(_figures, run, taken, others))
        found.append(dataclasses.replace(row, subject=subject))
    return [dataclasses.replace(row, exponents=_fit(row, found)) for row in found]


def _figures(run: Run, taken: Taken, others: Mapping[str, str], timing: Timing) -> dict[str, Any]:
    """Of a row; `others`: what its ratios are called -> their runs' keys."""
    spec, batch, timings = run.inputs.spec, run.inputs.batch, taken.timings
    return {
        "operations": spec.flops() * batch,
        "moved": bytes_of(spec, batch),
        "ratios": {n: pairs.ratio(timings[k], timing) for n, k in others.items() if k in timings},
    }


def bytes_of(spec: CascadeSpec, batch: int = 1) -> int:
    """Compulsory bytes in float32: weights once, and all that lies between ops written and read."""
    height, width = spec.size
    each = height * width * (1 + 3 * spec.images)
    for stage in spec.stages:
        area = stage.height * stage.width
        each += 4 * area * (4 * stage.channels + stage.classes)  # two maps, written and read
    return spec.bytes() + batch * each


def _fit(row: Row, found: Sequence[Row]) -> dict[str, float]:
    """The power of each quantity that the subject's times grow with along the axis."""
    points = [other for other in found if other.subject == row.subject and other.time]
    if row.time is None or len(points) < 2:
        return {}
    times = [math.log(point.time.median) for point in points if point.time]
    if row.case["axis"] == "threads":
        quantities = {"threads": [float(point.case["threads"]) for point in points]}
    else:
        rates = [(p.gflops, p.gbs, p.time.median) for p in points if p.gflops and p.gbs and p.time]
        quantities = {
            "operations": [gflops * seconds for gflops, _, seconds in rates],
            "bytes": [gbs * seconds for _, gbs, seconds in rates],
        }
    return {
        name: round(float(np.polyfit(np.log(values), times, 1)[0]), 3)
        for name, values in quantities.items()
    }
