"""`crn-fast paint`: the server with its paint page, opened in the browser."""

from __future__ import annotations

import os
import sys
import threading
import webbrowser
from typing import Any
from urllib.parse import quote

import click

from crn_fast.commands import say
from crn_fast.commands.serve import serve, serving_options

EPILOG = """\b
Examples:
  crn-fast paint
  crn-fast paint -m street-1024 --preview street-256
  crn-fast paint -m run/ckpt.pt --no-open
"""


@click.command(epilog=EPILOG)
@click.option(
    "-m",
    "--model",
    metavar="MODEL|ENGINE",
    default="street-256-diverse",
    show_default=True,
    help="Checkpoint, engine, or a packaged model's name.",
)
@serving_options
@click.option("--open/--no-open", "opens", default=True, help="Whether the browser is opened.")
def command(opens: bool, **options: Any) -> None:
    """Paint a layout in the browser, and see it rendered."""

    def started(url: str, token: str | None) -> None:
        if opens and has_display():
            address = f"{url}#token={quote(token, safe='')}" if token else url
            # The server answers as soon as this function has returned.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        else:
            # What is printed may be logged: the token is not.
            say(f"open {url}{'#token=TOKEN' if token else ''} in a browser")

    serve(ui=True, started=started, **options)


def has_display() -> bool:
    """Whether a browser could be seen here."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
