"""What runs on the machines: opens the engine once, then renders unit after unit.

There is no Ray here. Reading and encoding are threads beside the engine, as in `crn-fast render`,
and not stages of Ray's: pictures, which are many times larger than the files that they come from
and go to, so never leave the process.
"""

from __future__ import annotations

import os
import platform
import traceback
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from crn_fast import image, trust
from crn_fast.cluster.options import Options
from crn_fast.cluster.sinks import STAGING, FolderSink, ShardSink, Sink, To
from crn_fast.cluster.sources import Job, Unit
from crn_fast.cluster.wire import Result, read_unit, write_result
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, CrnError, ResourceError
from crn_fast.layout import LabelMap, check_reading
from crn_fast.rendering import pipeline
from crn_fast.rendering.manifest import Entry, Output, finished, sha256_of

ATTEMPTS = 4
"""At a unit, before it counts as failed."""

Item = pipeline.Item[Job, tuple[Output, ...]]


@dataclass(frozen=True)
class Plan:
    """What every worker is told."""

    model: Path
    how: Options
    out: Path
    to: To
    threads: int
    """CPU threads of the engine, and of reading and encoding beside it."""
    skip_existing: bool
    keep_going: bool
    vouched: tuple[str, ...]
    """Engines that the user trusts, by SHA-256."""


class Renderer:
    """For Ray Data's `map_batches`: units in, results out: see `wire`."""

    def __init__(self, plan: Plan) -> None:
        self._plan, self._how = plan, plan.how
        self._problem: Exception | None = None
        try:
            self._open()
        except CrnError as error:
            self._problem = error  # Ray itself would only say that a worker did not start.

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        units = [read_unit(str(unit)) for unit in batch["unit"]]
        return {"result": [write_result(self.render(number, unit)) for number, unit in units]}

    def render(self, number: int, unit: Unit) -> Result:
        """Render a unit's layouts; nothing is raised."""
        result = Result(number)
        try:
            if self._problem is not None:
                raise self._problem
            with self._attempt(number, unit):
                self._render(unit, result)
        except _Abandoned as error:
            self._fail(unit, result, error)
        except CrnError as error:
            result.error = error
        except Exception:
            result.error = RuntimeError(traceback.format_exc())
        return result

    def _open(self) -> None:
        for digest in self._plan.vouched:
            trust.vouch(digest)
        self._engine = Engine.open(
            self._plan.model,
            backend=self._how.backend,
            precision=self._how.precision,
            threads=self._plan.threads,
        )
        self._labels = self._how.labels_of(self._engine)
        check_reading(self._labels, self._how.encoding, self._how.unknown)
        self._count = self._how.count(self._engine.spec.images)
        self._about = self._how.about(self._engine)
        self._done = finished(self._plan.out) if self._plan.skip_existing else {}

    def _render(self, unit: Unit, result: Result) -> None:
        sink = self._sink(unit)
        try:
            if self._plan.to != "folder" and (there := self._whole_shard(unit)):
                result.skipped = there
                return
            self._fill(unit, sink, result)
        except _Unreadable as error:
            self._fail(unit, result, error)
        finally:
            sink.discard()

    @contextmanager
    def _attempt(self, number: int, unit: Unit) -> Iterator[None]:
        """Ray takes up the units of dead workers for ever; what kills them is to stop them.

        Each attempt has a file, with machine and process, which stays if the process dies.
        """
        staging = self._plan.out / STAGING
        if len(list(staging.glob(f"{number}.*"))) >= ATTEMPTS:
            raise _Abandoned(
                f"{unit.names[0]}: {ATTEMPTS} workers died over it or the layouts that come after "
                "it, perhaps for want of memory; give each more of it, or a smaller --batch"
            )
        mark = staging / f"{number}.{uuid4().hex}"
        try:
            try:
                mark.write_text(f"{platform.node()} {os.getpid()}")
            except OSError as error:
                raise ResourceError(f"{mark}: cannot be written ({error.strerror})") from error
            yield
        finally:
            mark.unlink(missing_ok=True)

    def _fail(self, unit: Unit, result: Result, error: CrnError) -> None:
        result.entries = [self._entry(Job(name, "", None), error) for name in unit.names]
        result.error = None if self._plan.keep_going else error

    def _sink(self, unit: Unit) -> Sink:
        out, to, ending = self._plan.out, self._plan.to, self._how.ending
        if to == "folder":
            return FolderSink(out, ending, self._count, max(2, self._plan.threads))
        return ShardSink(out, unit.stem, to, ending, self._count)

    def _fill(self, unit: Unit, sink: Sink, result: Result) -> None:
        def read(job: Job) -> LabelMap | None:
            names = tuple(name.as_posix() for name in sink.names(job))
            if self._plan.to == "folder" and self._is_whole(job, names):
                return None
            if job.source is None:
                raise BadInput(f"{job.name}: its set holds no layout here")
            return self._how.read(job.source, job.name, self._labels, self._engine)

        def write(item: Item) -> tuple[Output, ...]:
            assert item.pictures is not None
            encoded = [
                image.encode(picture, self._how.ending, self._how.quality)
                for picture in item.pictures[: self._count]
            ]
            return sink.put(item.job, encoded)

        batch, threads = self._how.batch, max(2, self._plan.threads)
        flow = pipeline.flow(
            pipeline.read(_jobs(unit), read, threads=threads, batch=batch),
            self._engine.render,
            write,
            batch=batch,
            threads=sink.threads,
        )
        with closing(flow) as items:
            for item in items:
                if item.error is not None:
                    result.entries.append(self._entry(item.job, item.error, item.unreadable))
                    if not self._plan.keep_going or isinstance(item.error, ResourceError):
                        result.error = item.error
                        break
                    continue
                if self._plan.to == "folder":
                    names = sink.names(item.job)
                    result.owners += [(name.as_posix(), item.job.name) for name in names]
                if item.result is None:
                    result.skipped += 1
                else:
                    entry = self._entry(item.job, outputs=item.result)
                    result.entries.append(replace(entry, ms=round(1e3 * item.seconds, 2)))
        if self._plan.to == "folder":
            return
        if result.error is not None:  # The shard is not written, so no layout of it is done.
            result.entries = [entry for entry in result.entries if entry.status == "failed"]
            return
        shard = sink.close()
        result.entries = [
            replace(entry, outputs=shard) if entry.status == "done" else entry
            for entry in result.entries
        ]

    def _entry(
        self,
        job: Job,
        error: CrnError | None = None,
        unreadable: bool = True,
        outputs: tuple[Output, ...] = (),
    ) -> Entry:
        return Entry(
            input=job.name,
            input_sha256=None if error and unreadable else job.sha256(),
            outputs=outputs,
            status="failed" if error else "done",
            error=" ".join(str(error).split()) if error else None,
            **self._about,
        )

    def _is_whole(self, job: Job, names: tuple[str, ...]) -> bool:
        """Whether the manifest and the files say that a layout's pictures are there."""
        known = [entry for entry in self._done.get(names, ()) if self._fit([entry])]
        digest = job.sha256() if known else None
        return any(entry.input_sha256 == digest for entry in known)

    def _whole_shard(self, unit: Unit) -> int:
        """How many layouts a unit has, if its shard is there and holds them all; else 0."""
        name = ShardSink.name_of(unit.stem, self._plan.to)
        known = {entry.input: entry for entry in self._done.get((name.as_posix(),), ())}
        if not known or not self._fit(known.values()):
            return 0
        recorded = {name: entry.input_sha256 for name, entry in known.items()}
        return len(known) if recorded == {job.name: job.sha256() for job in _jobs(unit)} else 0

    def _fit(self, entries: Collection[Entry]) -> bool:
        """Whether layouts were rendered as they would be now, and all that holds them is whole."""

        def there(output: Output) -> bool:
            try:
                return sha256_of(self._plan.out / output.path) == output.sha256
            except OSError:
                return False

        outputs = {output for entry in entries for output in entry.outputs}
        alike = all(entry.settings == self._about["settings"] for entry in entries)
        return alike and all(map(there, outputs))


class _Abandoned(ResourceError):
    """A unit that killed worker after worker."""


class _Unreadable(BadInput):
    """The file that holds a unit's layouts is damaged."""


def _jobs(unit: Unit) -> Iterator[Job]:
    try:
        yield from unit.jobs()
    except BadInput as error:
        raise _Unreadable(str(error)) from error
