"""Suite `endtoend`: `crn-fast render` as a user runs it, from the shell to the picture file.

The clock is around the whole process. Its parts are what the process says of itself; `start` is the
rest: the interpreter, imports, and the way out. Files are in the page cache.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

import frame
from crn_fast.errors import Unavailable
from crn_fast.measure import pairs, rows
from crn_fast.measure.gate import Checked, Subject
from crn_fast.measure.machine import Contention
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Spread
from inputs import Inputs

SUBJECTS = ("native", "checkpoint", "eager")
"""An engine file; a checkpoint that the backend native packs on the way; the backend eager."""


class Render:
    """A command line, and the parts of the time of each of its runs."""

    def __init__(self, inputs: Inputs, name: str, threads: int, folder: Path) -> None:
        model = inputs.engine if name == "native" else inputs.model
        self.out = folder / f"{inputs.network}.{name}.render.png"
        backend = "eager" if name == "eager" else "native"
        self.command = [
            *(sys.executable, "-P", "-m", "crn_fast", "render", "--layout", str(inputs.layout)),
            *("-m", str(model), "-o", str(self.out), "--backend", backend),
            *("--threads", str(threads), "--images", "1", "--overwrite", "--json"),
        ]
        self.parts: list[dict[str, float]] = []

    def __call__(self) -> Path:
        result = subprocess.run(self.command, capture_output=True, text=True)
        if result.returncode:
            raise Unavailable(f"crn-fast render: exit {result.returncode}: {result.stderr[-300:]}")
        self.parts.append(json.loads(result.stdout)["seconds"])
        return self.out


def measure(
    inputs: Inputs,
    names: Sequence[str],
    threads: int,
    rounds: int,
    folder: Path,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of the whole process, with its parts."""
    expected = np.load(inputs.expected, mmap_mode="r")[:, :1]
    case = frame.case_of(inputs, threads)
    renders = {name: Render(inputs, name, threads, folder) for name in names}
    checked = [
        Checked(
            Subject(name, render, " ".join(["crn-fast", *render.command[4:]]), fetch=_picture),
            expected,
            frame.LIMIT,
            inputs.against,
        )
        for name, render in renders.items()
    ]
    contention = Contention()
    timings, failures = pairs.interleave(checked, rounds, 0, told=told)
    waited = contention.share()
    found = [
        Row("endtoend", case, name, "", origin, reason=reason) for name, reason in failures.items()
    ]
    for name, timing in timings.items():
        laps = renders[name].parts[-rounds:]
        parts = {part: Spread.of([lap[part] for lap in laps]) for part in laps[0]}
        rest = [whole - sum(lap.values()) for whole, lap in zip(timing.seconds, laps, strict=True)]
        others = {n: pairs.ratio(t, timing) for n, t in timings.items() if n != name}
        found.append(
            rows.measured(
                *("endtoend", case, timing, origin),
                parts={"start": Spread.of(rest), **parts},
                ratios=others,
                contention=waited,
            )
        )
    return found


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))[None, None]
