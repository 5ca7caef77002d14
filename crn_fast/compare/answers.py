"""What raters answered: a CSV file that only grows, and what it says about the two sets."""

from __future__ import annotations

import csv
import io
import math
import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from crn_fast.compare.trials import Trial
from crn_fast.errors import BadInput, ResourceError
from crn_fast.files import check_folder, kind_of, require_file

UNLIMITED = "unlimited"
MISSED = 0.1
"""Who misses more than this share of the sentinels is left out."""
QUANTILE = 1.959964
"""Of the normal distribution, for intervals of 95 %."""


@dataclass(frozen=True)
class Answer:
    """One row of the file."""

    time: str
    """UTC, ISO 8601"""
    rater: str
    trial: int
    """number in the rater's plan"""
    scene: str
    left: str
    """'a', 'b', 'real' or 'coarse'"""
    right: str
    seconds: str
    """for which the pair was to be shown, or 'unlimited'"""
    shown_ms: int
    """for which it was, as the browser measured it; 0 where there was no limit"""
    answered_ms: int
    """from the pair's appearance to the answer"""
    chosen: str
    """the source of the picture that looked more real"""

    @property
    def sentinel(self) -> bool:
        return "coarse" in (self.left, self.right)


@dataclass(frozen=True)
class Preference:
    """How often one source was preferred to another."""

    first: str
    second: str
    seconds: str
    chosen: int
    """how often the first was"""
    count: int
    low: float
    """of the interval of 95 % around chosen / count"""
    high: float


@dataclass(frozen=True)
class Summary:
    preferences: tuple[Preference, ...]
    raters: int
    left_out: tuple[str, ...]
    """raters who missed too many sentinels"""


COLUMNS = [field.name for field in fields(Answer)]
HEADER = f"{','.join(COLUMNS)}\n".encode()


def append(path: Path, answer: Answer) -> None:
    """Add one row, on disk before this returns.

    Raises:
        ResourceError: the file cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    if kind_of(path) == "missing":
        check_folder(path)
    size = path.stat().st_size if path.exists() else 0
    if not size:
        writer.writeheader()
    writer.writerow(asdict(answer))
    try:
        with path.open("ab") as stream:  # one write: a reader never sees half a row
            stream.write(text.getvalue().encode())
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        with suppress(OSError):
            # What was written of a row on a full disk; a file that it was to begin.
            os.truncate(path, size) if size else path.unlink()
        raise ResourceError(f"{path}: cannot be written ({error.strerror or error})") from None


def recover(path: Path) -> list[Answer]:
    """As `read`, after the last row was cut off if a crash left it torn.

    Raises:
        BadInput: another file.
        ResourceError: it may not be read or written.
    """
    require_file(path, "answers of crn-fast compare")
    try:
        data = path.read_bytes()
        if data and not data.endswith(b"\n") and data.startswith(HEADER):
            os.truncate(path, data.rindex(b"\n") + 1)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be mended ({error.strerror or error})") from None
    return read(path)


def read(path: Path) -> list[Answer]:
    """All rows of a file that `append` wrote.

    Raises:
        BadInput: another file, or a row that does not fit.
        ResourceError: it may not be read.
    """
    require_file(path, "answers of crn-fast compare")
    try:
        text = path.read_text("utf-8")
        reader = csv.DictReader(io.StringIO(text), strict=True)
        if reader.fieldnames != COLUMNS:
            raise ValueError(f"its columns are {reader.fieldnames}")
        return [_answer(row) for row in reader]
    except (ValueError, TypeError, csv.Error) as error:
        raise BadInput(f"{path}: no answers of crn-fast compare ({error})") from None


def _answer(row: dict[str, str]) -> Answer:
    numbers = {name: int(row.pop(name)) for name in ("trial", "shown_ms", "answered_ms")}
    answer = Answer(**row, **numbers)  # type: ignore[arg-type]
    if answer.chosen not in (answer.left, answer.right):
        raise ValueError(f"trial {answer.trial}: chosen is {answer.chosen!r}, not one of the pair")
    return answer


def fits(answer: Answer, trial: Trial) -> bool:
    """Whether an answer is one to that trial."""
    asked = (trial.scene.name, trial.left, trial.right, seconds_of(trial))
    return (answer.scene, answer.left, answer.right, answer.seconds) == asked


def seconds_of(trial: Trial) -> str:
    """A trial's time as the file has it."""
    return UNLIMITED if trial.seconds is None else f"{trial.seconds:g}"


def summarize(answers: Iterable[Answer]) -> Summary:
    """Preferences by pair of sources and time, of the raters who passed their sentinels."""
    by_rater: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        by_rater[answer.rater].append(answer)
    left_out = tuple(sorted(rater for rater, own in by_rater.items() if not attentive(own)))
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0, 0])
    for rater, own in by_rater.items():
        for answer in own:
            if rater in left_out or answer.sentinel:
                continue
            first, second = sorted((answer.left, answer.right))
            entry = counts[first, second, answer.seconds]
            entry[0] += answer.chosen == first
            entry[1] += 1
    preferences = [
        Preference(*key, chosen, count, *wilson(chosen, count))
        for key, (chosen, count) in sorted(counts.items(), key=lambda item: _by_time(item[0]))
    ]
    return Summary(tuple(preferences), len(by_rater), left_out)


def attentive(own: Sequence[Answer]) -> bool:
    """Whether a rater missed no more of the sentinels than MISSED allows."""
    sentinels = [answer for answer in own if answer.sentinel]
    return sum(answer.chosen == "coarse" for answer in sentinels) <= MISSED * len(sentinels)


def wilson(chosen: int, count: int) -> tuple[float, float]:
    """Wilson's interval of 95 % for a share: lowest and highest, 0..1 (Wilson 1927)."""
    share, squared = chosen / count, QUANTILE**2
    center = (share + squared / (2 * count)) / (1 + squared / count)
    root = math.sqrt(share * (1 - share) / count + squared / (4 * count**2))
    half = QUANTILE * root / (1 + squared / count)
    return max(0.0, center - half), min(1.0, center + half)


def _by_time(key: tuple[str, str, str]) -> tuple[str, str, float]:
    first, second, seconds = key
    return first, second, math.inf if seconds == UNLIMITED else float(seconds)
