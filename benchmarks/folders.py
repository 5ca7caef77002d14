"""Folders and videos against the renderer alone: what reading, writing and encoding cost.

    python benchmarks/folders.py street-1024 24

renders shifted copies of the packaged example, by turns: from memory to nowhere; by `crn-fast
render` to PNG, JPEG and MP4, which opens its engine each time; and one layout after the other.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np

from crn_fast import cli, image, layout, models
from crn_fast.engine import Engine

ROUNDS = 3


def main(model: str, count: int) -> None:
    engine = Engine.open(models.path_of(model))
    example = layout.read(models.example_of(model), engine.labels).array
    shifts = [np.roll(example, i * example.shape[1] // count, 1) for i in range(count)]
    maps = [layout.from_array(ids, engine.labels) for ids in shifts]
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder, "layouts", f"{i:04}.png") for i in range(count)]
        paths[0].parent.mkdir()
        for path, made in zip(paths, maps, strict=True):
            layout.write(made, path)

        def alone() -> None:
            for made in maps:
                engine.render(made)

        def serial() -> None:
            for path in paths:
                picture = engine.render(layout.read(path, engine.labels))[0, 0]
                image.write(Path(folder, "one.png"), picture)

        def command(out: str, *options: str) -> Callable[[], None]:
            def run() -> None:
                given = ["--layout", str(paths[0].parent), "-m", model, "-o", f"{folder}/{out}"]
                try:
                    cli.main(["render", "-q", *given, "--overwrite", *options])
                except SystemExit as ended:
                    assert not ended.code, ended.code

            return run

        subjects = {
            "the renderer alone": alone,
            "a folder of PNG": command("png"),
            "a folder of JPEG": command("jpg", "--format", "jpg"),
            "a video": command("video.mp4"),
            "PNG one after the other": serial,
        }
        seconds: dict[str, list[float]] = {name: [] for name in subjects}
        for turn in range(ROUNDS + 1):
            for name, run in subjects.items():
                since = perf_counter()
                run()
                if turn:  # the first warms up
                    seconds[name].append(perf_counter() - since)
    print(f"{model}, {count} layouts, {ROUNDS} rounds, {engine.device}")
    for name, taken in seconds.items():
        ratios = sorted(a / b for a, b in zip(seconds["the renderer alone"], taken, strict=True))
        print(
            f"| {name} | {count / median(taken):.2f} | {median(ratios):.2f} | "
            f"{ratios[0]:.2f} to {ratios[-1]:.2f} |"
        )


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
