"""`crn-fast render`: a layout becomes a picture."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import (
    Size,
    check_writable,
    emit,
    engine_options,
    reading_options,
    say,
)
from crn_fast.errors import UsageError

if TYPE_CHECKING:
    from crn_fast.engine import Engine
    from crn_fast.layout import LabelMap

EPILOG = """\b
Examples:
  crn-fast render --layout street.png
  crn-fast render --layout street.png -m run/ckpt.pt -o street.jpg --timing
  crn-fast render --layout frankfurt_gtFine_labelIds.png --labels cityscapes
  cat street.png | crn-fast render --layout - -o - > picture.png
"""


@click.command(epilog=EPILOG)
@click.option("--layout", "source", required=True, metavar="PATH|-", help="Layout, or - for stdin.")
@click.option(
    "-m",
    "--model",
    metavar="MODEL|ENGINE",
    help="Checkpoint, engine, or a packaged model's name. Default: the packaged one that fits.",
)
@click.option(
    "-o", "--out", metavar="PATH|-", help="Picture to write. Default: LAYOUT.render.png here."
)
@click.option(
    "--labels", "label_set", metavar="NAME|FILE.toml", help="The layout's. Default: the model's."
)
@reading_options
@click.option(
    "--fit",
    type=click.Choice(["error", "pad", "crop", "nearest"]),
    default="error",
    show_default=True,
    help="How a layout of another size is brought to the network's.",
)
@click.option("--size", type=Size(), help="Expected picture size; the network's own, or exit 4.")
@engine_options
@click.option(
    "--images", type=click.IntRange(min=1), metavar="K", help="Only the first K pictures."
)
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["png", "jpg", "webp"]),
    help="Default: by the ending of -o.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="Of JPEG and WebP.",
)
@click.option("--overwrite", is_flag=True, help="Replace a picture that exists.")
@click.option("--timing", is_flag=True, help="Say how long each part took.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as a line of JSON.")
def command(
    source: str,
    model: str | None,
    out: str | None,
    label_set: str | None,
    encoding: Any,
    unknown: Any,
    fit: Any,
    size: tuple[int, int] | None,
    backend: str,
    precision: str,
    device: int | None,
    threads: int | None,
    images: int | None,
    picture_format: str | None,
    quality: int,
    overwrite: bool,
    timing: bool,
    as_json: bool,
) -> None:
    """Turn a layout into a picture.

    A model that makes K pictures of a layout writes OUT_0, OUT_1, ...
    """
    from crn_fast import image, layout, models, palette
    from crn_fast.engine import Engine, check_size
    from crn_fast.spec import CascadeSpec

    to_stdout = out == "-"
    if (source == "-" and sys.stdin is None) or (to_stdout and sys.stdout is None):
        raise UsageError("- was given, but standard input or output is closed")
    if out is None:
        out = f"{'stdin' if source == '-' else Path(source).stem}.render.png"
    target = Path(out)
    kind = (picture_format or "png") if to_stdout else image.format_of(target, picture_format)
    stream = sys.stdin.buffer if source == "-" else source

    def open_engine(path: Path) -> Engine:
        return Engine.open(
            path, backend=backend, precision=precision, device=device, threads=threads
        )

    def read(labels: palette.LabelSet) -> LabelMap:
        return layout.read(stream, labels, encoding=encoding, unknown=unknown)

    laps = _Laps()
    if model is None:
        # The packaged model is chosen by the layout's size, so the layout comes first.
        packaged = palette.label_set(label_set or models.LABEL_SET)
        labels = read(packaged)
        laps.end("read")
        engine = open_engine(models.resolve(None, labels.array.shape))
        laps.end("open")
    else:
        engine = open_engine(models.resolve(model))
        laps.end("open")
        labels = read(palette.label_set(label_set) if label_set else engine.labels)
        laps.end("read")
    read_as = f"{labels.labels.name}, read as {labels.encoding}"
    labels = _bring_to(labels, engine, fit)
    check_size(engine.source, engine.spec, size)
    targets = _targets(target, engine, images, to_stdout)
    if not to_stdout:
        for path in targets:
            check_writable(path, overwrite, "--overwrite")
            if source != "-" and path.exists() and path.samefile(source):
                raise UsageError(f"{path}: is the layout itself; name another picture with -o")
    say(f"layout {labels.source}: {read_as}")
    say(f"model {engine.source}, backend {engine.backend}, {engine.precision} on {engine.device}")
    laps.end("fit")
    pictures = engine.render(labels)[0]
    laps.end("render")
    for path, picture in zip(targets, pictures, strict=False):
        image.write(sys.stdout.buffer if to_stdout else path, picture, kind, quality)
    laps.end("write")

    if timing:
        say("  ".join(f"{name} {seconds:.2f} s" for name, seconds in laps.seconds.items()))
    if to_stdout:
        return
    if as_json:
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
        emit(str(path))
    if click.get_current_context().info_name == "render":  # `demo`, which calls this, has its own
        built = engine.source.endswith(".crn") or not isinstance(engine.spec, CascadeSpec)
        following = "render --layout ANOTHER.png -m" if built else "build-engine"
        say(f"next: crn-fast {following} {engine.source}")


def _bring_to(labels: LabelMap, engine: Engine, fit: Any) -> LabelMap:
    """The layout in the network's label set and size."""
    from crn_fast import layout

    if labels.labels.names != engine.labels.names:
        say(f"{labels.source}: mapped from {labels.labels.name} to {engine.labels.name}")
        labels = layout.convert(labels, engine.labels)
    return layout.fit(labels, engine.spec.size, fit)


def _targets(target: Path, engine: Engine, images: int | None, to_stdout: bool) -> list[Path]:
    """One path for each picture that will be written.

    Raises:
        UsageError: more pictures than the model makes, or several for stdout.
    """
    made = engine.spec.images
    if images and images > made:
        raise UsageError(f"--images {images}: {engine.source} makes {made} of a layout")
    count = images or made
    if count == 1:
        return [target]
    if to_stdout:
        raise UsageError(f"-o -: {engine.source} makes {made} pictures; add --images 1")
    return [target.with_stem(f"{target.stem}_{k}") for k in range(count)]


class _Laps:
    """Seconds since the last lap, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._since = time.perf_counter()

    def end(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._since = now - self._since, now
