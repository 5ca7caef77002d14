"""`crn-fast paint`: the server with its paint page, opened in the browser."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import webbrowser
from contextlib import ExitStack
from html import escape
from pathlib import Path
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
    with ExitStack() as pages:

        def started(url: str, token: str | None) -> None:
            shown = opens and has_display()
            if shown:
                address = url
                if token:
                    private = tempfile.TemporaryDirectory(
                        prefix="crn-fast-", dir=seen_by_browsers(), ignore_cleanup_errors=True
                    )
                    address = way_in(Path(pages.enter_context(private)), url, token)
                # The server answers as soon as this function has returned.
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
            if token or not shown:
                # What is printed may be logged: the token is not.
                say(f"open {url}{'#token=TOKEN' if token else ''} in a browser")

        serve(ui=True, started=started, **options)


def seen_by_browsers() -> Path | None:
    """Where a browser finds files of ours; None: in the usual folder of temporary ones.

    On Linux many are installed as snaps, which have a /tmp of their own, and of a home folder see
    what is not hidden.
    """
    if sys.platform != "linux":
        return None
    try:
        home = Path.home()
    except RuntimeError:
        return None
    return home if os.access(home, os.W_OK | os.X_OK) else None


def way_in(folder: Path, url: str, token: str) -> str:
    """The address of a page in a private folder that leads to the URL with its token.

    All users of a machine see how a browser is called: the token must not stand there.
    """
    page = folder / "paint.html"
    target = escape(f"{url}#token={quote(token, safe='')}")
    descriptor = os.open(page, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with open(descriptor, "w", encoding="utf-8") as file:
        file.write(
            '<!doctype html><meta name="referrer" content="no-referrer">'
            f'<meta http-equiv="refresh" content="0; url={target}"><a href="{target}">Paint</a>\n'
        )
    return page.as_uri()


def has_display() -> bool:
    """Whether a browser could be seen here."""
    if sys.platform in ("win32", "darwin"):
        return True
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
