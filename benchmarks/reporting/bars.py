"""Bars: ratios to peers, the time of each op, the parts of a command's time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread
from history import Group, History, is_base
from style import BLUE, COLOURS, DARK, GREEN, GREY, ORANGE, SKY, conditions_of, label_of, size_of
from wording import duration


def ratios_of(history: History, group: Group) -> list[tuple[Row, Spread]]:
    """What a group is compared with, fastest first."""
    found = [
        (row, ratio) for row in group.rows if not is_base(row) and (ratio := history.ratio(row))
    ]
    return sorted(found, key=lambda pair: pair[1].median)


def draw_ratios(history: History, groups: Sequence[Group]) -> Any:
    """Bars, one panel a network: the ratio's median, with its percentiles as whiskers."""
    from matplotlib import pyplot

    shown = [(group, ratios_of(history, group)) for group in groups]
    heights = [len(pairs) for _, pairs in shown]
    figure, axes = pyplot.subplots(
        *(len(shown), 1),
        figsize=(8, 0.33 * sum(heights) + 0.45 * len(shown) + 0.8),
        sharex=True,
        squeeze=False,
        height_ratios=heights,
        layout="constrained",
    )
    for axis, (group, pairs) in zip(axes[:, 0], shown, strict=True):
        _bars(axis, [label_of(row.subject) for row, _ in pairs], [r for _, r in pairs])
        ours = history.base(pairs[0][0])
        assert ours and ours.time
        axis.axvline(1, color=GREY, linewidth=1)
        axis.set_title(
            f"{', '.join(dict.fromkeys((group.network, size_of(ours), group.machine)))}; "
            f"{label_of(ours.subject)}: {duration(ours.time.median)} a picture",
            fontsize=10,
            loc="left",
        )
    axes[-1, 0].set_xlim(0, 1.12 * max(ratio.p90 for _, pairs in shown for _, ratio in pairs))
    axes[-1, 0].set_xlabel(
        "times our time, round by round: median, and 10th to 90th percentile\n"
        "1 (line): as fast as ours; hatched: noisy"
    )
    return figure


def _bars(axis: Any, labels: Sequence[str], ratios: Sequence[Spread]) -> None:
    at = range(len(ratios))
    bars = axis.barh(at, [r.median for r in ratios], color=SKY, edgecolor=BLUE)
    whiskers = [[r.median - r.p10 for r in ratios], [r.p90 - r.median for r in ratios]]
    axis.errorbar([r.median for r in ratios], at, xerr=whiskers, fmt="none", ecolor="k", capsize=3)
    for bar, ratio in zip(bars, ratios, strict=True):
        if ratio.noisy:
            bar.set_hatch("///")
        where = bar.get_y() + bar.get_height() / 2
        axis.annotate(
            f"{ratio.median:.1f}",
            (ratio.p90, where),
            (6, 0),
            textcoords="offset points",
            va="center",
        )
    _names(axis, labels)


def _names(axis: Any, labels: Sequence[str]) -> None:
    """The labels of bars, first at the top, and no empty place above and below."""
    axis.set_yticks(range(len(labels)), labels)
    axis.set_ylim(len(labels) - 0.4, -0.6)
    axis.grid(visible=False, axis="y")


def draw_ops(group: Group) -> Any:
    """Bars, one an op in the order of the picture, with its share of them all."""
    from matplotlib import pyplot

    found = [(str(row.case["op"]), row.time) for row in group.rows if row.time]
    whole = sum(time.median for _, time in found)
    scale, unit = (1e3, "ms") if max(time.median for _, time in found) >= 1e-3 else (1e6, "µs")
    figure, axis = pyplot.subplots(figsize=(8, 0.29 * len(found) + 1.2), layout="constrained")
    at = range(len(found))
    medians = [scale * time.median for _, time in found]
    whiskers = [
        [scale * (time.median - time.p10) for _, time in found],
        [scale * (time.p90 - time.median) for _, time in found],
    ]
    kinds = {"refine": BLUE, "conv": ORANGE}
    colours = [kinds.get(op.rpartition(" ")[2], GREEN) for op, _ in found]
    axis.barh(at, medians, color=colours)
    axis.errorbar(medians, at, xerr=whiskers, fmt="none", ecolor="k", capsize=2)
    for index, (_, time) in enumerate(found):
        axis.annotate(
            f"{duration(time.median)}, {time.median / whole:.1%}",
            (scale * time.p90, index),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=9,
        )
    _names(axis, [op for op, _ in found])
    axis.set_xlim(0, 1.22 * max(scale * time.p90 for _, time in found))
    axis.set_xlabel(f"{unit}, median and 10th to 90th percentile; share of all ops' medians")
    axis.set_title(
        f"{group.network}, {conditions_of(group.rows[0])}: {duration(whole)} in all",
        fontsize=10,
        loc="left",
    )
    return figure


def draw_parts(groups: Sequence[Group]) -> Any:
    """Stacked bars, one a subject: what a command's time goes into."""
    from matplotlib import pyplot

    rows = [row for group in groups for row in group.rows if row.parts and row.time]
    parts = list(dict.fromkeys(part for row in rows for part in row.parts))
    figure, axis = pyplot.subplots(figsize=(8, 0.55 * len(rows) + 1.7), layout="constrained")
    whole = max(sum(part.median for part in row.parts.values()) for row in rows)
    for index, row in enumerate(rows):
        start = 0.0
        for part, time in row.parts.items():
            place = parts.index(part) % len(COLOURS)
            axis.barh(index, time.median, left=start, color=COLOURS[place], edgecolor="white")
            if time.median > 0.05 * whole:
                middle = start + time.median / 2
                text = f"{time.median:.2f}"
                axis.annotate(
                    text,
                    (middle, index),
                    ha="center",
                    va="center",
                    color="white" if COLOURS[place] in DARK else "black",
                    fontsize=9,
                )
            start += time.median
    for place, part in enumerate(parts):
        axis.barh(0, 0, color=COLOURS[place % len(COLOURS)], label=part)
    _names(axis, [f"{row.case['network']}\n{row.subject}" for row in rows])
    axis.set_xlabel("seconds, median of each part")
    axis.legend(
        ncols=len(parts), loc="lower center", bbox_to_anchor=(0.5, 1.0), fontsize=9, frameon=False
    )
    return figure
