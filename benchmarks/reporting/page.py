"""Rows -> docs/benchmarks.md and the table in README: every figure from a row, none by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from crn_fast import backends
from crn_fast.bench.peers import CPU
from crn_fast.measure.ceilings import COPY_BYTES
from crn_fast.measure.rows import Row
from crn_fast.measure.timer import NOISY, Spread
from history import SUITES, Group, History, is_base
from plots import plots
from tables import memory_of, tables
from wording import duration, markdown, name_of, spread

FOLDER = "benchmarks"
"""Of the plots, beside the page."""
PAGE = "docs/benchmarks.md"
CPU_ONLY = ("native",)
"""Backends that never use a GPU."""
SUBJECT = {"eager": "reference"}
"""Backend -> its subject's name, where that is another."""

HOW = f"""\
- **A time has passed a check first.** Each subject's result is compared with the same network in
  higher precision, mostly float64. The *largest error* is in grey levels of 255, before rounding.
  *Relative error* is the root mean square over the spread of what is right: for ops and gradients.
  What is wrong has no time: its row says *wrong*.
- **Subjects run by turns.** A round is one run of each, each in a process of its own; the next
  round begins with another. So what slows the machine slows all of them.
- **A ratio is taken within a round**, of two runs a moment apart. *Times ours* is the median over
  the rounds, and in brackets the 10th and the 90th percentile; it is not the quotient of two
  medians. Above 1, ours is faster.
- **Noisy** is what spreads by more than {NOISY:.0%} between these percentiles, or comes from fewer
  than 3 rounds. Such a ratio is not exact to the digit. Percentiles of few rounds are interpolated.
- **GFLOP/s** counts the operations of the direct convolution, each once. Winograd's transforms need
  fewer products, so this can pass the ceiling. *Multiplied* is the products that are really made.
- **Ceilings** are measured in the same run: *sgemm* is the best float32 matrix product of numpy,
  torch and our kernels, *copy* copies {COPY_BYTES >> 20} MiB. They differ from run to run, so
  below each table stands what they were.
- **Memory** is of a process of its own. *Peak* counts every resident page, mapped files too;
  *private and weights* leaves out what the system could drop.
- **A time belongs to its machine.** Below each table stand machine, versions, commit and command.
  Where that is of `benchmarks/bench.py`, which is gone, `pytest benchmarks` takes the same suite.
- The newest run of each case is shown. Older ones stay in `benchmarks/results`."""

SECTIONS = {
    "frame": (
        "A whole picture",
        "From labels in memory to pixels in memory, ours and what else runs the same network.",
    ),
    "ops": (
        "Each op of a picture",
        "Timed within whole pictures, each beside its oracle. The bytes of *GB/s* are what must be "
        "moved at least: weights, input and output, each once.",
    ),
    "scaling": (
        "Scaling",
        "One axis at a time. An exponent is the slope on log axes: 1 is in proportion, -1 for "
        "threads is ideal.",
    ),
    "endtoend": (
        "From file to file",
        "The command as a user runs it. *start* is the interpreter, imports and the way out; files "
        "are in the system's cache.",
    ),
    "startup": ("Start", "What passes before anything is computed."),
    "train": ("Training", "Steps of training, with everything that a step does."),
    "alternatives": (
        "Other networks for the job",
        "SPADE and pix2pixHD from their published layer lists, with random weights, at equal size: "
        "time and operations can be compared, pictures cannot.",
    ),
}


def page(history: History) -> str:
    """The whole of docs/benchmarks.md."""
    parts = [
        "<!-- Written by `make report` from benchmarks/results: not by hand. -->\n\n# Benchmarks",
        "Every figure here comes from a row of `benchmarks/results`.",
        f"## How to read it\n\n{HOW}",
    ]
    if words := no_gpu(history):
        parts.append(words)
    for suite, (title, about) in SECTIONS.items():
        parts.append(f"## {title}\n\n{about}")
        parts += [f"![{plot.text}]({FOLDER}/{plot.name})" for plot in plots(history, suite)]
        parts.append(tables(history, suite) or "Not measured.")
    return "\n\n".join(parts) + "\n"


def no_gpu(history: History) -> str:
    """In words, which backends no row of a GPU is of; '' where there are none."""
    ran = {
        row.subject
        for suite in SUITES
        for group in history.groups(suite)
        for row in group.rows
        if row.time and row.origin.machine.gpu
    }
    without = [name for name in sorted(backends.NAMES) if SUBJECT.get(name, name) not in ran]
    never = [f"`{name}`" for name in without if name not in (*CPU_ONLY, *SUBJECT)]
    if not never:
        return ""
    also = [f"`{name}`" for name in without if name in SUBJECT]
    more = f" Nor is there a figure of {_and(also)} on one." if also else ""
    noun, verb = ("backends", "have") if len(never) > 1 else ("backend", "has")
    return (
        f"## No figure of a GPU: {noun} {_and(never)} {verb} never run on a GPU\n\n"
        f"No row in `benchmarks/results` is of {_and(never)} on a GPU, so nothing is said of "
        f"{'their' if len(never) > 1 else 'its'} speed.{more} On a machine with a GPU, `bash "
        "benchmarks/gpu_check.sh` checks the backends and times their parts, and `make bench` "
        "takes the rows of this page: then this section goes away by itself."
    )


def summary(history: History) -> str:
    """README's tables: ours beside the peers, one a machine and one line a network."""
    machines: dict[str, list[Group]] = {}
    for group in history.groups("frame"):
        if any(_base(history, group)):
            machines.setdefault(group.machine, []).append(group)
    blocks = [_of_machine(history, groups) for groups in machines.values()]
    if not blocks:
        return "Not measured."
    words = (
        "Of the others: how many times longer they take, round by round, median (10th to 90th "
        f"percentile); ~ is noisy. Errors, memory, machine and command of each: [{PAGE}]({PAGE})."
    )
    return "\n\n".join([*blocks, words])


def _of_machine(history: History, groups: Sequence[Group]) -> str:
    rows = [row for group in groups for row in group.rows if row.time and not is_base(row)]
    known = list(CPU)
    subjects = sorted(
        dict.fromkeys(row.subject for row in rows),
        key=lambda name: known.index(name) if name in known else len(known),
    )
    lines = []
    for group in sorted(groups, key=_size):
        ours = next(row for row in _base(history, group) if row.time)
        ratios = [history.ratio(row) if (row := _row(group, name)) else None for name in subjects]
        lines.append(
            [
                f"`{group.network}`, {ours.case['height']}x{ours.case['width']}",
                duration(ours.time.median) if ours.time else "",
                memory_of(ours, "peak"),
                *(_marked(ratio) if ratio else "not measured" for ratio in ratios),
            ]
        )
    where = ours.origin.machine.gpu or f"{ours.case['threads']} threads of {groups[0].machine}"
    head = ["network", f"`{ours.subject}`, a picture", "peak, MiB", *map(name_of, subjects)]
    return f"On {where}, {ours.case['precision']}:\n\n{markdown(head, lines)}"


def _base(history: History, group: Group) -> list[Row]:
    """Ours: what the measured rows are compared with."""
    return [base for row in group.rows if row.time and (base := history.base(row))]


def _row(group: Group, subject: str) -> Row | None:
    return next((row for row in group.rows if row.subject == subject and row.time), None)


def _marked(ratio: Spread) -> str:
    return f"{'~' if ratio.noisy else ''}{spread(ratio)}"


def _size(group: Group) -> tuple[int, str]:
    case = group.rows[0].case
    return int(case["height"]) * int(case["width"]), group.network


def _and(words: Iterable[str]) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last
