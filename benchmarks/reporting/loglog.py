"""Log axes: every op under the measured ceilings, and time against what grows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from crn_fast.measure.rows import Row
from curves import QUANTITIES, Curve
from history import Group
from style import BLUE, COLOURS, GREEN, GREY, MARKERS, RED, conditions_of, label_of


def counted(group: Group) -> list[Row]:
    """The rows that can be under a roof: of ops with products, and with ceilings of their run."""
    return [r for r in group.rows if r.gflops and r.gbs and r.ceilings and "multiplied" in r.shares]


def draw_roofline(group: Group) -> Any:
    """Products a second against products a byte, under the ceilings of the same run."""
    from matplotlib import pyplot

    figure, axis = pyplot.subplots(figsize=(8, 6), layout="constrained")
    rows = counted(group)
    ceilings = rows[0].ceilings
    copy, product = ceilings["copy"], max(v for name, v in ceilings.items() if name != "copy")
    points = [(row, row.gflops or 0, row.gbs or 1) for row in rows]
    real = [(row, product * row.shares["multiplied"], gbs) for row, _, gbs in points]
    ridge = product / copy
    intensities = [rate / gbs for _, rate, gbs in (*points, *real)]
    low, high = min(*intensities, ridge) / 3, max(intensities) * 1.6
    axis.plot([low, ridge, high], [copy * low, product, product], color="k", linewidth=1.5)
    offset: Any = {"textcoords": "offset points", "fontsize": 9}
    axis.annotate(
        f"best sgemm, {product:.0f} GFLOP/s", (high, product), (-4, 5), ha="right", **offset
    )
    axis.annotate(f"copy, {copy:.0f} GB/s", (low, copy * low), (10, -1), ha="left", **offset)
    for row, rate, gbs in points:
        _point(axis, row, rate / gbs, rate, filled=False)
    for row, rate, gbs in real:
        _point(axis, row, rate / gbs, rate, filled=True)
    for kind, (marker, colour) in _KINDS.items():
        axis.plot([], [], marker, color=colour, label=kind)
    axis.plot([], [], "o", color=GREY, label="filled: products really made")
    axis.plot([], [], "o", color=GREY, mfc="white", label="hollow: counted as direct convolutions")
    axis.set(xscale="log", yscale="log", xlim=(low, high))
    axis.set_ylabel("GFLOP/s")
    axis.grid(visible=True, which="both", alpha=0.2)
    axis.legend(loc="lower right", fontsize=9)
    axis.set_title(
        f"{group.network}, {conditions_of(rows[0])}; numbers are stages", fontsize=10, loc="left"
    )
    without = [f"{r.case['op']} {r.gbs:.1f}" for r in group.rows if r.gbs and not r.gflops]
    label = "FLOP a byte that must be moved (weights, input and output, each once)"
    if without:
        label += f"\nwithout products, in GB/s: {', '.join(without)}"
    axis.set_xlabel(label)
    axis.set_ylim(bottom=0.6 * min(rate for _, rate, _ in real))
    return figure


_KINDS = {"refine": ("o", BLUE), "conv": ("s", RED), "head": ("D", GREEN)}


def _point(axis: Any, row: Row, x: float, y: float, *, filled: bool) -> None:
    words = str(row.case["op"]).split()
    marker, colour = _KINDS[words[-1]]
    face = colour if filled else "white"
    axis.plot(x, y, marker, color=colour, mfc=face, markersize=10, alpha=0.9)
    if len(words) > 1:
        text = "white" if filled else colour
        axis.annotate(words[1], (x, y), ha="center", va="center", color=text, fontsize=7)


def draw_scaling(lines: Sequence[Curve]) -> Any:
    """Log axes, a panel a quantity; the slope of a line is its fitted exponent."""
    from matplotlib import pyplot

    shown = [name for name in QUANTITIES if any(line.quantity == name for line in lines)]
    figure, axes = pyplot.subplots(
        len(shown), 1, figsize=(8, 4.6 * len(shown)), squeeze=False, layout="constrained"
    )
    for axis, quantity in zip(axes[:, 0], shown, strict=True):
        chosen = [line for line in lines if line.quantity == quantity]
        for index, line in enumerate(chosen):
            _line(axis, line, index)
        axis.set(xscale="log", yscale="log", xlabel=_LABELS[quantity], ylabel="seconds")
        if quantity == "threads":
            ticks = sorted({int(x) for line in chosen for x, _ in line.points})
            axis.set_xticks(ticks, [str(tick) for tick in ticks])
            axis.minorticks_off()
            for line in chosen:
                (x, time), most = line.points[0], line.points[-1][0]
                ideal = [time.median, time.median * x / most]
                axis.plot([x, most], ideal, ":", color=GREY)
            axis.plot([], [], ":", color=GREY, label="ideal: exponent -1")
        _plain(axis.yaxis)
        if quantity != "threads":
            _plain(axis.xaxis)
        axis.grid(visible=True, which="both", alpha=0.2)
        axis.legend(fontsize=9, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.14))
    axes[0, 0].set_title("median, 10th to 90th percentile, and fit", fontsize=10, loc="left")
    return figure


_LABELS = {
    "threads": "threads",
    "operations": "GFLOP of the picture or batch",
    "bytes": "GB that the picture or batch must move",
}


def _line(axis: Any, line: Curve, index: int) -> None:
    xs, times = zip(*line.points, strict=True)
    medians = [time.median for time in times]
    whiskers = [
        [time.median - time.p10 for time in times],
        [time.p90 - time.median for time in times],
    ]
    colour, marker = COLOURS[index % len(COLOURS)], MARKERS[index % len(MARKERS)]
    label = f"{line.title}, {label_of(line.subject)}: {line.exponent:.2f} ({len(xs)} points)"
    axis.errorbar(xs, medians, whiskers, fmt=marker, color=colour, capsize=3, label=label)
    # The fit goes through the points' middle, geometrically.
    middle = _geometric(xs)
    fitted = [_geometric(medians) * (x / middle) ** line.exponent for x in (xs[0], xs[-1])]
    axis.plot([xs[0], xs[-1]], fitted, "--", color=colour, linewidth=1)


def _geometric(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def _plain(axis: Any) -> None:
    """Ticks at 1, 2 and 5 of each decade, in plain digits."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())
