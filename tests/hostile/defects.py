"""Defects that are planted for the controls: what crn_fast would be without one of its cares."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any

from crn_fast import failpoints, files


def in_place() -> None:
    """Files are written where they are, without a temporary one."""

    def write_whole(path: str | Path, save: Callable[[IO[bytes]], object]) -> None:
        path = Path(path)
        with path.open("wb") as stream:
            save(stream)
            stream.flush()
            failpoints.reach("write.half", lambda: _halve(path))

    @contextmanager
    def staged(path: str | Path) -> Iterator[Path]:
        yield Path(path)

    _replace("write_whole", write_whole)
    _replace("staged", staged)


def forgets_nothing() -> None:
    """A resumed run keeps the lines that it will log again."""
    from crn_fast.training.run_folder import RunFolder

    RunFolder.forget_after = lambda self, step: None  # type: ignore[method-assign]


def trusts_the_newest() -> None:
    """A run goes on from its newest checkpoint or not at all."""
    from crn_fast.training import run_folder

    run_folder._numbered = lambda path: []


def is_deaf() -> None:
    """No signal is heeded."""
    from crn_fast.commands import train

    train._Stop.__call__ = lambda self: False  # type: ignore[method-assign]


def _halve(path: Path) -> None:
    with path.open("rb+") as stream:
        stream.truncate(path.stat().st_size // 2)


def _replace(name: str, other: Callable[..., Any]) -> None:
    """A function of `files`, wherever it was imported by its name."""
    import_module("crn_fast.engine")  # which imports it when it is needed

    ours = getattr(files, name)
    for module in [m for n, m in sys.modules.items() if n.startswith("crn_fast")]:
        if getattr(module, name, None) is ours:
            setattr(module, name, other)
