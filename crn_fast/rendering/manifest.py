"""The manifest of a batch: a line of JSON for each layout that was rendered or failed.

Lines are appended as layouts finish, each in one write, so that after a crash all but the last can
be read. Of several lines about a layout the last counts. Manifests of shards join by concatenation.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from threading import Lock
from typing import Any

from crn_fast.errors import ResourceError
from crn_fast.files import explain, kind_of

PATTERN = "manifest*.jsonl"
"""The names of all manifests in a folder of pictures."""


@dataclass(frozen=True)
class Output:
    """A picture: its path below the folder of pictures, with '/', and its SHA-256."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Entry:
    """What became of one layout."""

    input: str
    """Its path, as it was found."""
    input_sha256: str | None
    outputs: tuple[Output, ...]
    status: str
    """'done' or 'failed'."""
    model: str
    model_sha256: str
    """Of its file."""
    backend: str
    precision: str
    settings: str
    """The same for the same model, backend, precision and options that decide the pictures."""
    ms: float | None = None
    """In the renderer: its share of its batch."""
    error: str | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Entry | None:
        """None for a line that is torn or not ours."""
        try:
            found: dict[str, Any] = json.loads(line)
            outputs = tuple(Output(**output) for output in found.pop("outputs"))
            if not all(isinstance(part, str) for o in outputs for part in (o.path, o.sha256)):
                return None
            known = {field.name for field in fields(cls)}
            return cls(outputs=outputs, **{k: v for k, v in found.items() if k in known})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            return None


def describe(
    model: str, backend: str, precision: str, labels: str, options: Mapping[str, Any]
) -> dict[str, Any]:
    """What every line of a manifest says of the model and the options: fields of `Entry`.

    Args:
        model: its file, or the folder of a run.
        backend: that renders.
        precision: that it renders in.
        labels: the layouts' label set, as JSON.
        options: what else decides the pictures, as `crn-fast render` names and orders it.
    """
    file = Path(model) / "ckpt.pt" if kind_of(model) == "folder" else Path(model)
    digest = sha256_of(file)
    decisive = json.dumps([digest, backend, precision, labels, dict(options)], sort_keys=True)
    return {
        "model": model,
        "model_sha256": digest,
        "backend": backend,
        "precision": precision,
        "settings": hashlib.sha256(decisive.encode()).hexdigest()[:16],
    }


class Manifest:
    """A manifest that is being written to, with the `lines` added so far. Threads may share it."""

    def __init__(self, path: Path) -> None:
        """Open for appending; the torn last line of a run that was killed is cut off.

        Raises:
            ResourceError: it cannot be written, or is a link, which may lead out of its folder.
        """
        self.path, self._lock = path, Lock()
        self.lines = 0
        if os.path.islink(path):
            raise ResourceError(f"{path}: is a link; remove it, or name another -o")
        try:
            self._file = path.open("ab+", buffering=0)
            self._cut_torn_line()
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written ({error.strerror})") from error

    def __enter__(self) -> Manifest:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, entry: Entry) -> None:
        """Append a line.

        Raises:
            ResourceError: the disk is full.
        """
        line = entry.to_json().encode("ascii") + b"\n"
        try:
            with self._lock:
                end = self._file.seek(0, os.SEEK_END)
                if self._file.write(line) != len(line):
                    self._file.truncate(end)  # else another thread's line would join the torn one
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                self.lines += 1
        except OSError as error:
            raise ResourceError(
                f"{self.path}: cannot be written: {explain(self.path, error)}"
            ) from error

    def _cut_torn_line(self) -> None:
        end = self._file.seek(0, os.SEEK_END)
        start = end
        tail = b""
        while start and b"\n" not in tail:
            start = max(0, start - (1 << 16))
            self._file.seek(start)
            tail = self._file.read(1 << 16)
        whole = start + tail.rfind(b"\n") + 1
        if whole < end:
            self._file.truncate(whole)


def read(path: Path) -> Iterator[Entry]:
    """The lines of a manifest, without those that are torn or not ours."""
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            if (entry := Entry.from_json(line)) is not None:
                yield entry


def finished(folder: Path) -> dict[tuple[str, ...], list[Entry]]:
    """The layouts that some manifest in the folder says are done, by their outputs' paths."""
    found: dict[tuple[str, ...], list[Entry]] = {}
    for path in sorted(folder.glob(PATTERN)):
        for entry in read(path) if kind_of(path) == "file" else ():
            if entry.status == "done":
                key = tuple(output.path for output in entry.outputs)
                found.setdefault(key, []).append(entry)
    return found


def is_whole(entry: Entry, folder: Path, settings: str, source: Path) -> bool:
    """Whether a layout's pictures are there, as the entry says, and would be made the same again.

    The layout, the settings and every picture must have the recorded hashes.
    """
    if entry.settings != settings:
        return False
    expected = {source: entry.input_sha256}
    expected |= {folder / output.path: output.sha256 for output in entry.outputs}
    try:
        return all(
            kind_of(path) == "file" and sha256_of(path) == digest
            for path, digest in expected.items()
        )
    except OSError:
        return False


def sha256_of(path: Path) -> str:
    """Of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
