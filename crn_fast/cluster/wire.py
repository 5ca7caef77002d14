"""What travels between the one that gives out work and the workers, as JSON: units, and results.

JSON and not pickles: whoever can write into a queue of the cluster's could have a pickle run code.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path, PurePosixPath
from typing import Any

from crn_fast import errors
from crn_fast.cluster.sources import FolderUnit, ParquetUnit, TarUnit, Unit
from crn_fast.errors import CrnError
from crn_fast.rendering.manifest import Entry

KINDS: dict[str, type[Unit]] = {"folder": FolderUnit, "parquet": ParquetUnit, "tar": TarUnit}


@dataclass
class Result:
    """What became of a unit."""

    number: int
    entries: list[Entry] = field(default_factory=list)
    skipped: int = 0
    owners: list[tuple[str, str]] = field(default_factory=list)
    """Files that hold one layout's pictures, rendered or skipped, each with that layout."""
    error: Exception | None = None
    """Ends the run."""


def write_unit(number: int, unit: Unit) -> str:
    """A unit and its number."""
    kind = next(name for name, form in KINDS.items() if isinstance(unit, form))
    return json.dumps([number, kind, asdict(unit)], default=str)


def read_unit(text: str) -> tuple[int, Unit]:
    """What `write_unit` wrote."""
    number, kind, told = json.loads(text)
    if kind == "folder":
        files = tuple((Path(path), PurePosixPath(name)) for path, name in told["files"])
        return number, FolderUnit(told["stem"], files)
    told["path"] = Path(told["path"])
    if kind == "parquet":
        told["columns"] = tuple(told["columns"])
        return number, ParquetUnit(**told)
    return number, TarUnit(**told)


def write_result(result: Result) -> str:
    """A result; an error that is the user's to mend by its class and message."""
    told: dict[str, Any] = {f.name: getattr(result, f.name) for f in fields(Result)}
    told["entries"] = [entry.to_json() for entry in result.entries]
    if result.error is not None:
        kinds = [form.__name__ for form in type(result.error).__mro__ if form in _KNOWN]
        told["error"] = [kinds[0] if kinds else "", str(result.error)]
    return json.dumps(told)


def read_result(text: str) -> Result:
    """What `write_result` wrote."""
    told = json.loads(text)
    entries = [entry for line in told["entries"] if (entry := Entry.from_json(line))]
    assert len(entries) == len(told["entries"]), "a line of the manifest did not come back"
    error = None
    if told["error"]:
        kind, message = told["error"]
        error = getattr(errors, kind)(message) if kind else RuntimeError(message)
    owners = [(path, layout) for path, layout in told["owners"]]
    return Result(told["number"], entries, told["skipped"], owners, error)


_KNOWN = {
    form for form in vars(errors).values() if isinstance(form, type) and issubclass(form, CrnError)
}
