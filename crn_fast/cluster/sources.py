"""Where layouts come from, in units that one task renders: some files, a row group, a tar.

Nothing here decodes a layout, and of Parquet files and tars only what is asked for is read.
"""

from __future__ import annotations

import hashlib
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crn_fast.errors import BadInput
from crn_fast.files import kind_of
from crn_fast.rendering import tree
from crn_fast.rendering.manifest import sha256_of

SETS = (".parquet", ".tar")
LARGEST = 1 << 28
"""Bytes of a layout in a tar, which may say that it is any size: more than any PNG that is read."""
ROWS = 64
"""Rows of a Parquet file that are in memory at a time."""


@dataclass(frozen=True)
class Job:
    """One layout."""

    name: str
    """In the manifest and in messages."""
    id: str
    """Where it lies in the tree, without ending; or what its set calls it."""
    source: Path | bytes | None
    """None where its set has nothing in its place."""

    def sha256(self) -> str | None:
        """Of its bytes; None where it cannot be read."""
        try:
            if isinstance(self.source, Path):
                return sha256_of(self.source)
        except OSError:
            return None
        return None if self.source is None else hashlib.sha256(self.source).hexdigest()


@dataclass(frozen=True)
class FolderUnit:
    """Some layouts of a folder."""

    stem: str
    files: tuple[tuple[Path, PurePosixPath], ...]
    """Path of each, and where it lies in the tree."""

    @property
    def names(self) -> tuple[str, ...]:
        """Of its layouts, as far as they are known before it is read."""
        return tuple(str(path) for path, _ in self.files)

    def jobs(self) -> Iterator[Job]:
        for path, name in self.files:
            yield Job(str(path), name.with_suffix("").as_posix(), path)


@dataclass(frozen=True)
class ParquetUnit:
    """A row group of a Parquet file: a column of ids, and one of PNG files or raw ids."""

    stem: str
    path: Path
    group: int
    first: int
    """Number of its first row in the file."""
    columns: tuple[str, str]

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.path}:{self.first}",)

    def jobs(self) -> Iterator[Job]:
        """Raises BadInput where the file is damaged."""
        import pyarrow as pa

        row = self.first
        try:
            for batch in _parquet(self.path).iter_batches(
                ROWS, row_groups=[self.group], columns=list(self.columns)
            ):
                ids, layouts = (batch.column(name).to_pylist() for name in self.columns)
                for id, data in zip(ids, layouts, strict=True):
                    data = data.get("bytes") if isinstance(data, dict) else data
                    if data is not None and not isinstance(data, bytes):
                        kind = batch.schema.field(self.columns[1]).type
                        raise BadInput(
                            f"{self.path}: row {row}: column {self.columns[1]!r} is {kind}; "
                            "expected bytes: a PNG, or ids of one byte"
                        )
                    yield Job(f"{self.path}:{row}", str(id), data)
                    row += 1
        except (pa.ArrowException, OSError) as error:
            raise BadInput(f"{self.path}: row {row} cannot be read ({error})") from None


@dataclass(frozen=True)
class TarUnit:
    """A shard of a WebDataset: the files of a sample have one name up to the first dot."""

    stem: str
    path: Path
    member: str
    """What the layout's name ends in, after that dot."""

    @property
    def names(self) -> tuple[str, ...]:
        return (str(self.path),)

    def jobs(self) -> Iterator[Job]:
        """Raises BadInput where the file is damaged."""
        key, data = None, None
        try:
            with tarfile.open(self.path) as archive:
                for entry in archive:
                    if not entry.isfile():
                        continue
                    folder, slash, name = entry.name.rpartition("/")
                    stem, _, ending = name.partition(".")
                    if (found := folder + slash + stem) != key:
                        if key is not None:
                            yield Job(f"{self.path}:{key}", key, data)
                        key, data = found, None
                    if ending == self.member and (stream := archive.extractfile(entry)):
                        if entry.size > LARGEST:
                            raise ValueError(f"{entry.name!r} would be {entry.size} bytes")
                        data = stream.read()
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise BadInput(f"{self.path}: cannot be read as a tar ({error})") from None
        if key is not None:
            yield Job(f"{self.path}:{key}", key, data)


Unit = FolderUnit | ParquetUnit | TarUnit


def find(
    sources: Sequence[str], out: Path, *, id_column: str, layout_column: str | None, chunk: int
) -> list[Unit]:
    """The units of what the user named, in order of path.

    Args:
        sources: as for `tree.find`, of PNG files, of .parquet or of .tar. A folder is searched for
            PNG files, and if it has none for the others.
        out: the folder of pictures, which is left out.
        id_column: of Parquet files.
        layout_column: of Parquet files, 'layout' for None; in tars, what a layout's name ends in
            after the key, 'png' for None.
        chunk: layouts of a folder in a unit.

    Raises:
        BadInput: nothing found, files of several kinds, or a Parquet file that cannot be read.
        UsageError, ResourceError: as `tree.find`.
    """
    found = _search(sources, out)
    endings = {path.suffix.lower() for path, _ in found.files}
    if not endings & set(SETS):
        chunks = range(0, len(found.files), chunk)
        return [
            FolderUnit(f"part-{number:05}", found.files[start : start + chunk])
            for number, start in enumerate(chunks)
        ]
    if len(endings) > 1:
        kinds = ", ".join(sorted(endings))
        raise BadInput(f"{sources[0]}: files of several kinds ({kinds}); name one kind at a time")
    if endings == {".tar"}:
        return [
            TarUnit(name.with_suffix("").as_posix(), path, layout_column or "png")
            for path, name in found.files
        ]
    columns = (id_column, layout_column or "layout")
    units: list[Unit] = [
        unit
        for path, name in found.files
        for unit in _groups(path, name.with_suffix("").as_posix(), columns)
    ]
    if not units:
        raise BadInput(f"{sources[0]}: holds no layouts; expected Parquet files with rows")
    return units


def _search(sources: Sequence[str], out: Path) -> tree.Found:
    try:
        return tree.find(sources, out)
    except BadInput:
        if len(sources) > 1 or kind_of(sources[0]) != "folder":
            raise
        for ending in SETS:
            try:
                return tree.find([f"{sources[0]}/**/*{ending}"], out)
            except BadInput:
                continue
        raise BadInput(f"{sources[0]}: no .png, .parquet or .tar in this folder or below") from None


def _groups(path: Path, stem: str, columns: tuple[str, str]) -> Iterator[ParquetUnit]:
    file = _parquet(path)
    there = file.schema_arrow.names
    if missing := [name for name in columns if name not in there]:
        raise BadInput(f"{path}: no column {missing[0]!r}; it has {', '.join(there)}")
    first = 0
    for group in range(file.num_row_groups):
        if rows := file.metadata.row_group(group).num_rows:
            yield ParquetUnit(f"{stem}-{group:05}", path, group, first, columns)
            first += rows


def _parquet(path: Path) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path}: cannot be read as Parquet ({error})") from None
