"""Rows -> Markdown tables and the plot of time against threads. The newest row of each case counts.

`python benchmarks/report.py --plot threads.png` prints the tables of benchmarks/results and draws.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import click

from crn_fast.errors import CrnError
from crn_fast.measure import rows
from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread

RESULTS = Path(__file__).parent / "results"
SUITES = ("frame", "stages", "threads", "endtoend")
OURS = "native"


def newest(found: Iterable[Row]) -> list[Row]:
    """The last row of each suite, case and subject, in the order of their first."""
    kept: dict[tuple[str, str, str], Row] = {}
    for row in found:
        kept[row.suite, str(sorted(row.case.items())), row.subject] = row
    return list(kept.values())


def tables(found: Sequence[Row]) -> str:
    """All tables that rows give rise to, with where they were taken."""
    makers = {
        "frame": frame_table,
        "stages": stages_table,
        "threads": threads_table,
        "endtoend": endtoend_table,
    }
    parts = []
    for suite, make in makers.items():
        cases = {_network(row): None for row in found if row.suite == suite}
        for case in cases:
            of_case = [r for r in found if r.suite == suite and _network(r) == case]
            parts.append(f"### {suite}: {case}\n\n{make(of_case)}\n\n{taken(of_case)}")
    return "\n\n".join(parts)


def frame_table(found: Sequence[Row]) -> str:
    """Ours and the peers: a peer's ratio is that of its own newest run, in which ours ran too."""
    head = [
        *("subject", "median s", "p10 .. p90", "n", "its time / ours", "GFLOP/s"),
        *(
            "of sgemm",
            "largest error",
            "PSNR dB",
            "peak MiB",
            "private and weights MiB",
            "settings",
        ),
    ]
    body = []
    for row in sorted(found, key=lambda row: row.subject != OURS):
        if row.reason is not None:
            body.append([row.subject, f"not measured: {row.reason}", *[""] * (len(head) - 2)])
            continue
        assert row.time and row.error
        memory = row.memory.get("run")
        ours = row.ratios.get(OURS)
        body.append(
            [
                *(row.subject, *_time(row.time)),
                _ratio(_inverse(ours)) if ours else "1",
                f"{row.gflops:.0f}",
                f"{row.shares['effective']:.0%}",
                f"{row.error.largest:.2g}",
                f"{row.error.psnr:.0f}" if row.error.psnr else "",
                f"{memory.peak / 2**20:.0f}" if memory else "",
                f"{(memory.private + (memory.weights or 0)) / 2**20:.0f}" if memory else "",
                row.settings,
            ]
        )
    return _markdown(head, body)


def stages_table(found: Sequence[Row]) -> str:
    head = [
        *("op", "shape", "median ms", "p10 .. p90", "GFLOP/s", "of sgemm", "multiplied, of sgemm"),
        *("GB/s", "of copy", "relative error", "largest error"),
    ]
    body = []
    for row in found:
        assert row.time and row.error
        t, shares = row.time, row.shares
        body.append(
            [
                *(str(row.case["op"]), str(row.case["shape"])),
                *(f"{t.median * 1e3:.3g}", f"{t.p10 * 1e3:.3g} .. {t.p90 * 1e3:.3g}"),
                f"{row.gflops:.0f}" if row.gflops else "",
                *(f"{shares[s]:.0%}" if s in shares else "" for s in ("effective", "multiplied")),
                *(f"{row.gbs:.2g}", f"{shares['copy']:.0%}"),
                *(f"{row.error.relative:.1e}", f"{row.error.largest:.1e}"),
            ]
        )
    return _markdown(head, body)


def threads_table(found: Sequence[Row]) -> str:
    head = ["threads", "median s", "p10 .. p90", "n", "faster than the first", "GFLOP/s"]
    body = []
    for row in found:
        if not row.time:
            body.append([str(row.case["threads"]), f"not measured: {row.reason}", *[""] * 4])
            continue
        speed = next(iter(row.ratios.values()), None)
        body.append(
            [
                *(str(row.case["threads"]), *_time(row.time)),
                *(_ratio(speed) if speed else "", f"{row.gflops:.0f}"),
            ]
        )
    return _markdown(head, body)


def endtoend_table(found: Sequence[Row]) -> str:
    parts = list(dict.fromkeys(part for row in found for part in row.parts))
    head = ["subject", "median s", "p10 .. p90", "n", *(f"{part} s" for part in parts), "command"]
    body = []
    for row in found:
        if not row.time:
            body.append([row.subject, f"not measured: {row.reason}", *[""] * (len(head) - 2)])
            continue
        seconds = (f"{row.parts[p].median:.3f}" if p in row.parts else "" for p in parts)
        body.append([row.subject, *_time(row.time), *seconds, f"`{_short(row.settings)}`"])
    return _markdown(head, body)


def taken(found: Sequence[Row]) -> str:
    """Where and how the rows of a table were taken, and how far they can be relied upon."""
    lines: dict[str, None] = {}
    for row in found:
        origin, machine = row.origin, row.origin.machine
        words = [
            f"{machine.cpu}, {machine.cpus} CPUs, {machine.instruction_set}",
            ", ".join(f"{name} {version}" for name, version in origin.versions.items()),
            f"commit {origin.commit}, {origin.run[:10]}, `{origin.command}`",
        ]
        if row.ceilings:
            product = max(value for name, value in row.ceilings.items() if name != "copy")
            words.append(f"sgemm {product:.0f} GFLOP/s, copy {row.ceilings['copy']:.0f} GB/s")
        if row.contention is not None:
            words.append(f"something waited for a CPU {row.contention:.0%} of the time")
        lines["; ".join(words)] = None
    noisy = sorted({row.subject for row in found if row.noisy})
    note = [f"- noisy (spread above a tenth, or fewer than 3 rounds): {', '.join(noisy)}"]
    return "\n".join([*(f"- {line}" for line in lines), *(note if noisy else [])])


def plot(found: Sequence[Row], path: Path) -> None:
    """Draw time against threads, of every network that has such rows."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import LogLocator

    figure, axes = pyplot.subplots(figsize=(6, 4), layout="constrained")
    chosen = [row for row in found if row.suite == "threads"]
    for network in dict.fromkeys(_network(row) for row in chosen):
        of_network = [row for row in chosen if _network(row) == network]
        points = sorted(
            ((int(row.case["threads"]), row.time) for row in of_network if row.time),
            key=lambda point: point[0],
        )
        if not points:
            continue
        counts = [count for count, _ in points]
        medians = [t.median for _, t in points]
        whiskers = [
            [t.median - t.p10 for _, t in points],
            [t.p90 - t.median for _, t in points],
        ]
        (bars, *_) = axes.errorbar(counts, medians, whiskers, marker="o", capsize=3, label=network)
        ideal = [medians[0] * counts[0] / count for count in counts]
        axes.plot(counts, ideal, ":", color=bars.get_color(), label=f"{network}, ideal")
    axes.set_xlabel("threads")
    axes.set_ylabel("seconds a picture (median, p10 to p90)")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({int(row.case["threads"]) for row in chosen})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.grid(visible=True, which="both", alpha=0.3)
    axes.set_title(f"native, {chosen[-1].origin.machine.cpu}" if chosen else "nothing measured")
    axes.legend()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _network(row: Row) -> str:
    return str(row.case["network"])


def _time(spread: Spread) -> list[str]:
    return [f"{spread.median:.3g}", f"{spread.p10:.3g} .. {spread.p90:.3g}", str(spread.n)]


def _ratio(spread: Spread) -> str:
    return f"{spread.median:.2f} ({spread.p10:.2f} .. {spread.p90:.2f})" + (
        " noisy" if spread.noisy else ""
    )


def _inverse(spread: Spread) -> Spread:
    return Spread(1 / spread.median, 1 / spread.p90, 1 / spread.p10, spread.n)


def _short(command: str) -> str:
    return " ".join(word.rpartition("/")[2] for word in command.split())


def _markdown(head: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@click.command()
@click.option("--results", type=click.Path(path_type=Path), default=RESULTS, show_default=True)
@click.option("--plot", "target", type=click.Path(path_type=Path), help="PNG to draw.")
def main(results: Path, target: Path | None) -> None:
    """Print Markdown tables of the newest rows, and draw time against threads."""
    files = [results / f"{suite}.jsonl" for suite in SUITES]
    found = newest(row for file in files if file.exists() for row in rows.read(file))
    click.echo(tables(found))
    if target:
        plot(found, target)


if __name__ == "__main__":
    try:
        main()
    except CrnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
