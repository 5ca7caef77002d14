"""Child processes that work on cases which may crash or hang them.

A worker is used again for case after case; one that dies, or takes too long, is replaced, and the
case's verdict says so. What a case is, and what is right, is the subject's business.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from multiprocessing.connection import Connection
from queue import SimpleQueue
from typing import Any, TypeVar

Case = TypeVar("Case")
Subject = Callable[[Any], str | None]
"""Given a case, None if all is right, else what is wrong. A function of a module that can be
imported, or a `functools.partial` of one, for it travels to the child."""

SECONDS = 10.0
"""The longest a case may take."""
MEMORY = 6 << 30
"""Bytes of address space of a child; libraries reserve far more than they use."""
AHEAD = 64
"""Cases that are made before they are needed."""


class Worker:
    """One child process, made when first used."""

    def __init__(
        self, subject: Subject, seconds: float = SECONDS, memory: int | None = MEMORY
    ) -> None:
        self.subject, self.seconds, self.memory = subject, seconds, memory
        self.process: Any = None
        self.connection: Connection

    def __call__(self, case: Any) -> str | None:
        """The subject's verdict, or that the child died or took too long."""
        if self.process is None:
            self._start()
        try:
            self.connection.send(case)
            if self.connection.poll(self.seconds):
                found: str | None = self.connection.recv()
                return found
            self.close()
            return f"took longer than {self.seconds:g} s"
        except (EOFError, OSError):
            self.process.join(10)
            code = self.process.exitcode
            self.close()
            return f"the process died with exit code {code}"

    def close(self) -> None:
        """End the child."""
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.connection.close()
            self.process = None

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(theirs, self.subject, self.memory), daemon=True
        )
        self.process.start()
        theirs.close()
        if not self.connection.poll(120) or self.connection.recv() != "ready":
            raise RuntimeError("the child process did not start")


def verdicts(
    subject: Subject,
    cases: Iterable[Case],
    *,
    processes: int = 2,
    seconds: float = SECONDS,
    memory: int | None = MEMORY,
) -> Iterator[tuple[Case, str | None]]:
    """Each case with its verdict, in order; the cases may be made on the way."""
    idle: SimpleQueue[Worker] = SimpleQueue()
    workers = [Worker(subject, seconds, memory) for _ in range(processes)]
    for worker in workers:
        idle.put(worker)

    def judge(case: Case) -> tuple[Case, str | None]:
        worker = idle.get()
        try:
            return case, worker(case)
        finally:
            idle.put(worker)

    source = iter(cases)
    try:
        with ThreadPoolExecutor(processes) as pool:
            while group := list(islice(source, AHEAD)):
                yield from pool.map(judge, group)
    finally:
        for worker in workers:
            worker.close()


def _serve(connection: Connection, subject: Subject, memory: int | None) -> None:
    if memory is not None:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
    # What it does may start processes, which multiprocessing forbids to a daemon. For its
    # parent it stays one, whose end does not wait for it.
    multiprocessing.process.current_process()._config["daemon"] = False  # type: ignore[attr-defined]
    connection.send("ready")
    while True:
        try:
            case = connection.recv()
        except EOFError:
            return
        try:
            verdict = subject(case)
        except BaseException as error:
            verdict = f"{type(error).__name__}: {error}"
        connection.send(verdict)
