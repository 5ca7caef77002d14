"""Runs of `crn-fast`, each a process that is forked from one that has imported torch.

They die as a run from a shell does, and begin in milliseconds.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from threading import Lock
from typing import Any

WARM = [
    *("torch", "torch._inductor", "matplotlib.pyplot", "crn_fast.training.trainer", "crn_fast.cli"),
    *("crn_fast.commands.train", "crn_fast.commands.render", "crn_fast.commands.render_folder"),
]
"""Imported once, by what forks; `torch._inductor` is what deterministic algorithms ask for."""
SECONDS = 60.0
"""The longest a run may take."""
LATE = 999
"""In place of the exit code of a process that was killed here as it did not end in time."""
OUTLIVES = 5.0
"""Seconds after a run that a process of it may be left, as it hears of the end."""


class Run:
    """A command that runs, in a process, or in several that train together."""

    def __init__(
        self,
        folder: Path,
        arguments: Sequence[str],
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
        defect: str | None = None,
    ) -> None:
        """Begin `crn-fast ARGUMENTS` in `folder`; what it says goes to `folder`/said.

        A `defect` is a function of `defects`, called before.
        """
        context = _server()
        self.folder = folder
        self.processes: list[BaseProcess] = []
        port = str(_free_port()) if ranks > 1 else ""
        for rank in range(ranks):
            given = dict(environment or {})
            if ranks > 1:
                given |= {"WORLD_SIZE": str(ranks), "RANK": str(rank), "LOCAL_RANK": str(rank)}
                given |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            process = context.Process(
                target=_run, args=(str(folder), list(arguments), given, defect)
            )
            with _ASKING:
                process.start()
            self.processes.append(process)

    @property
    def running(self) -> bool:
        with _ASKING:
            return all(process.is_alive() for process in self.processes)

    def send(self, number: int) -> None:
        """A signal to all of its processes."""
        for process in self.processes:
            with suppress(ProcessLookupError):
                os.kill(process.pid or 0, number)

    def kill(self, only: int | None = None) -> list[int]:
        """SIGKILL, as from the kernel that is short of memory: to all, or to one and soon all.

        How all ended: none by SIGKILL, if it came too late.
        """
        if only is not None:
            self.processes[only].kill()
            time.sleep(0.05)
        self.send(signal.SIGKILL)
        return self.wait()

    def wait(self, seconds: float = SECONDS) -> list[int]:
        """How all ended; those that do not end in time are killed, and are `LATE`."""
        until = time.monotonic() + seconds
        late: list[BaseProcess] = []
        while True:
            with _ASKING:
                running = [process for process in self.processes if process.is_alive()]
                if not running:
                    return [LATE if p in late else p.exitcode or 0 for p in self.processes]
            if time.monotonic() > until:
                late += [process for process in running if process not in late]
                self.send(signal.SIGKILL)
            time.sleep(0.005)

    @property
    def said(self) -> str:
        path = self.folder / "said"
        return path.read_text("utf-8", errors="replace") if path.exists() else ""


def working_in(folder: Path) -> list[int]:
    """The processes that work in a folder: of a run that goes on, or left by one that ended."""
    found = []
    for each in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it ended
            if os.readlink(each / "cwd") == os.path.realpath(folder):
                found.append(int(each.name))
    return found


def left_by(folder: Path, seconds: float = OUTLIVES) -> str | None:
    """The processes of a run that outlive it; they are killed."""
    until = time.monotonic() + seconds
    while left := working_in(folder):
        if time.monotonic() > until:
            for number in left:
                with suppress(ProcessLookupError):
                    os.kill(number, signal.SIGKILL)
            return f"{folder.name}: {len(left)} processes outlive it by {seconds:g} s"
        time.sleep(0.05)
    return None


_STARTING, _ASKING = Lock(), Lock()
"""Each start asks after all processes, and how one ended can be asked in one thread at a time."""


def _server() -> Any:
    """What forks; it would import from where it is started: not from the sources."""
    context = multiprocessing.get_context("forkserver")
    with _STARTING:
        context.set_forkserver_preload(WARM)
        here, threads = Path.cwd(), os.environ.get("OMP_NUM_THREADS")
        os.chdir("/")
        os.environ["OMP_NUM_THREADS"] = "1"
        try:
            forkserver.ensure_running()
        finally:
            os.chdir(here)
            os.environ.pop("OMP_NUM_THREADS")
            if threads is not None:
                os.environ["OMP_NUM_THREADS"] = threads
    return context


def _run(
    folder: str, arguments: list[str], environment: dict[str, str], defect: str | None
) -> None:
    os.chdir(folder)
    os.environ.update(environment)
    said = os.open("said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for descriptor in (1, 2):
        os.dup2(said, descriptor)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which the server of forks ignores
    multiprocessing.set_start_method("fork", force=True)  # as in a run from a shell, on Linux
    from crn_fast import cli
    from crn_fast.training import data

    # As many processes that read data as are asked for, however few CPUs there are.
    data.usable_cpus = lambda: 4
    if defect:
        from hostile import defects

        getattr(defects, defect)()
    cli.main(arguments)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port
