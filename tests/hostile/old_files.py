"""Files that were there before a command, held open: one that is written where it is shows it.

A command that replaces a file moves a new one into its place; what was there is then read here as
it was, although its name is another file's.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

GROWING = (".jsonl", ".csv", "said")
"""Endings of the files that grow where they are."""


class OldFiles:
    """The files below a folder."""

    def __init__(self, folder: Path) -> None:
        self.names: dict[str, bytes] = {}
        self._held: dict[str, tuple[IO[bytes], int]] = {}
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != ".lock":
                stream = path.open("rb")
                name = str(path.relative_to(folder))
                self.names[name] = stream.read()
                self._held[name] = stream, os.fstat(stream.fileno()).st_mtime_ns

    def let_go(self) -> str | None:
        """Which were written where they are; to be asked once."""
        touched = []
        for name, (stream, written) in self._held.items():
            with stream:
                stream.seek(0)
                found, before = stream.read(), self.names[name]
                if name.endswith(GROWING):
                    same = found.startswith(before)
                else:
                    same = found == before and os.fstat(stream.fileno()).st_mtime_ns == written
            touched += [] if same else [name]
        return f"written where they are: {', '.join(touched)}" if touched else None
