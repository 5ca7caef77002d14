"""`crn-fast render` of frames: numbered files, a video of labels or a raw pipe, to MP4 or raw."""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import layout, models
from crn_fast.commands import check_writable, emit, say, sigterm_as_ctrl_c
from crn_fast.commands.progress import Progress
from crn_fast.commands.rendering import Request, announce
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, CrnError, UsageError
from crn_fast.files import kind_of, staged, write_whole
from crn_fast.kernels.cpu.threads import usable_cpus
from crn_fast.layout import LabelMap
from crn_fast.palette import LabelSet
from crn_fast.png import Pixels
from crn_fast.rendering import pipeline, raw, tree, video

Item = pipeline.Item[Any, None]
Items = Generator[Item, None, None]
Put = Callable[[np.ndarray], None]
"""Takes the next picture, uint8 [H, W, 3]."""
DEFAULT_FPS = Fraction(25)


def run(request: Request) -> None:
    """Render frames to a video or a stream."""
    kind = _kind(request)
    engine, items, total = _frames(request)
    request.check(engine)
    count, finish = request.finisher(engine)
    if count > 1:
        raise UsageError(
            f"{engine.source} makes {count} pictures of a layout, a video has room for one: add "
            "--images 1 or --compose"
        )
    announce(engine)

    def render(put: Put) -> None:
        def write(item: Item) -> None:
            assert item.layout is not None and item.pictures is not None
            put(finish(item.layout, item.pictures)[0])

        flow = pipeline.flow(items, engine.render, write, batch=request.batch)
        with Progress(total) as progress, closing(flow):
            for item in flow:
                if item.error is not None:
                    raise item.error
                progress.rendered += 1
                progress.busy += item.seconds
                progress.update()
            seconds, rate = progress.seconds, progress.rate
            say(f"{progress.rendered} frames, {seconds:.1f} s, {rate:.2f} frames/s")
            if request.timing:
                say(f"renderer busy {progress.busy:.2f} s")

    with sigterm_as_ctrl_c():
        if request.out == "-":
            render(_to_stdout())
            return
        assert request.out is not None
        check_writable(Path(request.out), request.overwrite, "--overwrite")
        if kind == "raw":
            write_whole(request.out, lambda stream: render(lambda rgb: _write(stream, rgb)))
        else:
            rate = request.fps or DEFAULT_FPS
            with (
                staged(request.out) as path,
                video.encoder(path, engine.spec.size, rate, request.quality) as encode,
            ):
                render(encode)
    emit({"video": request.out} if request.as_json else Path(request.out))


def _kind(request: Request) -> str:
    """'mp4' or 'raw'.

    Raises:
        UsageError: options that do not fit frames.
    """
    for given, name in (
        (request.keep_going, "--keep-going"),
        (request.skip_existing, "--skip-existing"),
        (request.shard, "--shard"),
    ):
        if given:
            raise UsageError(f"{name} is for folders of pictures; a video or stream is one file")
    kind = request.picture_format or Path(request.out or "").suffix.removeprefix(".").lower()
    if kind not in ("mp4", "raw"):
        raise UsageError(
            "layouts from a video or a raw stream: give -o OUT.mp4, or -o - --format raw for a pipe"
        )
    if request.out is None:
        raise UsageError(f"--format {kind}: name the file with -o{', or -o -' * (kind == 'raw')}")
    if kind == "mp4" and request.out == "-":
        raise UsageError("-o -: an MP4 cannot be written to a pipe; give -o OUT.mp4, or raw frames")
    if kind == "mp4":
        video.require()
    elif request.fps:
        raise UsageError("--fps is for videos: raw frames carry no time")
    return kind


def _frames(request: Request) -> tuple[Engine, Items, int | None]:
    """The engine, the layouts as items, and their number if it is known."""
    if not request.takes_frames:
        return _of_files(request)
    if len(request.sources) > 1:
        raise UsageError(f"--layout: one video or stream at a time, not {len(request.sources)}")
    (source,) = request.sources
    if request.format_in == "raw":
        if request.encoding == "color":
            raise UsageError("--format-in raw: frames hold ids of one byte, so no colours")
        engine = request.open(models.resolve(request.model))
        frames: Iterator[Pixels] = _raw_pixels(source, engine.spec.size)
        encoding = "ids" if request.encoding == "auto" else request.encoding
    else:
        engine = request.open(models.resolve(request.model, video.size_of(source)))
        frames, encoding = video.read(source), request.encoding
    labels = request.labels_of(engine)

    def items() -> Items:
        number = -1
        try:
            for number, pixels in enumerate(frames):
                yield pipeline.Item(
                    number,
                    _interpret(
                        request, pixels, labels, engine, encoding, f"{source}: frame {number}"
                    ),
                )
        except CrnError as error:
            yield pipeline.Item(number + 1, error=error)  # after the frames before it

    return engine, pipeline.ahead(items(), request.batch + 1), None


def _interpret(
    request: Request, pixels: Pixels, labels: LabelSet, engine: Engine, encoding: Any, name: str
) -> LabelMap:
    found = layout.interpret(pixels, labels, name, encoding=encoding, unknown=request.unknown)
    return request.bring_to(found, engine)


def _of_files(request: Request) -> tuple[Engine, Items, int]:
    found = tree.find(request.sources)
    paths = tree.in_number_order(found.files)
    if request.model is None:
        first = request.read(paths[0], request.packaged_labels())
        engine = request.open(models.resolve(None, first.size))
    else:
        engine = request.open(models.resolve(request.model))
    labels = request.labels_of(engine)

    def read(path: Path) -> LabelMap:
        return request.bring_to(request.read(path, labels), engine)

    threads = max(2, min(8, usable_cpus()))
    items: Items = pipeline.read(paths, read, threads=threads, batch=request.batch)
    return engine, items, len(paths)


def _raw_pixels(source: str, size: tuple[int, int]) -> Iterator[Pixels]:
    if source == "-" and sys.stdin is None:
        raise UsageError("- was given, but standard input is closed")
    if source != "-" and kind_of(source) == "missing":
        raise BadInput(f"{source}: no such file; expected raw frames, or - for standard input")
    descriptor = sys.stdin.fileno() if source == "-" else source
    with open(descriptor, "rb", buffering=0, closefd=source != "-") as stream:
        for frame in raw.read(stream, size, "stdin" if source == "-" else source):
            yield Pixels("raw", frame, None)


def _to_stdout() -> Put:
    if sys.stdout is None:
        raise UsageError("-o -: standard output is closed")
    return lambda rgb: _write(sys.stdout.buffer, rgb)


def _write(stream: Any, rgb: np.ndarray) -> None:
    stream.write(np.ascontiguousarray(rgb).data)
    stream.flush()
