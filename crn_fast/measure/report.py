"""Rows of measures for people (a table) and for programs (plain values)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crn_fast.measure.views import Row

if TYPE_CHECKING:
    from rich.table import Table


def table(rows: Sequence[Row], title: str) -> Table:
    """A row for each measure; '-' where a column has no such figure."""
    from rich.table import Table

    found = Table(title=title, title_justify="left")
    found.add_column("measure")
    for column in ("model", "trivial baseline", "real photos"):
        found.add_column(column, justify="right")
    found.add_column("better")
    for row in rows:
        figures = ("-" if v is None else f"{v:.4g}" for v in (row.model, row.baseline, row.photos))
        found.add_row(row.measure, *figures, row.better)
    return found


def plain(value: Any) -> Any:
    """The same with null for what JSON has no number for: nan, and the PSNR of equal pictures."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
