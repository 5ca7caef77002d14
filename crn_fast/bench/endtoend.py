"""Suite `endtoend`: `crn-fast render` as a user runs it, from the shell to the files.

The clock is around the whole process. Of one frame, its parts are what the process says of itself;
`start` is the rest: the interpreter, imports, and the way out. Files are in the page cache.

The case of a folder of layouts has `layouts`, their number, and `output`: 'folder' of PNG pictures,
or 'video', an MP4 file. What a folder saves is in its ratio to `one by one`, a process for each.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from crn_fast import checkpoint, layout
from crn_fast.bench import frame
from crn_fast.bench.inputs import Inputs
from crn_fast.errors import Unavailable
from crn_fast.files import make_folder
from crn_fast.measure import rows
from crn_fast.measure.gate import Checked, Subject
from crn_fast.measure.rows import Origin, Row
from crn_fast.measure.timer import Spread
from crn_fast.measure.turns import take

SUBJECTS = ("native", "checkpoint", "eager")
"""An engine file; a checkpoint that the backend native packs on the way; the backend eager."""
OUTPUTS = {"folder": ("native", "one by one"), "video": ("native",)}
"""What is made of a folder of layouts -> subjects."""
BLOCK, VIDEO_LIMIT = 8, 12.0
"""A video is compressed: it is judged by means over 8x8 pixels, to so many grey levels. Moved by a
pixel, it is off by more than twice as much."""


class Render:
    """A command line, and the parts of the time of each of its runs."""

    def __init__(self, inputs: Inputs, name: str, threads: int, source: Path, out: Path) -> None:
        eager = name == "eager" or inputs.engine is None
        model = inputs.engine if inputs.engine and name == "native" else inputs.model
        self.out = out
        self.command = [
            *(sys.executable, "-P", "-m", "crn_fast", "render", "--layout", str(source)),
            *("-m", str(model), "-o", str(out), "--backend", "eager" if eager else "native"),
            *("--threads", str(threads), "--images", "1", "--overwrite", "--json"),
        ]
        self.parts: list[dict[str, float]] = []

    def __call__(self) -> Path:
        result = subprocess.run(self.command, capture_output=True, text=True)
        if result.returncode:
            raise Unavailable(f"crn-fast render: exit {result.returncode}: {result.stderr[-300:]}")
        said = json.loads(result.stdout.splitlines()[-1])
        seconds = said.get("seconds")
        self.parts.append(seconds if isinstance(seconds, dict) else {})
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
    """Rows of one frame, with its parts."""
    outs = {name: folder / f"{inputs.network}.{name}.render.png" for name in names}
    renders = {
        name: Render(inputs, name, threads, inputs.layout, out) for name, out in outs.items()
    }
    expected = np.load(inputs.expected, mmap_mode="r")[:1, :1]
    subjects = {
        name: Subject(name, render, _shown(render), fetch=_picture)
        for name, render in renders.items()
    }
    case = {**frame.case_of(inputs, threads), "batch": 1}
    found = _take(subjects, expected, frame.LIMITS["fp32"], inputs, case, rounds, origin, told)
    return [_with_parts(row, renders[row.subject].parts[-rounds:]) for row in found]


def measure_many(
    inputs: Inputs,
    output: str,
    threads: int,
    rounds: int,
    folder: Path,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Rows of a folder of as many layouts as `inputs.batch`; `output` is one of `OUTPUTS`."""
    source = folder / f"{inputs.network}.{inputs.batch}.layouts"
    make_folder(source)
    labels = checkpoint.load(inputs.model).labels
    for index, ids in enumerate(np.load(inputs.labels)):
        layout.write(layout.from_array(ids, labels), source / f"{index:04}.png")
    out = folder / f"{inputs.network}.{inputs.batch}.{output}"
    if output == "video":
        video = Render(inputs, "native", threads, source, out.with_suffix(".mp4"))
        subjects = {"native": Subject("native", video, _shown(video), fetch=_frames)}
    else:
        alone = folder / f"{inputs.network}.{inputs.batch}.alone"
        make_folder(alone)
        at_once = Render(inputs, "native", threads, source, out)
        each = [
            Render(inputs, "native", threads, path, alone / path.name)
            for path in sorted(source.iterdir())
        ]

        def one_by_one() -> Path:
            for render in each:
                render()
            return alone

        words = f"{len(each)} times {_shown(each[0])}"
        subjects = {
            "native": Subject("native", at_once, _shown(at_once), fetch=_pictures),
            "one by one": Subject("one by one", one_by_one, words, fetch=_pictures),
        }
    expected, limit = np.load(inputs.expected, mmap_mode="r")[:, :1], frame.LIMITS["fp32"]
    if output == "video":
        expected, limit = _blocks(expected.clip(0, 255)), VIDEO_LIMIT
    case = {**frame.case_of(inputs, threads), "batch": 1, "layouts": inputs.batch, "output": output}
    return _take(subjects, expected, limit, inputs, case, rounds, origin, told)


def _take(
    subjects: Mapping[str, Subject],
    expected: np.ndarray,
    limit: float,
    inputs: Inputs,
    case: rows.Case,
    rounds: int,
    origin: Origin,
    told: Callable[[str], object],
) -> list[Row]:
    """Through the gate, and by turns."""
    starts = {
        name: partial(Checked, subject, expected, limit, inputs.against)
        for name, subject in subjects.items()
    }
    taken = take(starts, rounds, told=told)
    return [taken.row("endtoend", case, name, origin) for name in taken.keys]


def _with_parts(row: Row, laps: Sequence[dict[str, float]]) -> Row:
    """With what the process said of each of the row's rounds, and `start`, what is left of them."""
    if row.time is None:
        return row
    known: dict[str, Any] = {part: [lap[part] for lap in laps] for part in laps[0]}
    rest = [whole - sum(lap.values()) for whole, lap in zip(row.seconds, laps, strict=True)]
    parts = {part: Spread.of(seconds) for part, seconds in {"start": rest, **known}.items()}
    return dataclasses.replace(row, parts=parts)


def _shown(render: Render) -> str:
    return " ".join(["crn-fast", *render.command[4:]])


def _picture(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))[None, None]


def _pictures(folder: Path) -> np.ndarray:
    """All of a folder, in the order of their names: [N, 1, H, W, 3]."""
    return np.concatenate([_picture(path) for path in sorted(folder.glob("*.png"))])


def _frames(path: Path) -> np.ndarray:
    """All of a video, as `_blocks` of them."""
    import av

    with av.open(str(path)) as container:
        pictures = [
            picture.reformat(format="rgb24", src_colorspace="ITU709").to_ndarray()
            for picture in container.decode(video=0)
        ]
    return _blocks(np.stack(pictures)[:, None])


def _blocks(pictures: np.ndarray) -> np.ndarray:
    """Means over blocks of pixels: [N, K, H, W, 3] -> [N, K, H / 8, W / 8, 3]."""
    n, k, height, width, _ = pictures.shape
    blocks = pictures.reshape(n, k, height // BLOCK, BLOCK, width // BLOCK, BLOCK, 3)
    means: np.ndarray = blocks.mean((3, 5), dtype=np.float64)
    return means
