"""Rows of the suites `frame` and `endtoend` as a table for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from crn_fast.bench.guard import describe
from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread

if TYPE_CHECKING:
    from rich.table import Table


def tables(found: Sequence[Row]) -> list[Table]:
    """A table for each suite and case."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in found:
        groups.setdefault((row.suite, describe(row)), []).append(row)
    return [_table(f"{suite}: {case}", group) for (suite, case), group in groups.items()]


def notes(found: Sequence[Row]) -> list[str]:
    """Where it was taken, how far it can be relied upon, and what was not measured."""
    lines = []
    origin, machine = found[0].origin, found[0].origin.machine
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    cpu = f"{machine.cpu}, {machine.cpus} CPUs, {machine.instruction_set}"
    lines.append(f"taken on {cpu}{f', {machine.gpu}' if machine.gpu else ''}; {versions}")
    for ceilings in {tuple(row.ceilings.items()): None for row in found if row.ceilings}:
        rates = dict(ceilings)
        copy = rates.pop("copy", 0.0)
        lines.append(f"best matrix product {max(rates.values()):.0f} GFLOP/s, copy {copy:.0f} GB/s")
    waited: dict[str, dict[str, None]] = {}
    for row in found:
        if row.contention is not None:
            waited.setdefault(row.suite, {})[f"{row.contention:.0%}"] = None
    for suite, shares in waited.items():
        lines.append(f"{suite}: something waited for a CPU {', '.join(shares)} of the time")
    for suite in dict.fromkeys(row.suite for row in found):
        noisy = list(dict.fromkeys(r.subject for r in found if r.noisy and r.suite == suite))
        if noisy:
            lines.append(f"{suite}: noisy, spread above a tenth or few rounds: {', '.join(noisy)}")
    for row in found:
        if row.reason is not None:
            lines.append(f"{row.suite}: not measured: {row.subject}: {row.reason}")
    return lines


def _table(title: str, found: Sequence[Row]) -> Table:
    from rich.table import Table

    timed = [row for row in found if row.time]
    ours = timed[0].subject if timed else ""
    made = Table(title=title, title_justify="left")
    made.add_column("subject", no_wrap=True)
    for column in ("median", "p10 to p90", "n", f"times {ours}", "GFLOP/s", "error", "peak MiB"):
        made.add_column(column, justify="right")
    for row in found:
        if not row.time or not row.error:
            made.add_row(row.subject, "wrong" if row.wrong else "not measured")
            continue
        ratio = row.ratios.get(ours)
        memory = row.memory.get("run")
        made.add_row(
            row.subject,
            f"{seconds(row.time.median)}",
            f"{seconds(row.time.p10)} to {seconds(row.time.p90)}",
            str(row.time.n),
            _ratio(ratio) if ratio else "1",
            f"{row.gflops:.0f}" if row.gflops else "-",
            f"{row.error.largest:.2g}",
            f"{memory.peak / 2**20:.0f}" if memory else "-",
        )
    return made


def seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"


def _ratio(ours: Spread) -> str:
    """Of a peer's row: `ours` is our time in terms of the peer's."""
    return f"{1 / ours.median:.2f} ({1 / ours.p90:.2f} to {1 / ours.p10:.2f})"
