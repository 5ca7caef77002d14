"""`crn-fast labels`: what the label sets are, and whether layouts are sound."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from shlex import quote
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import emit, reading_options, say
from crn_fast.errors import BadInput, CrnError, Mismatch, PartlyDone, UsageError, one_line
from crn_fast.files import kind_of, make_folder

if TYPE_CHECKING:
    import numpy as np
    from rich.table import Table

    from crn_fast.palette import LabelSet

GROUP_EPILOG = """\b
Examples:
  crn-fast labels list
  crn-fast labels check gtFine/val --labels cityscapes
  crn-fast labels map gtFine/val camvid_val --from cityscapes --to camvid
"""
LIST_EPILOG = """\b
Examples:
  crn-fast labels list
  crn-fast labels show camvid
"""
SHOW_EPILOG = """\b
Examples:
  crn-fast labels show cityscapes
  crn-fast labels show mine.toml --json
"""
CHECK_EPILOG = """\b
Examples:
  crn-fast labels check street.png
  crn-fast labels check gtFine/val --labels cityscapes
  crn-fast labels check annotations --labels ade20k --json > check.jsonl
"""
MAP_EPILOG = """\b
Examples:
  crn-fast labels map painted.png street.png --from camvid --encoding color
  crn-fast labels map gtFine/val camvid_val --from cityscapes --to camvid
  crn-fast labels map rooms out --from nyu40 --to mine.toml --table rooms.toml
\b
A table is a TOML file with a line for each class that changes its name:
  "traffic light" = "sign"
  vegetation = "tree"
"""


@click.group(name="labels", epilog=GROUP_EPILOG)
def command() -> None:
    """List, show, check and convert label sets and layouts."""


@command.command("list", epilog=LIST_EPILOG)
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")
def list_sets(as_json: bool) -> None:
    """List the built-in label sets."""
    from crn_fast.palette import BUILTIN, label_set

    for labels in map(label_set, BUILTIN):
        if as_json:
            void = None if labels.void is None else labels.names[labels.void]
            emit({"name": labels.name, "classes": labels.classes, "void": void})
        else:
            some = ", ".join(labels.names[:5])
            emit(f"{labels.name:12}{labels.classes:4} channels  {some}, ...")
    say("next: crn-fast labels show NAME")


@command.command(epilog=SHOW_EPILOG)
@click.argument("name", metavar="NAME|FILE.toml")
@click.option("--json", "as_json", is_flag=True, help="Print the whole set as a line of JSON.")
def show(name: str, as_json: bool) -> None:
    """Show the channels, names, ids and colours of a label set."""
    from crn_fast.palette import label_set

    labels = label_set(name)
    if as_json:
        emit(labels.to_json())
        return
    _print_table(_classes_table(labels))
    if labels.note:
        say(labels.note)
    say(f"next: crn-fast labels check DIR --labels {quote(name)}")


@command.command(epilog=CHECK_EPILOG)
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path())
@click.option(
    "--labels",
    "name",
    metavar="NAME|FILE.toml",
    default="camvid",
    show_default=True,
    help="Label set that the layouts are in.",
)
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")
def check(paths: tuple[str, ...], name: str, encoding: Any, unknown: Any, as_json: bool) -> None:
    """Check layouts, or every PNG in folders; exit 3 if any is faulty."""
    import numpy as np

    from crn_fast import layout
    from crn_fast.palette import label_set

    labels = label_set(name)
    files = [file for path in paths for file in _layouts(Path(path))]
    pixels = np.zeros(labels.classes, np.int64)
    having = np.zeros(labels.classes, np.int64)
    encodings: dict[str, int] = {}
    faulty = 0
    for file in files:
        try:
            found = layout.read(file, labels, encoding=encoding, unknown=unknown)
        except UsageError:
            raise
        except CrnError as error:
            faulty += 1
            line = one_line(str(error))
            emit({"path": str(file), "ok": False, "error": line} if as_json else line)
            continue
        counts = np.bincount(found.array.reshape(-1), minlength=labels.classes)
        pixels += counts
        having += counts > 0
        how = found.encoding.partition(";")[0]
        encodings[how] = encodings.get(how, 0) + 1
        if as_json:
            emit({"path": str(file), "ok": True, "size": found.size, "encoding": found.encoding})
        elif ";" in found.encoding:
            say(f"{file}: read as {found.encoding}")
    if as_json:
        shares = dict(zip(labels.names, map(int, pixels), strict=True))
        emit({"layouts": len(files), "faulty": faulty, "pixels": shares})
    elif pixels.any():
        _print_table(_shares_table(labels, pixels, having))
    read_as = ", ".join(f"{count} as {how}" for how, count in encodings.items())
    say(f"{len(files)} layouts in {labels.name}: {read_as or 'none could be read'}")
    if faulty:
        raise BadInput(
            f"{faulty} of {len(files)} layouts are not sound in {labels.name}; "
            "each is named on stdout with what to do"
        )


@command.command("map", epilog=MAP_EPILOG)
@click.argument("source", metavar="SRC", type=click.Path(path_type=Path))
@click.argument("target", metavar="DST", type=click.Path(path_type=Path))
@click.option(
    "--from", "--labels", "before", metavar="NAME|FILE.toml", required=True, help="Set of SRC."
)
@click.option("--to", "after", metavar="NAME|FILE.toml", help="Set of DST. Default: that of SRC.")
@click.option(
    "--table",
    type=click.Path(path_type=Path),
    metavar="FILE.toml",
    help="Class name before = class name after, where sets differ.",
)
@click.option("--overwrite", is_flag=True, help="Replace files that exist.")
@reading_options
@click.option("--json", "as_json", is_flag=True, help="Print lines of JSON.")
def map_layouts(
    source: Path,
    target: Path,
    before: str,
    after: str | None,
    table: Path | None,
    overwrite: bool,
    encoding: Any,
    unknown: Any,
    as_json: bool,
) -> None:
    """Rewrite a layout, or a folder of them, as plain PNG of ids.

    The index of a pixel is its channel in the set of DST (`labels show` lists them; for Cityscapes
    that is the train id) and the palette holds the set's colours.
    """
    from crn_fast import layout
    from crn_fast.palette import check_map, label_set, parse_toml, read_toml
    from crn_fast.rendering import tree

    from_set, to_set = label_set(before), label_set(after or before)
    renamed = None
    if table is not None:
        entries = parse_toml(read_toml(table), str(table))
        renamed = check_map(entries, str(table), from_set.names, to_set.names)
    below = kind_of(source) == "folder"
    if below:
        pairs = [(file, target / file.relative_to(source)) for file in _layouts(source)]
    else:
        pairs = [(source, target / source.name if kind_of(target) == "folder" else target)]
    if not overwrite and (there := [path for _, path in pairs if kind_of(path) != "missing"]):
        raise UsageError(
            f"{there[0]}: exists already (and {len(there) - 1} more); add `--overwrite` or name "
            "another DST"
        )
    if same := [path for file, path in pairs if path.exists() and path.samefile(file)]:
        raise UsageError(f"{same[0]}: is the layout itself; name another DST")
    faulty = 0
    for file, path in pairs:
        try:
            found = layout.read(file, from_set, encoding=encoding, unknown=unknown)
            lost = "void" if unknown == "void" else "error"
            mapped = layout.convert(found, to_set, renamed, unknown=lost)  # type: ignore[arg-type]
            if below:
                tree.place(target, PurePosixPath(path.relative_to(target)))
            else:
                make_folder(path.parent)
            layout.write(mapped, path)
        except (BadInput, Mismatch) as error:
            if len(pairs) == 1:
                raise
            faulty += 1
            click.echo(one_line(str(error)), err=True)
            continue
        line = {"source": str(file), "path": str(path), "encoding": found.encoding}
        emit(line if as_json else path)
    if faulty:
        raise PartlyDone(f"{faulty} of {len(pairs)} layouts were not mapped; each is named above")
    say(f"next: crn-fast labels check {quote(str(target))} --labels {quote(after or before)}")


def _layouts(path: Path) -> list[Path]:
    """The PNG files in a folder and below, sorted; a file stands for itself.

    Raises:
        BadInput: a folder without any.
    """
    from crn_fast.rendering import tree

    if kind_of(path) != "folder":
        return [path]
    found = list(tree.layouts_below(path))
    if not found:
        raise BadInput(f"{path}: no .png in this folder or below; layouts are PNG files")
    return sorted(found)


def _classes_table(labels: LabelSet) -> Table:
    from rich.text import Text

    twice = labels.train_ids is not None
    table = _new_table("channel", "class", "ids", *(["train ids"] if twice else []), "colour", "")
    for i, (name, color) in enumerate(zip(labels.names, labels.colors, strict=True)):
        numbers = [_values(labels.ids, i), *([_values(labels.train_ids or {}, i)] if twice else [])]
        swatch = Text("      ", style=f"on rgb({color[0]},{color[1]},{color[2]})")
        mark = " (void)" if i == labels.void else ""
        hexadecimal = f"#{bytes(color).hex()}"
        table.add_row(str(i), Text(name + mark), *numbers, hexadecimal, swatch)
    return table


def _values(table: Any, channel: int) -> str:
    return " ".join(str(value) for value, to in table.items() if to == channel)


def _shares_table(labels: LabelSet, pixels: np.ndarray, having: np.ndarray) -> Table:
    """The classes that occur, the most frequent first."""
    from rich.text import Text

    table = _new_table("class", "pixels", "in layouts")
    for i in (-pixels).argsort(kind="stable"):
        if pixels[i]:
            share = 100 * pixels[i] / pixels.sum()
            table.add_row(Text(labels.names[i]), f"{share:.3f} %", str(having[i]))
    return table


def _new_table(*columns: str) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in ("channel", "pixels") else "left")
    return table


def _print_table(table: Table) -> None:
    """Full width where the output is no terminal, so that nothing is cut or wrapped."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=200)
    console.print(table)
