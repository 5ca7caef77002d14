"""A subject in a process of its own: its libraries, threads and memory stay away from the others'.

The child makes the subject, watches its memory, passes the gate and times its runs; the parent
holds a `Child` and says when. A child that fails, hangs or is killed is a reason, not a crash.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from crn_fast.errors import CrnError, Unavailable
from crn_fast.measure.gate import Checked, Passed, Subject
from crn_fast.measure.memory import Memory, unwatchable, watch

PATIENCE = 900.0
"""Seconds that a child may take over one thing: a compiler's autotuning is the longest."""

CONFIRM = "confirm"
"""What a child is asked; else a burst, for its seconds."""


class Child:
    """A `Checked` in a child process, to be used in a `with`.

    Args:
        make: a module's function, or a `functools.partial` of one; called in the child.
        expected: file of the oracle, .npy.
        limit, against: as of `gate.Passed`.
        weights: a file that the subject maps, for `memory`.
        environment: set in the child before `make` runs.
        patience: seconds to wait for each answer.
        pictures: as of `gate.Passed`.
        burst: as of `gate.Checked.seconds`.

    Raises:
        CheckFailed: the result is wrong.
        Unavailable: the subject cannot be made or run here; the message says why.
    """

    def __init__(
        self,
        make: Callable[[], Subject],
        expected: Path,
        limit: float,
        against: str,
        *,
        weights: Path | None = None,
        environment: Mapping[str, str] | None = None,
        patience: float = PATIENCE,
        pictures: bool = True,
        burst: float = 0.0,
    ) -> None:
        self._burst = burst
        self.name = getattr(getattr(make, "func", make), "__name__", "child")
        self.settings, self._patience = "", patience
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        judged = (expected, limit, against, pictures)
        arguments = (theirs, make, *judged, weights, dict(environment or {}))
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        theirs.close()
        try:
            self.name, self.settings, self.passed, self.memory = self._answer()
        except BaseException:
            self.close()
            raise

    passed: Passed
    memory: dict[str, Memory]
    """'start': of making the subject and its first run; 'run': of a later one. Empty where the
    system does not say."""

    def seconds(self) -> float:
        """As `Checked.seconds`: the child's own clock around the run alone."""
        return float(self._ask(self._burst))

    def confirm(self) -> None:
        """As `Checked.confirm`."""
        self._ask(CONFIRM)

    def close(self) -> None:
        """End the child; what it held is free."""
        self._pipe.close()
        self._process.join(5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _ask(self, what: float | str) -> Any:
        try:
            self._pipe.send(what)
        except OSError:
            raise Unavailable(f"{self.name}: its process is gone") from None
        return self._answer()

    def _answer(self) -> Any:
        try:
            if not self._pipe.poll(self._patience):
                self._process.kill()
                raise Unavailable(f"{self.name}: no answer within {self._patience:.0f} s")
            answer = self._pipe.recv()
        except (EOFError, ConnectionError):
            self._process.join(5)
            code = self._process.exitcode
            killed = f"signal {-code}; out of memory?" if code and code < 0 else f"exit {code}"
            raise Unavailable(f"{self.name}: its process ended ({killed})") from None
        if isinstance(answer, CrnError):
            raise answer
        return answer


def _serve(
    pipe: Connection,
    make: Callable[[], Subject],
    expected: Path,
    limit: float,
    against: str,
    pictures: bool,
    weights: Path | None,
    environment: Mapping[str, str],
) -> None:
    os.environ.update(environment)
    try:
        subject, result, memory = _start(make, weights)
        oracle = np.load(expected, mmap_mode="r")
        checked = Checked(subject, oracle, limit, against, pictures=pictures, result=result)
        pipe.send((checked.name, checked.settings, checked.passed, memory))
        while True:
            if (asked := pipe.recv()) == CONFIRM:
                checked.confirm()
                pipe.send(None)
            else:
                pipe.send(checked.seconds(asked))
    except (EOFError, ConnectionError):  # the parent is done
        return
    except CrnError as error:
        pipe.send(error)
    except Exception as error:
        # Whatever a foreign library raises means that it cannot be measured here.
        pipe.send(Unavailable(f"{type(error).__name__}: {str(error).strip()[:300]}"))


def _start(
    make: Callable[[], Subject], weights: Path | None
) -> tuple[Subject, Any, dict[str, Memory]]:
    """The subject, the result of its last run, and the memory that it took."""

    def first() -> Subject:
        subject = make()
        subject.run()
        return subject

    if unwatchable():
        subject = first()
        return subject, subject.run(), {}
    subject, start = watch(first, weights)
    result, run = watch(subject.run, weights)
    return subject, result, {"start": start, "run": run}
