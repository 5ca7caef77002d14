"""Rows -> Markdown tables, one for each suite, network and machine, with where they were taken."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from crn_fast.bench.peers import CPU
from crn_fast.measure.rows import Row
from crn_fast.measure.timer import Spread
from curves import curves
from history import BASES, Group, History, is_base, suite_of
from wording import duration, durations, markdown, name_of, rate, short, spread

Column = tuple[str, Callable[[Row], str]]
"""Heading, and what it says of a measured row; '' where there is nothing to say."""

HEADINGS = {"value": "widths times"}


def tables(history: History, suite: str) -> str:
    """All tables of a suite, each under its heading; '' where it has no rows."""
    parts = []
    for group in history.groups(suite):
        title = f"### {', '.join(filter(None, (group.network, group.machine)))}"
        parts += [title, table(history, group), taken(group)]
    return "\n\n".join(parts)


def table(history: History, group: Group) -> str:
    """One table; columns in which nothing is said are left out."""
    found = sorted(group.rows, key=_order)
    who = _who(found)
    columns = [*who, *_time(history, group), *_what(history, group)]
    body = []
    for row in found:
        if row.time:
            body.append([show(row) for _, show in columns])
        else:
            cells = [*(show(row) for _, show in who), _without_time(row)]
            body.append(_padded(cells, len(columns)))
    blank = [""] * (len(who) - 1)
    body += [
        _padded([name_of(name), *blank, "not measured"], len(columns)) for name in _absent(group)
    ]
    kept = [at for at in range(len(columns)) if any(line[at] for line in body)]
    return markdown([columns[at][0] for at in kept], [[line[at] for at in kept] for line in body])


def _absent(group: Group) -> list[str]:
    """Peers that no row of the group names."""
    if group.suite != "frame" or group.rows[0].origin.machine.gpu:
        return []
    return [name for name in CPU if name not in {row.subject for row in group.rows}]


def _without_time(row: Row) -> str:
    return "wrong, so no time" if row.wrong else "not measured"


OWN_NAMES = ("endtoend", "startup", "train")
"""Suites whose subjects are ways to run ours, and no peers."""


def _named(row: Row) -> str:
    return row.subject if suite_of(row) in OWN_NAMES else name_of(row.subject)


def _padded(cells: list[str], length: int) -> list[str]:
    return cells + [""] * (length - len(cells))


def _order(row: Row) -> tuple[bool, bool]:
    """Ours first, then what was measured; else as it was."""
    return not is_base(row), row.time is None


def _who(found: Sequence[Row]) -> list[Column]:
    """The subject, and whatever else varies between the rows of a table."""
    varying = [
        key
        for key in dict.fromkeys(key for row in found for key in row.case)
        if len({row.case.get(key) for row in found}) > 1
    ]
    columns: list[Column] = []
    hidden: tuple[str, ...] = ()  # what the title or another column says
    if "axis" in found[0].case:
        hidden = ("network",) if found[0].case["axis"] == "width" else ("network", "value")
    elif found[0].suite == "alternatives":
        hidden = ("network",)
    varying = [key for key in varying if key not in hidden]
    if len({row.subject for row in found}) > 1 or not varying:
        columns = [("subject", _named)]
    if {"height", "width"} <= set(varying):
        varying = ["size", *(key for key in varying if key not in ("height", "width"))]
    return columns + [(HEADINGS.get(key, key), lambda r, key=key: _case(r, key)) for key in varying]


def _case(row: Row, key: str) -> str:
    if key == "size":
        return f"{row.case.get('height')}x{row.case.get('width')}"
    return str(row.case.get(key, ""))


def _time(history: History, group: Group) -> list[Column]:
    base = BASES.get(group.suite, ("ours",))[0]
    return [
        ("time", lambda row: duration(row.time.median) if row.time else ""),
        ("p10 to p90", lambda row: durations(row.time) if row.time else ""),
        ("rounds", lambda row: str(row.time.n) if row.time else ""),
        (f"times {base}", lambda row: spread(history.ratio(row))),
        ("noisy", lambda row: _noisy(row.time, history.ratio(row))),
    ]


def _noisy(time: Spread | None, ratio: Spread | None) -> str:
    named = {"time": time, "ratio": ratio}
    return " and ".join(name for name, value in named.items() if value and value.noisy)


def _what(history: History, group: Group) -> list[Column]:
    whole = sum(row.time.median for row in group.rows if row.time)
    parts = dict.fromkeys(part for row in group.rows for part in row.parts)
    columns: list[Column] = [
        *((part, lambda row, part=part: _part(row, part)) for part in parts),
    ]
    if group.suite == "ops":
        columns.append(
            ("of all ops", lambda row: f"{row.time.median / whole:.1%}" if row.time else "")
        )
    if group.suite == "train":
        columns.append(("images/s", _images))
    if group.suite == "alternatives":
        columns.append(("GFLOP a picture", _operations))
    columns += [
        ("GFLOP/s", lambda row: rate(row.gflops) if row.gflops else ""),
        ("of sgemm", lambda row: _share(row, "effective")),
        ("multiplied, of sgemm", lambda row: _share(row, "multiplied")),
        ("GB/s", lambda row: rate(row.gbs) if row.gbs else ""),
        ("of copy", lambda row: _share(row, "copy")),
    ]
    if any(row.memory for row in group.rows):
        columns += _MEMORY
    if group.suite in ("ops", "train"):
        return [*columns, ("relative error", _relative)]
    return [
        *columns,
        ("largest error", lambda row: f"{row.error.largest:.2g}" if row.error else ""),
        ("PSNR, dB", lambda row: f"{row.error.psnr:.0f}" if row.error and row.error.psnr else ""),
    ]


def _part(row: Row, part: str) -> str:
    return duration(row.parts[part].median) if part in row.parts else ""


def _images(row: Row) -> str:
    batch = row.case.get("batch", 1)
    return f"{float(batch) / row.time.median:.3g}" if row.time else ""


def _operations(row: Row) -> str:
    return f"{row.gflops * row.time.median:.4g}" if row.gflops and row.time else ""


def _relative(row: Row) -> str:
    return f"{row.error.relative:.1e}" if row.error else ""


def _share(row: Row, ceiling: str) -> str:
    return f"{row.shares[ceiling]:.0%}" if ceiling in row.shares else ""


def memory_of(row: Row, which: str) -> str:
    """MiB of 'peak', or of what is 'needed': private and weights."""
    memory = row.memory.get("run") or row.memory.get("start")
    if not memory:
        return "not measured"
    size = memory.peak if which == "peak" else memory.private + (memory.weights or 0)
    return f"{size / 2**20:.0f}"


_MEMORY: list[Column] = [
    ("peak, MiB", lambda row: memory_of(row, "peak")),
    ("private and weights, MiB", lambda row: memory_of(row, "needed")),
]


def taken(group: Group) -> str:
    """Where and how the rows of a table were taken, and why some of them hold no time."""
    found = group.rows
    runs = {row.origin.run: [r for r in found if r.origin.run == row.origin.run] for row in found}
    lines = [*_fitted(group), *(_run(rows) for rows in runs.values())]
    settings = dict.fromkeys(
        f"- {_named(row)}: {short(row.settings)}." for row in found if row.settings
    )
    missing = dict.fromkeys(
        f"- {_named(row)}: {_without_time(row)}: {short(row.reason)}."
        for row in found
        if row.reason
    )
    absent = "; ".join(name_of(name) for name in _absent(group))
    more = [f"- Not measured, in no run: {absent}."] if absent else []
    return "\n".join([*lines, *settings, *missing, *more])


def _run(found: Sequence[Row]) -> str:
    """A line of what all rows of one run share."""
    origin, machine = found[0].origin, found[0].origin.machine
    gpu = f" and {machine.gpu}" if machine.gpu else ""
    clock = f" at {machine.megahertz:.0f} MHz" if machine.megahertz else ""
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    words = [
        f"- Taken {origin.run[:10]} {origin.run[11:16]} UTC, commit {origin.commit}, on "
        f"{machine.cpu}{gpu}: {machine.cpus} CPUs{clock}, {machine.instruction_set}, "
        f"{machine.memory / 2**30:.0f} GiB, {machine.system}; {versions}.",
        f"`{short(origin.command)}`.",
    ]
    if ceilings := next((row.ceilings for row in found if row.ceilings), None):
        product = max(value for name, value in ceilings.items() if name != "copy")
        words.append(f"Best sgemm {product:.0f} GFLOP/s, copy {ceilings['copy']:.0f} GB/s.")
    if shares := [row.contention for row in found if row.contention is not None]:
        words.append(f"Something waited for a CPU {max(shares):.0%} of the time.")
    return " ".join(words)


def _fitted(group: Group) -> list[str]:
    return [
        f"- {name_of(line.subject)}: time grows as {line.quantity} to the power of "
        f"{line.exponent:.2f}, fitted over {len(line.points)} points."
        for line in curves([group] if group.suite == "scaling" else [])
    ]
