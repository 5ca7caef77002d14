"""Label sets: which classes a network knows, and how files write them down.

A label set is data. The built-in ones are TOML files beside this module, in the very format that
a user writes for a set of their own:

    name = "garden"                 # optional; else the file's name
    void = "nothing"                # optional: the class that stands for 'none of them'
    note = "..."                    # optional: a line for people
    classes = [                     # in the network's channel order, at most 255
      { name = "lawn", color = [80, 200, 60] },
      { name = "path", color = [150, 150, 140], other_colors = [[151, 150, 140]] },
      { name = "nothing", color = [0, 0, 0] },
    ]
    [map.camvid]                    # optional: what a class becomes in another set,
    lawn = "tree"                   # where the names differ

A class may also have `ids`, the values that stand for it in a file of ids (-1..65535), and
`train_ids`, the same for the second numbering that Cityscapes has. Either every class has `ids` or
none has; without them the id is the channel. The same holds for `color`; without them distinct
colours are made up. `other_colors` are read as the class but never painted.

What a *picture* says is `layout`'s business; this module opens no images.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from crn_fast.errors import BadInput, UsageError
from crn_fast.files import nearest, require_file
from crn_fast.spec import MAX_CLASSES

Color = tuple[int, int, int]

BUILTIN = ("cityscapes", "camvid", "nyu40", "ade20k")

_FILE_LIMIT = 1 << 18
_DOTS = 64
"""On a line of TOML, outside quotes. A key of a hundred thousand parts takes Python gigabytes and
minutes."""
_QUOTED = re.compile(rb"\"(?:[^\"\\]|\\.)*\"?|'[^']*'?")
"""Texts on a line of TOML. One that does not end is of a comment or an error, as all after it."""
_TOP_KEYS = ("name", "void", "note", "classes", "map")
_CLASS_KEYS = ("name", "color", "ids", "train_ids", "other_colors")


@dataclass(frozen=True)
class LabelSet:
    """The classes of a network and their encodings in files. Build one by `label_set`.

    Colours are distinct over channels, and no id, train id or colour stands for two classes.
    """

    name: str
    names: tuple[str, ...]
    """Class name of each channel."""
    colors: tuple[Color, ...]
    """Colour of each channel as it is painted: R, G, B in 0..255."""
    void: int | None
    """Channel of 'none of them', if the set has one."""
    ids: Mapping[int, int] = field(hash=False)
    """Value in a file of ids -> channel. Several values may share one."""
    train_ids: Mapping[int, int] | None = field(default=None, hash=False)
    """Value in a file of train ids -> channel, for sets with a second numbering."""
    other_colors: Mapping[Color, int] = field(default_factory=dict, hash=False)
    """Further colours that are read as a channel."""
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict, hash=False)
    """Other set -> (class name here -> class name there), where the names differ."""
    note: str = ""

    @property
    def classes(self) -> int:
        """Number of channels."""
        return len(self.names)

    @property
    def color_channels(self) -> dict[Color, int]:
        """Every colour that can be read -> channel."""
        return {color: i for i, color in enumerate(self.colors)} | dict(self.other_colors)

    def to_json(self) -> str:
        """The whole set as one line of JSON, as checkpoints and engines carry it."""

        def values_of(table: Mapping[Any, int], channel: int) -> list[Any]:
            return [value for value, to in table.items() if to == channel]

        classes: list[dict[str, Any]] = []
        for i, (name, color) in enumerate(zip(self.names, self.colors, strict=True)):
            entry = {"name": name, "color": color, "ids": values_of(self.ids, i)}
            if self.train_ids is not None:
                entry["train_ids"] = values_of(self.train_ids, i)
            entry["other_colors"] = values_of(self.other_colors, i)
            classes.append(entry)
        document: dict[str, Any] = {"name": self.name, "note": self.note, "classes": classes}
        if self.void is not None:
            document["void"] = self.names[self.void]
        maps = {name: dict(table) for name, table in self.maps.items()}
        return json.dumps(document | {"map": maps})

    @classmethod
    def from_json(cls, text: str, *, source: str = "label set") -> LabelSet:
        """Read what `to_json` wrote.

        Raises:
            BadInput: not JSON, or no valid label set; the message names `source`, key and value.
        """
        try:
            document = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BadInput(f"{source}: not valid JSON ({error})") from None
        return _build(document, source, "label set")


def label_set(name_or_path: str | Path) -> LabelSet:
    """A built-in label set by its name, or a user's by the path of its TOML file.

    Raises:
        UsageError: neither a built-in name nor a path.
        BadInput: the file is missing, is no TOML or no label set; file, key and value are named.
        ResourceError: the file may not be read.
    """
    if str(name_or_path) in BUILTIN:
        from importlib.resources import files

        resource = files("crn_fast") / "labels" / f"{name_or_path}.toml"
        return _parse(resource.read_bytes(), f"{name_or_path}.toml", str(name_or_path))
    path = Path(name_or_path)
    if path.suffix != ".toml" and path.name == str(name_or_path):
        raise UsageError(
            f"label set {str(name_or_path)!r} is unknown; built in are {', '.join(BUILTIN)}; "
            "for a set of your own give the path of its .toml file"
        ).instead_of(str(name_or_path), *nearest(str(name_or_path), BUILTIN))
    return _parse(read_toml(path), str(path), path.stem)


def read_toml(path: Path) -> bytes:
    """The bytes of a small text file, at most 256 KiB.

    Raises:
        BadInput: missing, no regular file, too large.
        ResourceError: it may not be read.
    """
    require_file(path, "a TOML file")
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_LIMIT + 1)
    except OSError as error:
        raise BadInput(f"{path}: cannot be read ({error})") from None
    if len(data) > _FILE_LIMIT:
        raise BadInput(f"{path}: larger than {_FILE_LIMIT} bytes; expected a small TOML file")
    return data


def parse_toml(data: bytes, source: str) -> dict[str, Any]:
    """TOML text as plain values.

    Raises:
        BadInput: not UTF-8 or not TOML; the message names `source` and the line.
    """
    # With a string of several lines, a line may begin inside quotes: then all dots count.
    several = b'"""' in data or b"'''" in data
    for number, line in enumerate(data.split(b"\n"), start=1):
        if (line if several else _QUOTED.sub(b"", line)).count(b".") > _DOTS:
            raise BadInput(f"{source}: line {number} has more than {_DOTS} dots; break it up")
    try:
        return tomllib.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{source}: not valid TOML ({error})") from None


def _parse(data: bytes, source: str, stem: str) -> LabelSet:
    return _build(parse_toml(data, source), source, stem)


def _build(document: Any, source: str, stem: str) -> LabelSet:
    """Check plain values from TOML or JSON and make the label set."""
    document = _table(document, source, "the file", _TOP_KEYS)
    name = _text(document.get("name", stem), source, "name")
    entries = document.get("classes")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_CLASSES:
        found = f"{len(entries)} of them" if isinstance(entries, list) else _short(entries)
        raise BadInput(
            f"{source}: classes: found {found}; expected a list of 1 to {MAX_CLASSES} tables "
            'such as { name = "sky", color = [70, 130, 180] }'
        )
    for i, entry in enumerate(entries):
        _table(entry, source, f"classes[{i}]", _CLASS_KEYS)

    names: dict[Any, int] = {}
    for i, entry in enumerate(entries):
        _add(names, _text(entry.get("name"), source, f"classes[{i}].name"), i, source, "name", [])
    spelled: list[str] = list(names)

    colors: dict[Any, int] = {}
    if _all_or_none(entries, "color", source):
        for i, entry in enumerate(entries):
            color = _color(entry["color"], source, f"classes[{i}].color")
            _add(colors, color, i, source, "color", spelled)
    else:
        colors = {_made_up_color(i): i for i in range(len(entries))}
    painted = tuple(colors)
    for i, entry in enumerate(entries):
        for value in _list(entry.get("other_colors", []), source, f"classes[{i}].other_colors"):
            color = _color(value, source, f"classes[{i}].other_colors")
            _add(colors, color, i, source, "color", spelled)

    ids = {i: i for i in range(len(entries))}
    if _all_or_none(entries, "ids", source):
        ids = _ids(entries, "ids", source, spelled)
    train_ids = None
    if any("train_ids" in entry for entry in entries):
        train_ids = _ids(entries, "train_ids", source, spelled)

    void = document.get("void")
    if void is not None and void not in spelled:
        raise BadInput(f"{source}: void is {_short(void)}; expected the name of one of the classes")
    return LabelSet(
        name=name,
        names=tuple(spelled),
        colors=painted,
        void=None if void is None else spelled.index(void),
        ids=ids,
        train_ids=train_ids,
        other_colors={color: i for color, i in colors.items() if color not in painted},
        maps=_maps(document.get("map", {}), source, spelled),
        note=_text(document["note"], source, "note") if document.get("note") else "",
    )


def _maps(tables: Any, source: str, names: list[str]) -> dict[str, dict[str, str]]:
    if not isinstance(tables, dict):
        raise BadInput(f"{source}: map is {_short(tables)}; expected tables such as [map.camvid]")
    for other, table in tables.items():
        check_map(table, f"{source}: map.{_text(other, source, 'a key of map')}", names)
    return tables


def check_map(
    table: Any, source: str, names: Collection[str], others: Collection[str] | None = None
) -> dict[str, str]:
    """A table 'class name here = class name there'; `names` are those here, `others` those there.

    Raises:
        BadInput: not such a table; the message names `source`, key and value.
    """
    if not isinstance(table, dict):
        raise BadInput(f"{source} is {_short(table)}; expected a table of class names")
    for here, there in table.items():
        if here not in names:
            raise BadInput(f"{source}: {_short(here)} is no class of the set it maps from")
        if not isinstance(there, str) or (others is not None and there not in others):
            raise BadInput(
                f"{source}: {here} is {_short(there)}; expected the name of a class of the set it "
                "maps to"
            )
    return table


def _ids(entries: list[Any], key: str, source: str, names: list[str]) -> dict[int, int]:
    table: dict[Any, int] = {}
    for i, entry in enumerate(entries):
        where = f"classes[{i}].{key}"
        for value in _list(entry.get(key, []), source, where):
            if not isinstance(value, int) or isinstance(value, bool) or not -1 <= value <= 65535:
                raise BadInput(
                    f"{source}: {where} has {_short(value)}; expected integers in -1..65535"
                )
            _add(table, value, i, source, key, names)
    return table


def _add(
    table: dict[Any, int], value: Any, channel: int, source: str, key: str, names: list[str]
) -> None:
    if value in table:
        shown = list(value) if isinstance(value, tuple) else value
        first, second = (
            f"classes[{i}]" + (f" ({names[i]})" if names else "") for i in (table[value], channel)
        )
        raise BadInput(
            f"{source}: {key} {_short(shown)} is in both {first} and {second}; give it once"
        )
    table[value] = channel


def _all_or_none(entries: list[Any], key: str, source: str) -> bool:
    having = [key in entry for entry in entries]
    if any(having) and not all(having):
        i = having.index(False)
        raise BadInput(
            f"{source}: classes[{i}] ({entries[i]['name']}) has no {key}, others have; "
            f"give every class {key} or none"
        )
    return all(having)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _table(value: Any, source: str, where: str, known: tuple[str, ...]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadInput(f"{source}: {where} is {_short(value)}; expected a table")
    if unknown := sorted(set(value) - set(known)):
        raise BadInput(
            f"{source}: {where}: unknown key {_short(unknown[0])}; known are {', '.join(known)}"
        )
    return value


def _text(value: Any, source: str, where: str) -> str:
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= 200:
        raise BadInput(f"{source}: {where} is {_short(value)}; expected one line of text")
    return value


def _list(value: Any, source: str, where: str) -> list[Any]:
    if not isinstance(value, list):
        raise BadInput(f"{source}: {where} is {_short(value)}; expected a list")
    return value


def _color(value: Any, source: str, where: str) -> Color:
    whole = isinstance(value, list) and all(type(part) is int for part in value)
    if not whole or len(value) != 3 or not all(0 <= part <= 255 for part in value):
        raise BadInput(
            f"{source}: {where} is {_short(value)}; expected three integers in 0..255, "
            "as in [70, 130, 180]"
        )
    return value[0], value[1], value[2]


def _made_up_color(channel: int) -> Color:
    """Distinct colours for 0..255: the channel's bits, dealt out from the high bits down.

    Source: the colour map of the PASCAL VOC development kit.
    """
    red = green = blue = 0
    for bit in range(8):
        shift, low = 7 - bit, channel >> (3 * bit)
        red |= (low & 1) << shift
        green |= (low >> 1 & 1) << shift
        blue |= (low >> 2 & 1) << shift
    return red, green, blue
