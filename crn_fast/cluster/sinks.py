"""Where pictures go: a folder of them, or a Parquet file or tar for each unit.

Whatever is written is written in a folder of its own, `STAGING`, and moved whole under its final
name. A process that is killed so leaves its half-written files where they go with that folder, and
the one that takes up its task writes the same bytes under the same names.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any, Literal, Protocol
from uuid import uuid4

from crn_fast.cluster.sources import ROWS, Job
from crn_fast.errors import BadInput, ResourceError
from crn_fast.rendering import tree
from crn_fast.rendering.manifest import Output, sha256_of

To = Literal["folder", "parquet", "webdataset"]
ENDINGS = {"parquet": ".parquet", "webdataset": ".tar"}
STAGING = ".crn_fast-staging"
"""Name of the folder, in the folder of pictures."""


class Sink(Protocol):
    """Takes the pictures of one unit."""

    threads: int
    """How many may call `put`; one calls it in order."""

    def names(self, job: Job) -> tuple[PurePosixPath, ...]:
        """The files below the folder of pictures that will hold a layout's pictures.

        Raises:
            BadInput: its id is no name for a file.
        """

    def put(self, job: Job, pictures: Sequence[bytes]) -> tuple[Output, ...]:
        """Take a layout's encoded pictures; returns the files that hold them, if they are whole."""

    def close(self) -> tuple[Output, ...]:
        """Finish; returns the file that holds all that was put, if it is one."""

    def discard(self) -> None:
        """Leave nothing of a unit that was not closed."""


class FolderSink:
    """Each picture is a file."""

    def __init__(self, out: Path, ending: str, count: int, most_threads: int) -> None:
        self.threads = most_threads
        self._out, self._ending, self._count = out, ending, count
        self._taken: set[PurePosixPath] = set()

    def names(self, job: Job) -> tuple[PurePosixPath, ...]:
        return tree.picture_names(PurePosixPath(_safe(job) + ".png"), self._ending, self._count)

    def put(self, job: Job, pictures: Sequence[bytes]) -> tuple[Output, ...]:
        names = self.names(job)
        if not self._taken.isdisjoint(names):
            raise BadInput(f"{job.name}: another layout of its file has the id {job.id!r}, too")
        self._taken.update(names)
        for name, data in zip(names, pictures, strict=True):
            file = Staged(self._out, name)
            try:
                with file.reported():
                    file.stream.write(data)
                file.commit()
            finally:
                file.discard()
        digests = (hashlib.sha256(data).hexdigest() for data in pictures)
        return tuple(Output(n.as_posix(), d) for n, d in zip(names, digests, strict=True))

    def close(self) -> tuple[Output, ...]:
        return ()

    def discard(self) -> None:
        pass


class ShardSink:
    """All pictures of a unit are in one file, in order."""

    threads = 1

    def __init__(self, out: Path, stem: str, to: To, ending: str, count: int) -> None:
        self._out, self._name = out, self.name_of(stem, to)
        marks = [""] if count == 1 else [f"_{k}" for k in range(count)]
        kind = _Parquet if to == "parquet" else _Tar
        self._open: Callable[[IO[bytes]], _Parquet | _Tar] = partial(kind, marks, ending)
        self._strict = to == "webdataset"
        self._file: Staged | None = None
        self._writer: _Parquet | _Tar | None = None

    @staticmethod
    def name_of(stem: str, to: To) -> PurePosixPath:
        """The file of a unit, below the folder of pictures."""
        return PurePosixPath(stem + ENDINGS[to])

    def names(self, job: Job) -> tuple[PurePosixPath, ...]:
        if self._strict:
            _safe(job)
        return (self._name,)

    def put(self, job: Job, pictures: Sequence[bytes]) -> tuple[Output, ...]:
        if self._file is None or self._writer is None:
            self._file = Staged(self._out, self._name)
            self._writer = self._open(self._file.stream)
        with self._file.reported():
            self._writer.add(job.id, pictures)
        return ()

    def close(self) -> tuple[Output, ...]:
        if self._file is None or self._writer is None:
            return ()
        with self._file.reported():
            self._writer.close()
        self._file.commit()
        return (Output(self._name.as_posix(), sha256_of(self._out / self._name)),)

    def discard(self) -> None:
        if self._file is not None:
            self._file.discard()


class _Parquet:
    """Columns `id` and `picture`, or `picture_0`, `picture_1`, ..."""

    def __init__(self, marks: Sequence[str], ending: str, stream: IO[bytes]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        fields = [("id", pa.string()), *((f"picture{mark}", pa.binary()) for mark in marks)]
        self._schema = pa.schema(fields)
        self._writer = pq.ParquetWriter(stream, self._schema, compression="none")
        self._rows: list[tuple[Any, ...]] = []

    def add(self, id: str, pictures: Sequence[bytes]) -> None:
        self._rows.append((id, *pictures))
        if len(self._rows) == ROWS:
            self._flush()

    def close(self) -> None:
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        import pyarrow as pa

        if self._rows:
            columns = [list(column) for column in zip(*self._rows, strict=True)]
            self._writer.write_table(pa.table(columns, schema=self._schema))
            self._rows = []


class _Tar:
    """KEY.png, or KEY.0.png, KEY.1.png, ...; nothing in it depends on when or where it is made."""

    def __init__(self, marks: Sequence[str], ending: str, stream: IO[bytes]) -> None:
        self._archive = tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115
        self._endings = [f"{mark.replace('_', '.')}.{ending}" for mark in marks]

    def add(self, id: str, pictures: Sequence[bytes]) -> None:
        for ending, data in zip(self._endings, pictures, strict=True):
            entry = tarfile.TarInfo(id + ending)
            entry.size = len(data)
            self._archive.addfile(entry, BytesIO(data))

    def close(self) -> None:
        self._archive.close()


class Staged:
    """A new file in the staging folder, to be moved to its name below `out`."""

    def __init__(self, out: Path, name: PurePosixPath) -> None:
        self._target = tree.place(out, name)
        self._temporary = out / STAGING / uuid4().hex
        with self.reported():
            self.stream = self._temporary.open("xb")

    def commit(self) -> None:
        """Put the file, which is now whole, in place."""
        with self.reported():
            self.stream.flush()
            os.fsync(self.stream.fileno())
            self.stream.close()
            self._temporary.replace(self._target)

    def discard(self) -> None:
        """Remove it, unless it is in place."""
        with suppress(OSError):
            self.stream.close()
        with suppress(OSError):
            self._temporary.unlink(missing_ok=True)

    @contextmanager
    def reported(self) -> Iterator[None]:
        """What goes wrong with the file is raised as ResourceError."""
        try:
            yield
        except OSError as error:
            reason = error.strerror or error
            raise ResourceError(f"{self._target}: cannot be written ({reason})") from error


def _safe(job: Job) -> str:
    path = PurePosixPath(job.id)
    if path.is_absolute() or ".." in path.parts or path.name in ("", ".") or "\0" in job.id:
        raise BadInput(f"{job.name}: the id {job.id[:80]!r} is no name for a file below a folder")
    if path.parts[0] == STAGING:
        raise BadInput(f"{job.name}: {STAGING} is no folder for pictures; rename it")
    return job.id
