"""Progress of many layouts, on stderr: a bar on a terminal, else a line every ten seconds."""

from __future__ import annotations

import time
from typing import Any

import click

from crn_fast.commands import interactive, say

EVERY = 10.0
"""Seconds between two lines."""


class Progress:
    """Counts of layouts, and the seconds that the renderer was busy: added to from outside."""

    def __init__(self, total: int | None) -> None:
        """`total`: how many layouts there are, if that is known."""
        self.total = total
        self.rendered = self.skipped = self.failed = 0
        self.busy = 0.0
        self._bar: Any = None
        self._since = self._said = time.monotonic()

    def __enter__(self) -> Progress:
        context = click.get_current_context(silent=True)
        quiet = context and (context.find_root().obj or {}).get("quiet")
        if interactive() and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (BarColumn(), TextColumn("{task.description}"))
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.start()
            self._task = self._bar.add_task("", total=self.total)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar:
            self._bar.stop()

    @property
    def done(self) -> int:
        return self.rendered + self.skipped + self.failed

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._since

    @property
    def rate(self) -> float:
        """Layouts rendered a second."""
        return self.rendered / max(self.seconds, 1e-9)

    def update(self) -> None:
        """Show the counts."""
        if self._bar:
            self._bar.update(self._task, completed=self.done, description=str(self))
        elif time.monotonic() - self._said >= EVERY:
            self._said = time.monotonic()
            say(str(self))

    def __str__(self) -> str:
        parts = [f"{self.done}" if self.total is None else f"{self.done}/{self.total}"]
        parts += [f"{self.failed} failed"] if self.failed else []
        parts += [f"{self.skipped} skipped"] if self.skipped else []
        parts += [f"{self.rate:.1f} frames/s"]
        if self.total is not None and self.rendered:
            left = round((self.total - self.done) / self.rate)
            parts.append(f"ETA {left // 3600}:{left // 60 % 60:02}:{left % 60:02}")
        return "  ".join(parts)
