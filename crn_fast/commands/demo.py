"""`crn-fast demo`: the packaged example layout through the packaged model."""

from __future__ import annotations

import time
from pathlib import Path

import click

from crn_fast.commands import engine_options, say
from crn_fast.commands import render as render_command

EPILOG = """\b
Examples:
  crn-fast demo
  crn-fast demo --model street-256 -o small.png
  crn-fast demo --model street-256-diverse     # four pictures: demo_0.png, demo_1.png, ...
"""


@click.command(epilog=EPILOG)
@click.option(
    "-m",
    "--model",
    type=click.Choice(["street-1024", "street-256", "street-256-diverse"]),
    default="street-1024",
    show_default=True,
    help="Packaged model.",
)
@click.option("-o", "--out", default="demo.png", show_default=True, help="Picture to write.")
@click.option(
    "--overwrite", is_flag=True, help="Replace a picture that exists, other than demo.png."
)
@engine_options
@click.pass_context
def command(
    ctx: click.Context, /, model: str, out: str, overwrite: bool, **options: object
) -> None:
    """Render the packaged example layout."""
    from crn_fast import models

    since = time.perf_counter()
    example = models.example_of(model)
    say(f"layout {example}")
    ctx.invoke(
        render_command.command,
        sources=(str(example),),
        model=model,
        out=out,
        overwrite=overwrite or out == "demo.png",
        timing=True,
        **options,
    )
    height, width = models.SIZES[model]
    folder = Path(out).resolve().parent
    say(f"{height}x{width} in {time.perf_counter() - since:.1f} s, in {folder}")
    say("next: crn-fast render --layout YOUR_LAYOUT.png")
