"""Defects that are planted for the controls: what crn_fast would be without one of its cares.

`python -m hostile.defects DEFECT ARGUMENTS...` is `crn-fast ARGUMENTS...` with one of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from io import StringIO
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


def copies() -> None:
    """What was written beside a file is copied over it, not moved into its place."""

    def copy(source: str | Path, target: str | Path) -> None:
        shutil.copyfile(source, target)
        os.unlink(source)

    os.replace = copy  # type: ignore[assignment]


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


def renders_on() -> None:
    """No signal stops the rendering of a folder."""
    from crn_fast.commands import render_folder

    render_folder._stop_on_signals = _never


def trains_on() -> None:
    """A rank does not see that torchrun is gone."""
    from crn_fast.training.distributed import Processes

    Processes.orphaned = property(lambda self: False)  # type: ignore[assignment, method-assign]


def reads_late() -> None:
    """No defect, but what may come: processes that read data begin when their parent is gone."""
    from torch.utils.data._utils import worker

    loop = worker._worker_loop
    parent = os.getpid()

    def wait(*arguments: Any) -> None:
        while os.getppid() == parent:
            time.sleep(0.01)
        loop(*arguments)

    worker._worker_loop = wait


def reads_alone() -> None:
    """The same, and these processes do not look for their parent as they begin."""
    from crn_fast.training import data

    reads_late()
    data._live_with = lambda parent, worker: None


def says_nothing() -> None:
    """Nobody asks whether what goes to standard output arrives."""
    sys.stdout = StringIO()


@contextmanager
def _never() -> Iterator[Callable[[], bool]]:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield lambda: False


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


if __name__ == "__main__":
    from crn_fast import cli

    globals()[sys.argv[1]]()
    cli.main(sys.argv[2:])
