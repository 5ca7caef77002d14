"""`crn-fast compare`: people judge which of two sets of pictures looks more real."""

from __future__ import annotations

import webbrowser
from contextlib import suppress
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import emit, interactive, say, sigterm_as_ctrl_c
from crn_fast.errors import ResourceError, UsageError

if TYPE_CHECKING:
    from crn_fast.compare.answers import Summary
    from crn_fast.compare.trials import Source

SHORTEST, LONGEST = 1 / 8, 8.0
"""Seconds, as in the paper's experiment with limited time."""

EPILOG = """\b
Examples:
  crn-fast compare ours/ theirs/
  crn-fast compare ours/ theirs/ --real photos/ --trials 100 --sentinels 10
  crn-fast compare ours/ theirs/ --real photos/ --against real --seconds 1/8,1/4,1/2,1,2,4,8
  crn-fast compare --summary answers.csv
\b
Pictures of one scene have one name in all folders, endings and suffixes such as .render and
_leftImg8bit aside. Raters work on this machine; Ctrl-C ends it and prints the preferences.
"""


class Seconds(click.ParamType[tuple[float, ...]]):
    """Times with commas, as in 1/8,1/2,2."""

    name = "S,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[float, ...]:
        from fractions import Fraction

        try:
            times = tuple(float(Fraction(text)) for text in str(value)[:200].split(","))
        except (ValueError, ZeroDivisionError):
            self.fail(f"{value!r}: expected seconds with commas, as in 1/8,1/2,2")
        if not all(SHORTEST <= time <= LONGEST for time in times):
            self.fail(f"{value!r}: expected times from 1/8 to 8 seconds")
        return times


@click.command(epilog=EPILOG)
@click.argument("a", required=False, type=click.Path(path_type=Path))
@click.argument("b", required=False, type=click.Path(path_type=Path))
@click.option("--real", type=click.Path(path_type=Path), help="Folder of photos of the scenes.")
@click.option(
    "--against",
    type=click.Choice(["each-other", "real"]),
    default="each-other",
    show_default=True,
    help="Whether A is set against B, or each of them against the photos.",
)
@click.option("--seconds", type=Seconds(), help="Show pairs so long only. Default: unlimited.")
@click.option("--trials", type=click.IntRange(1, 10_000), default=50, show_default=True)
@click.option(
    "--sentinels",
    type=click.IntRange(0, 1000),
    default=5,
    show_default=True,
    help="Pairs with a plain answer besides; who misses over a tenth of them is left out.",
)
@click.option("--seed", default="0", show_default=True, help="Of the order and the sides.")
@click.option(
    "-o",
    "--out",
    type=click.Path(path_type=Path),
    default="answers.csv",
    show_default=True,
    help="CSV that answers are added to; a rater goes on where they left off.",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Default: a free one.")
@click.option("--summary", type=click.Path(path_type=Path), help="Only print what FILE says.")
@click.option("--json", "as_json", is_flag=True, help="Print the preferences as a line of JSON.")
def command(
    a: Path | None,
    b: Path | None,
    real: Path | None,
    against: str,
    seconds: tuple[float, ...] | None,
    trials: int,
    sentinels: int,
    seed: str,
    out: Path,
    port: int,
    summary: Path | None,
    as_json: bool,
) -> None:
    """Have people judge, pair by pair, whether the pictures of A or of B look more real."""
    from crn_fast.compare import answers
    from crn_fast.compare import trials as plans
    from crn_fast.compare.server import Experiment

    if summary is not None:
        _print(answers.summarize(answers.read(summary)), as_json)
        return
    if a is None or b is None:
        raise UsageError("two folders of pictures are needed; see `crn-fast compare --help`")
    folders: dict[Source, Path] = {"a": a, "b": b}
    if real is not None:
        folders["real"] = real
    elif against == "real":
        raise UsageError("--against real needs the photos: add --real FOLDER")
    found = plans.scenes(folders)
    pairings: list[tuple[Source, Source]] = [("a", "real"), ("b", "real")]
    if against == "each-other":
        pairings = [("a", "b")]
    times = seconds or (None,)
    own = f"{seed} {a.resolve()} {b.resolve()}"
    experiment = Experiment(
        lambda rater: plans.plan(found, pairings, times, trials, sentinels, f"{own} {rater}"), out
    )
    say(f"{len(found)} scenes; a is {a}, b is {b}{f', real is {real}' if real else ''}")
    _serve(experiment, port, out)
    if out.exists():
        _print(answers.summarize(answers.read(out)), as_json)
        say(f"next: crn-fast compare --summary {quote(str(out))}")


def _serve(experiment: Any, port: int, out: Path) -> None:
    """Until Ctrl-C or SIGTERM."""
    from crn_fast.compare.server import Server

    try:
        server = Server(experiment, port)
    except OSError as error:
        raise ResourceError(f"--port {port}: cannot be had ({error.strerror})") from None

    with server, suppress(KeyboardInterrupt), sigterm_as_ctrl_c():
        say(f"open {server.url} in a browser; answers go to {out}; Ctrl-C ends it")
        if interactive():
            webbrowser.open(server.url)
        server.serve_forever(poll_interval=0.2)
    say("")


def _print(summary: Summary, as_json: bool) -> None:
    from dataclasses import asdict

    if as_json:
        emit(asdict(summary))
        return
    for rater in summary.left_out:
        say(f"{rater}: missed too many sentinels, left out")
    if not summary.preferences:
        emit("no answers yet")
    for each in summary.preferences:
        shown = each.seconds if each.seconds == "unlimited" else f"{each.seconds} s"
        emit(
            f"{each.first} preferred to {each.second}, {shown}: "
            f"{100 * each.chosen / each.count:.1f} % of {each.count} "
            f"(95 %: {100 * each.low:.1f} to {100 * each.high:.1f})"
        )
