"""`crn-fast render` of many layouts: their tree again, of pictures, and a manifest of it."""

from __future__ import annotations

import errno
import hashlib
import json
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from crn_fast import files, image, models
from crn_fast.commands import emit, say
from crn_fast.commands.progress import Progress
from crn_fast.commands.rendering import Request, announce
from crn_fast.engine import Engine
from crn_fast.errors import CrnError, Interrupted, PartlyDone, ResourceError, UsageError
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.layout import LabelMap
from crn_fast.rendering import pipeline, shard, tree
from crn_fast.rendering.manifest import (
    Entry,
    Manifest,
    Output,
    describe,
    finished,
    is_whole,
    sha256_of,
)


@dataclass(frozen=True)
class Job:
    """One layout, and its pictures by their names below the folder of pictures."""

    source: Path
    pictures: tuple[PurePosixPath, ...]


Item = pipeline.Item[Job, Entry]


def run(request: Request) -> None:
    """Render a folder, a pattern or several files into a folder."""
    part = shard.parse(request.shard)
    out = _folder(request)
    found = tree.find(request.sources, out)
    out = out or found.name
    engine = _open(request, found)
    request.check(engine)
    count, finish = request.finisher(engine)
    ending = request.picture_format or "png"
    jobs = [Job(file, tree.picture_names(name, ending, count)) for file, name in found.files]
    tree.check_distinct(((job.source, job.pictures) for job in jobs), out)
    jobs = list(part.of(jobs))
    if not (request.skip_existing or request.overwrite):
        _check_missing(jobs, out)
    files.make_folder(out)
    announce(engine)
    say(f"{len(jobs)} layouts, pictures to {out}" + (f", shard {request.shard}" * (part.count > 1)))

    about = _about(request, engine)
    done = finished(out) if request.skip_existing else {}

    def entry(item: Item, outputs: Sequence[Output], error: CrnError | None = None) -> Entry:
        return Entry(
            input=str(item.job.source),
            input_sha256=None if item.unreadable else sha256_of(item.job.source),
            outputs=tuple(outputs),
            status="failed" if error else "done",
            ms=None if error else round(1e3 * item.seconds, 2),
            error=" ".join(str(error).split()) if error else None,
            **about,
        )

    def read(job: Job) -> LabelMap | None:
        known = done.get(tuple(name.as_posix() for name in job.pictures), ())
        if stopping() or any(is_whole(e, out, about["settings"], job.source) for e in known):
            return None
        return request.bring_to(request.read(job.source, request.labels_of(engine)), engine)

    def write(item: Item) -> Entry:
        assert item.layout is not None and item.pictures is not None
        outputs = []
        for name, picture in zip(
            item.job.pictures, finish(item.layout, item.pictures), strict=True
        ):
            data = image.encode(picture, ending, request.quality)
            files.write_bytes(tree.place(out, name), data)
            outputs.append(Output(name.as_posix(), hashlib.sha256(data).hexdigest()))
        written = entry(item, outputs)
        manifest.add(written)
        return written

    threads = max(2, min(8, usable_cpus()))
    with (
        _stop_on_signals() as stopping,
        Manifest(out / part.manifest) as manifest,
        Progress(len(jobs)) as progress,
        closing(
            pipeline.flow(
                pipeline.read(jobs, read, threads=threads, batch=request.batch),
                engine.render,
                write,
                batch=request.batch,
                threads=threads,
            )
        ) as items,
    ):
        for item in items:
            if item.error is not None:
                failed = entry(item, (), item.error)
                manifest.add(failed)
                if not request.keep_going or _stops_all(item):
                    raise item.error
                progress.failed += 1
                if request.as_json:
                    emit(json.loads(failed.to_json()))
            elif item.result is not None:
                progress.rendered += 1
                progress.busy += item.seconds
                if request.as_json:
                    emit(json.loads(item.result.to_json()))
            elif not stopping():
                progress.skipped += 1
            progress.update()
            if stopping():
                break
        items.close()
        done_here = manifest.lines + progress.skipped
        if stopping() and done_here < len(jobs):
            raise Interrupted(
                f"interrupted with {done_here} of {len(jobs)} layouts done; the same command with "
                "`--skip-existing` goes on from there"
            )
        _conclude(request, progress, out, manifest.path)


def _conclude(request: Request, progress: Progress, out: Path, manifest: Path) -> None:
    skipped = f", {progress.skipped} skipped" * (progress.skipped > 0)
    say(
        f"{progress.rendered} layouts rendered{skipped}, {progress.failed} failed; "
        f"{progress.seconds:.1f} s, {progress.rate:.2f} frames/s; {manifest}"
    )
    if request.timing:
        share = progress.busy / max(progress.seconds, 1e-9)
        say(f"renderer busy {progress.busy:.2f} s, {share:.0%} of the time")
    if not request.as_json:
        emit(out)
    if progress.failed:
        raise PartlyDone(
            f"{progress.failed} of {progress.total} layouts failed; {manifest} says which and why"
        )


def _folder(request: Request) -> Path | None:
    """The folder that was asked for.

    Raises:
        UsageError: standard output, or the name of a picture.
    """
    if request.out is None:
        return None
    suffix = Path(request.out).suffix.lower().removeprefix(".")
    if request.out == "-" or (suffix in image.FORMATS and files.kind_of(request.out) != "folder"):
        raise UsageError(
            f"-o {request.out}: many layouts need a folder for their pictures, or a video (.mp4)"
        )
    return Path(request.out)


def _open(request: Request, found: tree.Found) -> Engine:
    """The engine; a packaged one is chosen by the first layout that can be read."""
    if request.model is not None:
        return request.open(models.resolve(request.model))
    labels, size = request.packaged_labels(), ()
    for path, _ in found.files:
        try:
            size = request.read(path, labels).size  # type: ignore[assignment]
            break
        except CrnError:
            if not request.keep_going:
                break
    return request.open(models.resolve(None, size))


def _about(request: Request, engine: Engine) -> dict[str, Any]:
    """What every line of the manifest says of the model and the options."""
    options = {
        name: getattr(request, name)
        for name in ("encoding", "unknown", "fit", "images", "compose", "seam", "picture_format")
    }
    options["quality"] = None if request.picture_format in (None, "png") else request.quality
    labels = request.labels_of(engine).to_json()
    return describe(engine.source, engine.backend, engine.precision, labels, options)


def _check_missing(jobs: Sequence[Job], out: Path) -> None:
    there = [
        out / name
        for job in jobs
        for name in job.pictures
        if files.kind_of(out / name) != "missing"
    ]
    if there:
        raise UsageError(
            f"{there[0]}: exists already (and {len(there) - 1} more); add `--skip-existing` to go "
            "on where a run ended, `--overwrite` to render all again, or name another -o"
        )


def _stops_all(item: Item) -> bool:
    """Whether what failed will fail for the layouts that follow, too: the disk, not the layout."""
    if item.unreadable:
        return isinstance(item.error, UsageError)
    cause = getattr(item.error, "__cause__", None)
    too_long = isinstance(cause, OSError) and cause.errno == errno.ENAMETOOLONG
    return isinstance(item.error, ResourceError) and not too_long


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C or SIGTERM came; a second one strikes."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        asked.append(number)
        signal.signal(number, signal.default_int_handler)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
