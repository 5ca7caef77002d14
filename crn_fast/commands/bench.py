"""`crn-fast bench`: how fast a model renders here, beside what else could run it."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import Size, emit, say
from crn_fast.errors import CheckFailed, Unavailable, UsageError
from crn_fast.files import nearest

if TYPE_CHECKING:
    from crn_fast.measure.rows import Row

EPILOG = """\b
Examples:
  crn-fast bench
  crn-fast bench -m run/ckpt.pt --peers eager,onnxruntime --batch 4
  crn-fast bench --end-to-end --peers none
  crn-fast bench --json before.jsonl
  crn-fast bench --baseline before.jsonl --max-regress 5%
\b
Every subject first passes a check against the reference in float64, which is computed once and kept
in --work. A ratio is taken round by round, of two runs a moment apart. Run it on an idle machine.
"""


class Share(click.ParamType[float]):
    """A share, as in 5% or 0.05."""

    name = "SHARE"

    def convert(self, value: Any, param: Any, ctx: Any) -> float:
        if isinstance(value, float):
            return value
        text = str(value)
        try:
            share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            share = -1.0
        if not 0 <= share < 1:
            self.fail(f"{value!r}: expected a share, as in 5% or 0.05")
        return share


@click.command(epilog=EPILOG)
@click.option(
    "-m", "--model", default="street-256", show_default=True, help="Checkpoint or packaged model."
)
@click.option(
    "--backend",
    "wanted",
    metavar="all|NAME,...",
    default="all",
    show_default=True,
    help="all: those that can run here.",
)
@click.option(
    "--peers",
    metavar="all|none|NAME,...",
    default="all",
    show_default=True,
    help="Other ways to run the same network.",
)
@click.option("--size", type=Size(), help="The picture size that is expected.")
@click.option("--batch", type=click.IntRange(1, 64), default=1, show_default=True)
@click.option("--threads", type=click.IntRange(1, 1024), help="CPU threads.")
@click.option("--rounds", type=click.IntRange(1), default=9, show_default=True)
@click.option("--layout", type=click.Path(path_type=Path), metavar="PATH", help="Of the model.")
@click.option("--end-to-end", is_flag=True, help="Also whole processes, file to file.")
@click.option(
    "--oracle",
    type=click.Choice(["float64", "float32"]),
    default="float64",
    show_default=True,
    help="What pictures are checked against.",
)
@click.option("--work", type=click.Path(path_type=Path), metavar="FOLDER", help="Kept files.")
@click.option("--json", "rows_file", metavar="FILE|-", help="Append rows, one JSON object a line.")
@click.option("--baseline", type=click.Path(path_type=Path), metavar="FILE", help="Rows of before.")
@click.option("--max-regress", type=Share(), default=0.05, show_default="5%", metavar="SHARE")
def command(
    model: str,
    wanted: str,
    peers: str,
    size: tuple[int, int] | None,
    batch: int,
    threads: int | None,
    rounds: int,
    layout: Path | None,
    end_to_end: bool,
    oracle: str,
    work: Path | None,
    rows_file: str | None,
    baseline: Path | None,
    max_regress: float,
) -> None:
    """Time a model on every backend that can run here, beside its peers.

    With --baseline, exit 7 if a ratio to a peer has become worse. Times of another run are never
    compared: they mean nothing on another machine.
    """
    from crn_fast import models
    from crn_fast.backends import thread_count
    from crn_fast.bench import endtoend, frame, guard, inputs, origin
    from crn_fast.engine import check_size
    from crn_fast.files import check_folder
    from crn_fast.measure import rows

    if baseline and rounds < guard.ROUNDS:
        raise UsageError(f"--rounds {rounds}: {guard.ROUNDS} at least, to compare with a baseline")
    ours = _backends(wanted)
    names = [*ours, *_peers(peers)]
    before = rows.read(baseline) if baseline else []
    if rows_file not in (None, "-"):
        check_folder(Path(str(rows_file)))
    made = model in inputs.NETWORKS or inputs.SCALED in model
    network = model if made else str(models.resolve(model))
    folder = work or _cache()
    check_size(model, inputs.load(network, folder)[1].spec, size)
    prepared = inputs.prepare(network, folder, layout, oracle, batch=batch)
    say(f"model {model}, {len(names)} subjects, {rounds} rounds; kept files are in {folder}")
    count = thread_count(threads)
    source = origin.of(shlex.join(["crn-fast", *sys.argv[1:]]))
    found = frame.compare(prepared, names, count, rounds, source, say)
    if end_to_end:
        whole = ["native"] if prepared.engine else ["eager"]
        found += endtoend.measure(prepared, whole, count, rounds, folder, source, say)
    _show(found, rows_file)
    if failed := [row for row in found if row.reason is not None and row.subject in ours]:
        first = next((row for row in failed if row.wrong), failed[0])
        raise (CheckFailed if first.wrong else Unavailable)(str(first.reason))
    if baseline:
        for pair in guard.check(found, before, max_regress, str(baseline), wanted == "all"):
            say(f"{pair}{' (noisy)' if pair.noisy else ''}")
        say(f"none has fallen by more than {max_regress:.1%}, beyond the spread of both runs")


def _backends(wanted: str) -> list[str]:
    """The subjects of the backends that were asked for.

    Raises:
        UsageError: one is unknown.
        Unavailable: one, or all, cannot run here.
    """
    from crn_fast.bench.ours import OURS, REFERENCE, why_not

    if wanted == "all":
        reasons = {name: why_not(name) for name in OURS}
        for name, reason in reasons.items():
            if reason:
                say(f"passed over {name}: {reason}")
        if found := [name for name, reason in reasons.items() if reason is None]:
            return found
        raise Unavailable("no backend can run here; `crn-fast doctor` says what is missing")
    names = [REFERENCE if name == "eager" else name for name in wanted.split(",") if name]
    for name in names:
        if name not in OURS:
            error = UsageError(f"--backend {name}: expected all, or some of {', '.join(OURS)}")
            raise error.instead_of(name, *nearest(name, OURS))
        if reason := why_not(name):
            raise Unavailable(f"--backend {name}: {reason}")
    return list(dict.fromkeys(names))


def _peers(wanted: str) -> list[str]:
    """The peers that were asked for; of 'all', those for what this machine has.

    Raises:
        UsageError: one is unknown.
    """
    from crn_fast.backends import sees_gpu
    from crn_fast.bench.gpu_peers import GPU
    from crn_fast.bench.peers import CPU

    if wanted == "none":
        return []
    if wanted == "all":
        return [*CPU, *(GPU if sees_gpu() else [])]
    names = [name for name in wanted.split(",") if name]
    known = [*CPU, *GPU]
    if unknown := [name for name in names if name not in known]:
        error = UsageError(
            f"--peers {unknown[0]}: expected all, none, or some of {', '.join(known)}"
        )
        raise error.instead_of(unknown[0], *nearest(unknown[0], known))
    return list(dict.fromkeys(names))


def _cache() -> Path:
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return default / "crn_fast" / "bench"


def _show(found: list[Row], rows_file: str | None) -> None:
    """Rows to a file or stdout, and for people the table and its notes."""
    from rich.console import Console

    from crn_fast.bench import table
    from crn_fast.measure import rows

    if rows_file == "-":
        for row in found:
            emit(row.to_json())
        return
    console = Console(width=None if sys.stdout.isatty() else 120)
    for made in table.tables(found):
        console.print(made)
    for line in table.notes(found):
        emit(line)
    if rows_file:
        rows.append(Path(rows_file), found)
        say(f"appended {len(found)} rows to {rows_file}")
