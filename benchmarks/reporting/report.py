"""Writes docs/benchmarks.md, its plots and README's table from the rows of benchmarks/results.

python benchmarks/reporting/report.py    # `make report`
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

import click

import history
from crn_fast.errors import BadInput, CrnError
from crn_fast.files import make_folder, write_bytes
from crn_fast.measure.rows import Row
from history import SUITES, History
from page import FOLDER, PAGE, page, summary
from plots import plots
from tables import tables as of_suite

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- benchmarks: written by `make report` -->", "<!-- /benchmarks -->"


def tables(found: Iterable[Row]) -> str:
    """The tables of some rows alone, as of a run that just ended."""
    known = History(found)
    return "\n\n".join(filter(None, (of_suite(known, suite) for suite in SUITES)))


def embedded(text: str, block: str) -> str:
    """A text with a block between its two comment markers.

    Raises:
        BadInput: it has not one of each, in their order.
    """
    before, start, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not start or not end or START in after or END in after:
        raise BadInput(f"README.md: expected {START!r} and after it {END!r}, once each")
    return f"{before}{START}\n{block}\n{END}{after}"


def texts(known: History, root: Path) -> dict[Path, str]:
    """Each text that the rows give rise to, by its file; nothing is written or drawn."""
    readme = root / "README.md"
    return {
        root / PAGE: page(known),
        readme: embedded(readme.read_text("utf-8"), summary(known)),
    }


def write(known: History, root: Path) -> list[Path]:
    """Write the texts and draw the plots; plots of no rows any more are removed.

    Raises:
        BadInput: README has no place for its table.
    """
    made = []
    for path, text in texts(known, root).items():
        write_bytes(path, text.encode())
        made.append(path)
    folder = (root / PAGE).parent / FOLDER
    make_folder(folder)
    drawn = [plot.save(folder) for suite in SUITES for plot in plots(known, suite)]
    for old in set(folder.glob("*.png")) - set(drawn):
        old.unlink()
    return made + drawn


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--root", type=click.Path(path_type=Path), default=ROOT, show_default=True)
def main(results: Path, root: Path) -> None:
    """Write docs/benchmarks.md, its plots and README's table from rows of benchmarks."""
    for path in write(history.read(results), root):
        click.echo(path.relative_to(root))


if __name__ == "__main__":
    try:
        main()
    except CrnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
