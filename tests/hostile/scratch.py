"""Folders for what child processes make, which are killed in the end and remove nothing."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def folder() -> Path:
    """A new folder in the test's own home, which pytest removes."""
    return Path(tempfile.mkdtemp(dir=Path(os.environ["XDG_CACHE_HOME"]).parent))
