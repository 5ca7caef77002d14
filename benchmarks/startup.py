"""Suite `startup`: what a user waits for before the first picture.

Each run is a process of its own; the clock is around it all, from the shell's side. Files are in
the system's page cache, which only root can empty. `python` is the interpreter alone, which all the
others hold, too.

Run as a script, it is the process that renders: python startup.py MODEL LABELS THREADS FRAMES OUT
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import __version__
from crn_fast.bench import frame
from crn_fast.bench.inputs import Inputs
from crn_fast.errors import Unavailable
from crn_fast.measure.gate import Checked, Subject
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Spread, Timing
from crn_fast.measure.turns import take

PYTHON = (sys.executable, "-P")  # -P: not the folder crn_fast/ that may lie in the working folder
COMMANDS = {
    "python": ("-c", f"print({__version__!r})"),
    "import": ("-c", "import crn_fast; print(crn_fast.__version__)"),
    "version": ("-m", "crn_fast", "--version"),
    "help": ("-m", "crn_fast", "--help"),
}
"""Subject -> arguments of Python."""
FRAMES = {"one frame": 1, "five frames": 5}
"""Subject -> pictures that its process makes, of the same layout, in memory."""
SUBJECTS = (*COMMANDS, *FRAMES)


def measure(
    inputs: Inputs,
    names: Sequence[str],
    threads: int,
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of `SUBJECTS`; that of frames has the process's own account in its parts."""
    case = frame.case_of(inputs, threads)
    runs = {name: Frames(inputs, FRAMES[name], threads) for name in names if name in FRAMES}

    def start(name: str) -> Checked:
        if name in FRAMES:
            expected = np.load(inputs.expected, mmap_mode="r")
            subject = Subject(name, runs[name], f"{FRAMES[name]} in a process", fetch=np.load)
            return Checked(subject, expected, frame.LIMITS["fp32"], inputs.against)
        subject = Subject(name, _printing(name), " ".join(COMMANDS[name]), fetch=_letters)
        return Checked(subject, _expected(name), 0.0, "what it should print", pictures=False)

    def figures(name: str, timing: Timing) -> dict[str, Any]:
        if name not in runs:
            return {}
        laps = runs[name].laps[-rounds:]
        rest = [t - sum(lap.values()) for t, lap in zip(timing.seconds, laps, strict=True)]
        known = {part: [lap[part] for lap in laps] for part in laps[0]}
        return {"parts": {p: Spread.of(each) for p, each in {"start": rest, **known}.items()}}

    taken = take({name: partial(start, name) for name in names}, rounds, told=told)
    return [taken.row("startup", case, name, origin, partial(figures, name)) for name in taken.keys]


class Frames:
    """A process that renders, and its account of each run."""

    def __init__(self, inputs: Inputs, frames: int, threads: int) -> None:
        self.out = inputs.labels.with_name(f"{inputs.network}.startup.{frames}.npy")
        arguments = (inputs.engine or inputs.model, inputs.labels, threads, frames, self.out)
        self.command = [*PYTHON, __file__, *map(str, arguments)]
        self.laps: list[dict[str, float]] = []

    def __call__(self) -> Path:
        self.laps.append(json.loads(_run(self.command)))
        return self.out


def render(model: str, labels: str, threads: str, frames: str, out: str) -> dict[str, float]:
    """Seconds of opening, the first frame (cold) and the later ones (warm), their sum."""
    from crn_fast.engine import Engine

    laps, since = {}, time.perf_counter()

    def end(part: str) -> None:
        nonlocal since
        now = time.perf_counter()
        laps[part], since = now - since, now

    engine = Engine.open(model, backend="native", threads=int(threads))
    ids = np.load(labels)
    end("open")
    pictures = engine.render(ids)
    end("cold frame")
    for _ in range(int(frames) - 1):
        pictures = engine.render(ids)
    if int(frames) > 1:
        end("warm frames")
    np.save(out, pictures)
    end("write")
    return laps


def _run(command: Sequence[str]) -> str:
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise Unavailable(f"{' '.join(command)}: exit {result.returncode}: {result.stderr[-300:]}")
    return result.stdout


def _printing(name: str) -> Callable[[], str]:
    return lambda: _run([*PYTHON, *COMMANDS[name]])


def _letters(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _expected(name: str) -> np.ndarray:
    """What a command should print, as letters."""
    if name == "help":
        from click import Context

        from crn_fast.cli import cli

        context = Context(cli, info_name="crn-fast", **cli.context_settings)
        return _letters(cli.get_help(context) + "\n")
    return _letters(
        f"crn-fast, version {__version__}\n" if name == "version" else f"{__version__}\n"
    )


if __name__ == "__main__":
    print(json.dumps(render(*sys.argv[1:])))
