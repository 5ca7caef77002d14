"""Rows -> PNGs: ratios to peers, roofline, time of each op, parts of a command, scaling."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bars
import loglog
from curves import curves
from history import Group, History

DPI = 110
RATIOS = {
    "frame": ("ratios.png", "How many times longer the peers take"),
    "alternatives": ("alternatives.png", "How many times longer other networks take"),
}
"""Suite -> file and text of the plot of its ratios."""


class Plot:
    """A picture of the page: its file, what it shows, and how it is drawn. Made of rows alone."""

    def __init__(self, name: str, text: str, draw: Callable[[], Any]) -> None:
        self.name, self.text, self._draw = name, text, draw

    def save(self, folder: Path) -> Path:
        """Draw it; needs matplotlib."""
        import matplotlib as mpl

        mpl.use("Agg")
        from matplotlib import pyplot

        style: Any = {
            **{"font.size": 10, "axes.grid": True, "grid.alpha": 0.3, "axes.axisbelow": True},
            **{"figure.facecolor": "white", "axes.spines.top": False, "axes.spines.right": False},
        }
        with pyplot.rc_context(style):
            figure = self._draw()
            path = folder / self.name
            # Without the version, so that a newer matplotlib alone changes nothing.
            figure.savefig(path, dpi=DPI, metadata={"Software": None})
            pyplot.close(figure)
        return path


def plots(history: History, suite: str) -> list[Plot]:
    """The pictures that the rows of a suite give rise to."""
    groups = history.groups(suite)
    if suite in RATIOS and (shown := [g for g in groups if bars.ratios_of(history, g)]):
        return [Plot(*RATIOS[suite], lambda: bars.draw_ratios(history, shown))]
    if suite == "ops":
        return [plot for group in groups for plot in _ops(group)]
    if suite == "scaling" and (lines := curves(groups)):
        text = "Time against threads, and against operations"
        return [Plot("scaling.png", text, lambda: loglog.draw_scaling(lines))]
    if suite == "endtoend" and (shown := [g for g in groups if any(r.parts for r in g.rows)]):
        return [Plot("endtoend.png", "Parts of a command's time", lambda: bars.draw_parts(shown))]
    return []


def _ops(group: Group) -> list[Plot]:
    """The times, and where products are counted the roofline, of one network on one machine."""
    name = "-".join(filter(None, (group.network, group.rows[0].origin.machine.gpu)))
    name = name.replace(" ", "-")
    text = f"Time of each op of {group.network}"
    made = [Plot(f"ops-{name}.png", text, lambda: bars.draw_ops(group))]
    if loglog.counted(group):
        text = f"Every op of {group.network} against the measured ceilings"
        made.append(Plot(f"roofline-{name}.png", text, lambda: loglog.draw_roofline(group)))
    return made
