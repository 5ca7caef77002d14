"""Do two runs agree? Every ratio of the newest run beside the same of the run before, as a table.

    python benchmarks/agree.py build/bench/rows

Two runs of `make bench-quick` on one machine should agree within a tenth, or the rows say that they
are noisy: exit 7 where a ratio does neither.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from crn_fast.bench import guard
from crn_fast.bench.guard import Pair
from crn_fast.errors import BadInput, CheckFailed, CrnError
from crn_fast.measure import rows
from crn_fast.measure.rows import Row

TENTH = 0.10


def last_two(found: Iterable[Row]) -> tuple[list[Row], list[Row]]:
    """Of each case and subject the row before the newest, and the newest; both were measured."""
    kept: dict[tuple[str, str, str], list[Row]] = {}
    for row in found:
        if row.time:
            key = (row.suite, guard.describe(row), row.subject)
            kept[key] = [*kept.get(key, [])[-1:], row]
    both = [pair for pair in kept.values() if len(pair) == 2]
    return [pair[0] for pair in both], [pair[1] for pair in both]


def ratios(found: Iterable[Row]) -> tuple[list[Pair], list[Pair]]:
    """The ratios of the last two runs: those of ours, and those of the other subjects."""
    before, now = last_two(found)
    pairs = guard.pairs(now, before, every=True)
    ours = [p for p in pairs if p.subject == "native"]
    return ours, [p for p in pairs if p.subject != "native"]


def agrees(pair: Pair) -> bool:
    return abs(pair.change) <= TENTH


def table(pairs: Sequence[Pair]) -> str:
    """In Markdown, the ratios of ours to the others; the rest is counted."""
    lines = ["| case | peer | first | second | change | |", "| --- | --- | --- | --- | --- | --- |"]
    for pair in pairs:
        spreads = (pair.before, pair.now)
        first, second = (f"{s.median:.3g} ({s.p10:.3g} to {s.p90:.3g})" for s in spreads)
        said = "noisy" if pair.noisy else "" if agrees(pair) else "differs"
        case = f"{pair.suite}: {pair.case}"
        lines.append(f"| {case} | {pair.peer} | {first} | {second} | {pair.change:+.1%} | {said} |")
    return "\n".join(lines)


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def main(folder: Path) -> None:
    """Compare the last two runs whose rows are in FOLDER."""
    found = [row for path in sorted(folder.glob("*.jsonl")) for row in rows.read(path)]
    ours, others = ratios(found)
    if not ours and not others:
        raise BadInput(f"{folder}: holds no ratio twice; run the same suites two times")
    click.echo(table(ours))
    every = [*ours, *others]
    within, noisy = [p for p in every if agrees(p)], [p for p in every if p.noisy]
    differ = [p for p in every if not agrees(p) and not p.noisy]
    click.echo(
        f"\n{len(every)} ratios: {len(within)} within a tenth; {len(noisy)} noisy, of which "
        f"{len([p for p in noisy if not agrees(p)])} are not within a tenth"
    )
    if differ:
        raise CheckFailed(f"{len(differ)} differ and are not noisy: {differ[0]}")


if __name__ == "__main__":
    try:
        main(standalone_mode=False)
    except CrnError as error:
        click.echo(f"agree: {error}", err=True)
        sys.exit(error.exit_code)
