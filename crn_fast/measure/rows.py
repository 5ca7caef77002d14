"""Benchmark rows: one JSON object a line, in one versioned form, only ever appended.

A row is either a measurement, with the error that its gate found, or says why there is none. A time
without an error cannot be written, and a file that holds one cannot be read.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from crn_fast.errors import BadInput, ResourceError
from crn_fast.files import check_folder, require_file
from crn_fast.measure.gate import Error
from crn_fast.measure.machine import Machine
from crn_fast.measure.memory import Memory
from crn_fast.measure.timer import Spread, Timing

SCHEMA = "crn_fast.benchmark/1"

Case = Mapping[str, str | int | float]


@dataclass(frozen=True)
class Origin:
    """What all rows of one run share."""

    run: str
    """Names the run: its start, UTC, and the process."""
    command: str
    """That takes it again."""
    machine: Machine
    versions: Mapping[str, str]
    commit: str


@dataclass(frozen=True)
class Row:
    """One subject in one case.

    Raises:
        BadInput: the fields do not belong together, or a number is none.
    """

    suite: str
    """'frame', 'stages', 'threads', ..."""
    case: Case
    """What was measured: network, size, batch, threads, precision, op, ..."""
    subject: str
    settings: str
    origin: Origin
    reason: str | None = None
    """Why it was not measured; None where it was."""
    wrong: bool = False
    """Whether it was not measured because its result was wrong."""
    time: Spread | None = None
    """Seconds."""
    seconds: tuple[float, ...] = ()
    """Of every round, in their order; () in rows from before this was kept."""
    error: Error | None = None
    ratios: Mapping[str, Spread] = field(default_factory=dict)
    """Peer -> how many times longer it took than this subject, round by round."""
    parts: Mapping[str, Spread] = field(default_factory=dict)
    """Part of the time -> its seconds."""
    gflops: float | None = None
    """Operations over the median time, 1e9 a second."""
    gbs: float | None = None
    """Compulsory bytes over the median time, 1e9 a second."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Ceiling -> the share of it that was reached."""
    ceilings: Mapping[str, float] = field(default_factory=dict)
    """Ceiling, as measured in the same run: GFLOP/s, or GB/s of 'copy'."""
    exponents: Mapping[str, float] = field(default_factory=dict)
    """Quantity -> the power of it that the median time grows with, fitted over all rows of this
    subject and axis in the same run: 1 where time is proportional to it."""
    memory: Mapping[str, Memory] = field(default_factory=dict)
    """'start': until the first result; 'run': of a later one."""
    contention: float | None = None
    """Share of the run's time in which something waited for a CPU: `machine.Contention`."""
    schema: str = SCHEMA

    def __post_init__(self) -> None:
        if self.schema != SCHEMA:
            raise BadInput(f"row: its schema is {self.schema!r}; this crn_fast reads {SCHEMA!r}")
        if self.reason is None and (self.time is None or self.error is None):
            raise BadInput(f"row: {self.subject} has no reason; expected a time and an error")
        figures = (self.time, self.error, self.gflops, self.gbs, *self.ratios.values())
        if self.reason is not None and (any(f is not None for f in figures) or self.seconds):
            raise BadInput(f"row: {self.subject} was not measured, but has figures")
        if self.reason is None and self.wrong:
            raise BadInput(f"row: {self.subject} is wrong, but was measured")
        _check_numbers(self.subject, asdict(self))

    @property
    def noisy(self) -> bool:
        """Whether a ratio, or where there is none the time, spreads too far to be relied upon."""
        spreads = list(self.ratios.values()) or ([self.time] if self.time else [])
        return any(spread.noisy for spread in spreads)

    def to_json(self) -> str:
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Row:
        """Read what `to_json` wrote.

        Raises:
            BadInput: not JSON, of another schema, or with a field missing, unknown or wrong.
        """
        try:
            found: Row = _build(cls, json.loads(text))
        except (ValueError, TypeError, RecursionError) as error:
            raise BadInput(f"row: cannot be read ({error})") from None
        return found


def measured(
    suite: str,
    case: Case,
    timing: Timing,
    origin: Origin,
    *,
    operations: float | None = None,
    moved: float | None = None,
    **others: Any,
) -> Row:
    """A row of a timing.

    Args:
        suite: as of `Row`.
        case: as of `Row`.
        timing: of what passed the gate.
        origin: as of `Row`.
        operations: that a run needs, each counted once.
        moved: bytes that a run must read and write.
        others: further fields of `Row`.
    """
    spread = timing.spread
    return Row(
        suite,
        case,
        timing.name,
        timing.settings,
        origin,
        time=spread,
        seconds=timing.seconds,
        error=timing.error,
        gflops=operations / spread.median / 1e9 if operations else None,
        gbs=moved / spread.median / 1e9 if moved else None,
        **others,
    )


def append(path: Path, rows: Sequence[Row]) -> None:
    """Add rows to a file, which is made if it is not there; all of them in one write.

    Raises:
        BadInput: the file's last line is not whole.
        ResourceError: it cannot be written.
    """
    check_folder(path)
    data = "".join(f"{row.to_json()}\n" for row in rows).encode()
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            size = os.fstat(descriptor).st_size
            if size and os.pread(descriptor, 1, size - 1) != b"\n":
                raise BadInput(f"{path}: its last line is not whole; mend it before appending")
            if os.write(descriptor, data) != len(data):
                os.ftruncate(descriptor, size)
                raise ResourceError(f"{path}: cannot be written: the disk is full")
        finally:
            os.close(descriptor)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error})") from None


def read(path: Path) -> list[Row]:
    """All rows of a file.

    Raises:
        BadInput: no such file, or a line is no row; it is named.
    """
    require_file(path, "benchmark rows, one JSON object a line")
    rows = []
    for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), 1):
        try:
            rows.append(Row.from_json(line))
        except BadInput as error:
            raise BadInput(f"{path}, line {number}: {error}") from None
    return rows


def _build(cls: type, values: Any) -> Any:
    """A dataclass from the dictionary of its fields, each of the type that it is declared with."""
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} is {str(values)[:40]!r}; expected an object")
    hints = get_type_hints(cls)
    if unknown := sorted(values.keys() - hints.keys()):
        raise ValueError(f"{cls.__name__} has the unknown field {unknown[0]!r}")
    return cls(**{name: _typed(hints[name], value, name) for name, value in values.items()})


def _typed(hint: Any, value: Any, name: str) -> Any:
    if get_origin(hint) is UnionType:
        if value is None and type(None) in get_args(hint):
            return None
        kinds = [kind for kind in get_args(hint) if kind is not type(None)]
        hint = next((kind for kind in kinds if type(value) is kind), kinds[-1])
    if get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise ValueError(f"{name} is {str(value)[:40]!r}; expected a list")
        return tuple(_typed(get_args(hint)[0], item, name) for item in value)
    if get_origin(hint) is Mapping:
        if not isinstance(value, dict):
            raise ValueError(f"{name} is {str(value)[:40]!r}; expected an object")
        kind = get_args(hint)[1]
        return {key: _typed(kind, item, f"{name}.{key}") for key, item in value.items()}
    if isinstance(hint, type) and is_dataclass(hint):
        return _build(hint, value)
    if type(value) not in ((int, float) if hint is float else (hint,)):
        raise ValueError(f"{name} is {str(value)[:40]!r}; expected {hint.__name__}")
    return value


def _check_numbers(subject: str, values: Any) -> None:
    if isinstance(values, dict):
        for value in values.values():
            _check_numbers(subject, value)
    elif isinstance(values, (list, tuple)):
        for value in values:
            _check_numbers(subject, value)
    elif isinstance(values, float) and not math.isfinite(values):
        raise BadInput(f"row: {subject} holds {values}, which is no number")
