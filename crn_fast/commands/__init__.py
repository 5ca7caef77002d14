"""The subcommands of `crn-fast`, one a module, and how they speak.

Results go to stdout; progress and everything else for people goes to stderr.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from crn_fast.errors import UsageError


class Size(click.ParamType[tuple[int, int]]):
    """HxW in pixels, as in 1024x2048."""

    name = "HxW"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, int]:
        if isinstance(value, tuple):
            return value
        height, cross, width = str(value).lower().partition("x")
        if not cross or not height.isdecimal() or not width.isdecimal():
            self.fail(f"{value!r}: expected height x width in pixels, as in 1024x2048")
        return int(height), int(width)


def say(message: str) -> None:
    """A line for people, on stderr; nothing with --quiet."""
    context = click.get_current_context(silent=True)
    if not (context and context.find_root().obj and context.find_root().obj.get("quiet")):
        click.echo(message, err=True)


def emit(value: str | dict[str, Any]) -> None:
    """A result, on stdout: a path or line of text, or one JSON document a line."""
    click.echo(value if isinstance(value, str) else json.dumps(value, default=str))


def check_writable(path: Path, force: bool, option: str = "--force") -> None:
    """Refuse to overwrite a file unless asked to.

    Raises:
        UsageError: it exists.
    """
    if path.exists() and not force:
        raise UsageError(f"{path}: exists already; add {option}, or name another file with -o")


def interactive() -> bool:
    """Whether progress may be drawn: stderr is a terminal."""
    return sys.stderr.isatty()
