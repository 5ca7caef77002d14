"""`crn-fast cluster-render`: many layouts on many machines."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from crn_fast.commands import (
    backend_options,
    batch_option,
    emit,
    fit_option,
    folder_options,
    images_option,
    reading_options,
    say,
    trust_option,
)
from crn_fast.errors import Interrupted, PartlyDone

if TYPE_CHECKING:
    from crn_fast.cluster import Counts
    from crn_fast.rendering.manifest import Entry

EPILOG = """\b
Examples:
  crn-fast cluster-render --layout drive -m street-256 -o pictures
  crn-fast cluster-render --layout drive -m street.crn -o pictures --address auto --skip-existing
  crn-fast cluster-render --layout 'set/*.tar' -m street-256 -o shards --to webdataset --keep-going
  crn-fast cluster-render --layout set.parquet --column png -m street-256 -o shards --to parquet
"""


@click.command(epilog=EPILOG)
@click.option(
    "--layout",
    "sources",
    required=True,
    multiple=True,
    metavar="DIR|GLOB|PATH",
    help="Folder, pattern or files: PNG, Parquet or WebDataset tars. Can be repeated.",
)
@click.option(
    "-m",
    "--model",
    required=True,
    metavar="MODEL|ENGINE",
    help="Checkpoint, engine, or a packaged model's name.",
)
@click.option("-o", "--out", required=True, metavar="DIR", help="Folder of pictures.")
@click.option(
    "--to",
    type=click.Choice(["folder", "parquet", "webdataset"]),
    default="folder",
    show_default=True,
    help="A file for each picture, or for many.",
)
@click.option(
    "--address", metavar="auto|HOST:PORT", help="Of a Ray cluster. Default: this machine alone."
)
@click.option(
    "--actors",
    type=click.IntRange(min=1),
    metavar="N",
    help="Engines at a time. Default: what the cluster has room for.",
)
@click.option(
    "--cpus-per-actor", type=click.IntRange(min=1), metavar="N", help="Default: 4, or all of fewer."
)
@click.option(
    "--gpus-per-actor",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Default: 1 if there are any; 0.5 lets two share one.",
)
@click.option("--labels", metavar="NAME|FILE.toml", help="The layouts'. Default: the model's.")
@reading_options
@fit_option
@backend_options
@trust_option
@images_option
@batch_option
@click.option(
    "--format",
    "picture_format",
    type=click.Choice(["png", "jpg", "webp"]),
    help="Default: png.",
)
@click.option(
    "--quality", type=click.IntRange(1, 100), default=95, show_default=True, help="Of JPEG, WebP."
)
@click.option(
    "--id-column", default="id", show_default=True, metavar="NAME", help="Of Parquet files."
)
@click.option(
    "--column",
    "layout_column",
    metavar="NAME",
    help="Of Parquet files: default layout. In tars, the layouts' ending: default png.",
)
@click.option(
    "--chunk",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Layouts of a folder that an engine gets at a time.",
)
@folder_options
@click.option("--json", "as_json", is_flag=True, help="Print the manifest's lines.")
def command(
    sources: tuple[str, ...],
    model: str,
    out: str,
    to: Any,
    address: str | None,
    actors: int | None,
    cpus_per_actor: int | None,
    gpus_per_actor: float | None,
    id_column: str,
    layout_column: str | None,
    chunk: int,
    skip_existing: bool,
    overwrite: bool,
    keep_going: bool,
    as_json: bool,
    **how: Any,
) -> None:
    """Turn layouts into pictures on the machines of a Ray cluster.

    All of them need crn-fast, and see layouts, model and pictures under the same paths. As `render`
    of a folder, it writes each picture whole, and a manifest.
    """
    from crn_fast import cluster
    from crn_fast.commands.progress import Progress

    with Progress(None) as progress:

        def report(counts: Counts, entries: Sequence[Entry]) -> None:
            progress.rendered, progress.skipped = counts.rendered, counts.skipped
            progress.failed = counts.failed
            progress.update()
            for entry in entries:
                if as_json:
                    emit(json.loads(entry.to_json()))
                elif entry.error:
                    say(entry.error)

        try:
            counts = cluster.render(
                sources,
                out,
                model=model,
                how=cluster.Options(**how),
                to=to,
                id_column=id_column,
                layout_column=layout_column,
                actors=actors,
                cpus_per_actor=cpus_per_actor,
                gpus_per_actor=gpus_per_actor,
                address=address,
                chunk=chunk,
                skip_existing=skip_existing,
                overwrite=overwrite,
                keep_going=keep_going,
                report=report,
            )
        except (KeyboardInterrupt, SystemExit):  # Ray turns SIGTERM into the latter.
            raise Interrupted(
                f"interrupted with {progress.done} layouts done; the same command with "
                "`--skip-existing` goes on from there"
            ) from None
        say(
            f"{counts.rendered} layouts rendered, {counts.skipped} skipped, {counts.failed} "
            f"failed; {progress.seconds:.1f} s; {out}/manifest.jsonl"
        )
    if not as_json:
        emit(out)
    if counts.failed:
        raise PartlyDone(f"{counts.failed} layouts failed; {out}/manifest.jsonl says which and why")
