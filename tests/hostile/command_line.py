"""`crn-fast` in this process, as a shell would run it: words in; exit code and output out."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

CODES = {0, 2, 3, 4, 5, 6, 7, 8, 75, 130}
"""Every exit code of the documentation but 1, which is our bug."""


@dataclass(frozen=True)
class Ran:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def message(self) -> str:
        """The last line for people, which says what was wrong."""
        return self.err.rstrip("\n").rpartition("\n")[2]


Main = Callable[[list[str]], None]
"""As `crn_fast.cli.main`: it exits."""


def crn_fast(words: list[str]) -> None:
    """The real command line, imported when it is first called."""
    from crn_fast.cli import main

    main(words)


def copy_of(scene: Path) -> Path:
    """A copy of a folder to work in; the one of before, unless something in it has changed."""
    here = scene.with_name(f"{scene.name}-{os.getpid()}")
    if listing(here) != listing(scene):
        shutil.rmtree(here, ignore_errors=True)
        shutil.copytree(scene, here)
    return here


def listing(folder: Path) -> dict[str, tuple[int, int] | None]:
    """Everything in a folder: a file's size and time of change, None for a folder."""
    found: dict[str, tuple[int, int] | None] = {}
    for root, folders, files in os.walk(folder):
        found |= {os.path.relpath(os.path.join(root, name), folder): None for name in folders}
        for name in files:
            state = os.stat(path := os.path.join(root, name), follow_symlinks=False)
            found[os.path.relpath(path, folder)] = (state.st_size, state.st_mtime_ns)
    return found


def run(words: Sequence[str], folder: Path, stdin: bytes = b"", main: Main = crn_fast) -> Ran:
    """Run `crn-fast WORDS` in a folder, which is the user's home, too."""
    out, err = (io.TextIOWrapper(io.BytesIO(), "utf-8", newline="\n") for _ in range(2))
    given = io.TextIOWrapper(io.BytesIO(stdin), "utf-8")
    code: object = 0
    with (
        contextlib.chdir(folder),
        mock.patch.dict(os.environ, {"HOME": str(folder), "XDG_CACHE_HOME": ""}),
        mock.patch.object(sys, "stdin", given),
        mock.patch.object(sys, "argv", ["crn-fast", *words]),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(list(words))
        except SystemExit as ended:
            code = ended.code
    texts = [stream.detach().getvalue().decode("utf-8", "replace") for stream in (out, err)]  # type: ignore[attr-defined]
    return Ran(code if isinstance(code, int) else -1, *texts)


def outrage(ran: Ran) -> str | None:
    """What no command may do, however it is called; None if it did not."""
    if "Traceback" in ran.out + ran.err:
        return f"a traceback: {ran.err[-300:]}"
    if ran.code not in CODES:
        return f"exit {ran.code}: {ran.message}"
    if ran.code and not ran.message.startswith("crn-fast: ") and "Usage: crn-fast" not in ran.err:
        return f"exit {ran.code} without a message: {ran.err[-300:]!r}"
    return None
