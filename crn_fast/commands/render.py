"""`crn-fast render`: layouts become pictures, or a video. The options, and who sees to them."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import click

from crn_fast.commands import (
    Size,
    batch_option,
    engine_options,
    fit_option,
    folder_options,
    images_option,
    reading_options,
)
from crn_fast.commands.rendering import Request
from crn_fast.errors import UsageError
from crn_fast.rendering.tree import is_many

EPILOG = """\b
Examples:
  crn-fast render --layout street.png
  crn-fast render --layout street.png -m run/ckpt.pt -o street.jpg --timing
  crn-fast render --layout frankfurt_gtFine_labelIds.png --labels cityscapes
  cat street.png | crn-fast render --layout - -o - > picture.png
\b
  crn-fast render --layout gtFine/val -o pictures --skip-existing
  crn-fast render --layout 'drive/**/*_labelIds.png' --labels cityscapes --format jpg --keep-going
  crn-fast render --layout drive -o drive.mp4 --fps 17
  simulator | crn-fast render --layout - --format-in raw -o - --format raw | player
  crn-fast render --layout street.png -m street-256-diverse --compose car=2,road=1 --seam 4
"""


class Fps(click.ParamType[Fraction]):
    """Frames a second, as 25, 29.97 or 30000/1001."""

    name = "FPS"

    def convert(self, value: Any, param: Any, ctx: Any) -> Fraction:
        try:
            found = Fraction(str(value)).limit_denominator(1001)
        except (ValueError, ZeroDivisionError):
            found = Fraction(0)
        if not 0 < found <= 1000:
            self.fail(f"{value!r}: expected frames a second, as in 25 or 30000/1001")
        return found


@click.command(epilog=EPILOG)
@click.option(
    "--layout",
    "sources",
    required=True,
    multiple=True,
    metavar="PATH|DIR|GLOB|-",
    help="Layout, folder, pattern, video of labels, or - for stdin. More paths may follow.",
)
@click.argument("more", metavar="[PATH]...", nargs=-1, type=click.Path())
@click.option(
    "--format-in",
    type=click.Choice(["auto", "raw"]),
    default="auto",
    show_default=True,
    help="raw: frames of H*W ids of one byte, of the network's size.",
)
@click.option(
    "-m",
    "--model",
    metavar="MODEL|ENGINE",
    help="Checkpoint, engine, or a packaged model's name. Default: the packaged one that fits.",
)
@click.option(
    "-o",
    "--out",
    metavar="PATH|DIR|-",
    help="Picture, folder or .mp4. Default: LAYOUT.render.png here, or DIR.render beside DIR.",
)
@click.option(
    "--labels", "label_set", metavar="NAME|FILE.toml", help="The layout's. Default: the model's."
)
@reading_options
@fit_option
@click.option("--size", type=Size(), help="Expected picture size; the network's own, or exit 4.")
@engine_options
@images_option
@click.option(
    "--compose", metavar="CLASS=K,...", help="One picture: these classes of picture K, others of 0."
)
@click.option(
    "--seam",
    type=click.IntRange(0, 256),
    default=0,
    show_default=True,
    metavar="N",
    help="Pixels on each side over which --compose blends.",
)
@batch_option
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["png", "jpg", "webp", "mp4", "raw"]),
    help="Default: by the ending of -o, else png. raw: frames of H*W*3 bytes, RGB.",
)
@click.option(
    "--quality",
    type=click.IntRange(1, 100),
    default=95,
    show_default=True,
    help="Of JPEG, WebP and MP4.",
)
@click.option("--fps", type=Fps(), help="Frames a second of a video.  [default: 25]")
@click.option(
    "--shard", metavar="I/N|auto", help="Only part I of N; auto: as Slurm or Kubernetes says."
)
@folder_options
@click.option("--timing", is_flag=True, help="Say how long each part took.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as a line of JSON.")
def command(sources: tuple[str, ...], more: tuple[str, ...], **options: Any) -> None:
    """Turn layouts into pictures.

    One layout becomes a picture; a folder, a pattern or several become a folder of pictures with a
    manifest, or a video. A model that makes K pictures of a layout writes OUT_0, OUT_1, ...
    """
    request = Request((*sources, *more), **options)
    if request.skip_existing and request.overwrite:
        raise UsageError("--skip-existing or --overwrite: give one of them")
    # Whatever runs is imported only now: for a single picture the rest would cost its time.
    if request.makes_frames or request.takes_frames:
        from crn_fast.commands.render_video import run
    elif is_many(request.sources):
        from crn_fast.commands.render_folder import run
    else:
        from crn_fast.commands.render_one import run
    run(request)
