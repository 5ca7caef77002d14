"""`crn-fast render` of one layout."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from shlex import quote

import click

from crn_fast import image, models
from crn_fast.commands import check_writable, emit, say
from crn_fast.commands.rendering import Request, announce
from crn_fast.errors import UsageError
from crn_fast.spec import CascadeSpec


def run(request: Request) -> None:
    """Render a file, or standard input, to a file or to standard output."""
    (source,) = request.sources
    for given, name in (
        (request.skip_existing, "--skip-existing"),
        (request.keep_going, "--keep-going"),
        (request.shard, "--shard"),
        (request.fps, "--fps"),
    ):
        if given:
            raise UsageError(f"{name}: {source} is one layout; it is for folders, or videos")
    to_stdout = request.out == "-"
    if (source == "-" and sys.stdin is None) or (to_stdout and sys.stdout is None):
        raise UsageError("- was given, but standard input or output is closed")
    out = request.out or f"{'stdin' if source == '-' else Path(source).stem}.render.png"
    wanted = request.picture_format
    kind = (wanted or "png") if to_stdout else image.format_of(out, wanted)
    stream = sys.stdin.buffer if source == "-" else source

    laps = _Laps()
    if request.model is None:
        # The packaged model is chosen by the layout's size, so the layout comes first.
        labels = request.read(stream, request.packaged_labels())
        laps.end("read")
        engine = request.open(models.resolve(None, labels.array.shape))
        laps.end("open")
    else:
        engine = request.open(models.resolve(request.model))
        laps.end("open")
        labels = request.read(stream, request.labels_of(engine))
        laps.end("read")
    found = labels
    labels = request.bring_to(labels, engine)
    request.check(engine)
    count, finish = request.finisher(engine)
    if to_stdout and count > 1:
        raise UsageError(f"-o -: {engine.source} makes {count} pictures; add `--images 1`")
    target = Path(out)
    targets = [target.with_stem(f"{target.stem}_{k}") for k in range(count)]
    targets = [target] if count == 1 else targets
    if not to_stdout:
        for path in targets:
            check_writable(path, request.overwrite, "--overwrite")
            if source != "-" and path.exists() and path.samefile(source):
                raise UsageError(f"{path}: is the layout itself; name another picture with -o")
    say(f"layout {found.source}: {found.labels.name}, read as {found.encoding}")
    if found.labels.names != labels.labels.names:
        say(f"{found.source}: mapped from {found.labels.name} to {labels.labels.name}")
    announce(engine)
    laps.end("fit")
    pictures = engine.render(labels)[0]
    laps.end("render")
    for path, picture in zip(targets, finish(labels, pictures), strict=True):
        image.write(sys.stdout.buffer if to_stdout else path, picture, kind, request.quality)
    laps.end("write")

    if request.timing:
        say("  ".join(f"{name} {seconds:.2f} s" for name, seconds in laps.seconds.items()))
    if to_stdout:
        return
    if request.as_json:
        emit(
            {
                "layout": source,
                "encoding": labels.encoding,
                "pictures": [str(path) for path in targets],
                "model": engine.source,
                "backend": engine.backend,
                "precision": engine.precision,
                "device": engine.device,
                "seconds": {name: round(seconds, 4) for name, seconds in laps.seconds.items()},
            }
        )
        return
    for path in targets:
        emit(path)
    if click.get_current_context().info_name == "render":  # `demo`, which calls this, has its own
        built = engine.source.endswith(".crn") or not isinstance(engine.spec, CascadeSpec)
        following = "render --layout ANOTHER.png -m" if built else "build-engine"
        say(f"next: crn-fast {following} {quote(engine.source)}")


class _Laps:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now
