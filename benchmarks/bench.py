"""Takes the figures of docs/native.md; appends rows to benchmarks/results/*.jsonl.

    python benchmarks/bench.py frame --network 256p --peers eager,onnxruntime --rounds 3
    python benchmarks/bench.py stages --network 256p
    python benchmarks/bench.py threads --network street-1024
    python benchmarks/bench.py endtoend --network street-1024

On an idle machine; needs the extras [train,bench]. `benchmarks/report.py` makes tables of the rows.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

import endtoend
import frame
import inputs
import peers
import report
import stages
from crn_fast.errors import CrnError, UsageError
from crn_fast.files import make_folder
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.measure import machine, rows
from crn_fast.measure.rows import Origin, Row

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"


def options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What every suite takes."""
    for option in (
        click.option("--out", type=click.Path(path_type=Path), help="File of rows."),
        click.option("--work", type=click.Path(path_type=Path), default=ROOT / "build" / "bench"),
        click.option("--oracle", type=click.Choice(inputs.ORACLES), default="float64"),
        click.option("--layout", type=click.Path(path_type=Path), help="Layout of a preset."),
        click.option("--rounds", type=click.IntRange(1), default=5, show_default=True),
        click.option("--threads", type=click.IntRange(1), help="Default: all usable CPUs."),
        click.option("--network", default="256p", help=", ".join(inputs.NETWORKS)),
    ):
        command = option(command)
    return command


@click.group()
def main() -> None:
    """Take the figures of docs/native.md; append rows to benchmarks/results/*.jsonl."""


@main.command("frame")
@options
@click.option("--peers", "names", default=",".join(peers.PEERS), show_default=True)
def frame_command(names: str, **given: Any) -> None:
    """A whole picture: ours and the peers by turns, each in its own process, with its memory."""
    chosen = choice("--peers", names, peers.PEERS)
    take("frame", given, lambda i, t, o: frame.compare(i, chosen, t, given["rounds"], o, told))


@main.command("stages")
@options
def stages_command(**given: Any) -> None:
    """Every op of the backend native: time, rates, shares of the ceilings, error."""
    oracle, rounds = given["oracle"], given["rounds"]
    take("stages", given, lambda i, t, o: stages.measure(i, t, rounds, oracle, o, told))


@main.command("threads")
@options
def threads_command(**given: Any) -> None:
    """Ours with 1 to --threads threads."""
    rounds = given["rounds"]
    take("threads", given, lambda i, t, o: frame.scale(i, range(1, t + 1), rounds, o, told))


@main.command("endtoend")
@options
@click.option("--subjects", default="native,checkpoint", show_default=True)
def endtoend_command(subjects: str, **given: Any) -> None:
    """`crn-fast render` as a whole process, and where its time goes."""
    chosen = choice("--subjects", subjects, endtoend.SUBJECTS)
    rounds, work = given["rounds"], given["work"]
    take("endtoend", given, lambda i, t, o: endtoend.measure(i, chosen, t, rounds, work, o, told))


@main.command("prepare")
@options
def prepare_command(network: str, work: Path, layout: Path | None, oracle: str, **_: Any) -> None:
    """Only make the checkpoint, engine file, layout and oracle, which the suites else make."""
    for name, value in inputs.prepare(network, work, layout, oracle)._asdict().items():
        click.echo(f"{name}: {value}")


def take(
    suite: str, given: dict[str, Any], measure: Callable[[inputs.Inputs, int, Origin], list[Row]]
) -> None:
    """Prepare, measure, append and show."""
    out = given["out"] or RESULTS / f"{suite}.jsonl"
    threads = given["threads"] or usable_cpus()
    prepared = inputs.prepare(given["network"], given["work"], given["layout"], given["oracle"])
    found = measure(prepared, threads, origin())
    make_folder(out.parent)
    rows.append(out, found)
    click.echo(report.tables(found))


def origin() -> Origin:
    """Of this run: by whom, on what and with which versions its rows were taken."""
    start = datetime.now(UTC).isoformat(timespec="seconds")
    command = shlex.join(["python", "benchmarks/bench.py", *sys.argv[1:]])
    return Origin(
        run=f"{start} {os.getpid()}",
        command=command,
        machine=machine.describe(),
        versions=machine.versions(peers.PACKAGES),
        commit=machine.commit(ROOT),
    )


def choice(option: str, text: str, known: Sequence[str] | dict[str, Any]) -> list[str]:
    """Names from a list with commas.

    Raises:
        UsageError: one is unknown.
    """
    names = [name for name in text.split(",") if name]
    if unknown := [name for name in names if name not in known]:
        raise UsageError(f"{option} {unknown[0]}: expected some of {', '.join(known)}")
    return names


def told(message: str) -> None:
    click.echo(message, err=True)


if __name__ == "__main__":
    try:
        main()
    except CrnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
