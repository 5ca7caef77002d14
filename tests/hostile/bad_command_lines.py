"""Command lines with planted defects, which the campaigns of `mistakes` must notice."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path

from hostile.command_line import crn_fast


def tracing(words: list[str]) -> None:
    """A command line that shows its traceback."""
    try:
        crn_fast(words)
    except SystemExit as ended:
        if ended.code:
            traceback.print_stack(file=sys.stderr)
            print("Traceback (most recent call last):", file=sys.stderr)
        raise


def failing(words: list[str]) -> None:
    """A command line that takes every mistake for a bug of its own."""
    try:
        crn_fast(words)
    except SystemExit as ended:
        sys.exit(1 if ended.code else 0)


def forgetful(words: list[str]) -> None:
    """A command line that does not have the options that its messages tell of."""
    if {"--fit", "--labels", "--unknown", "--overwrite"} & set(words[3:]):
        print("crn-fast: No such option", file=sys.stderr)
        sys.exit(2)
    crn_fast(words)


def destructive(words: list[str]) -> None:
    """A command line that overwrites before it looks."""
    if "--layout" in words and words[-1].endswith(".png"):
        Path(words[-1]).write_bytes(b"")
    crn_fast(words)


def misleading(words: list[str]) -> None:
    """A command line whose next step is about a file that is not there."""
    try:
        crn_fast(words)
    except SystemExit:
        print("next: crn-fast info nothing.crn", file=sys.stderr)
        raise


def buggy(words: list[str]) -> None:
    """A command line that cannot do with names that are not ASCII."""
    if not "".join(words).isascii():
        sys.exit(1)
    crn_fast(words)
