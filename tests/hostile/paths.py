"""Rendering among evil names, and whether anything happened outside the folder of pictures."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from unittest import mock

import numpy as np

import tiny
from crn_fast import cli
from hostile.command_line import Ran, run
from hostile.names import Place, prepare, words

CODES = (0, 2, 3, 4, 5, 6, 7)
BOLD = re.compile("\x1b\\[[01]m")
"""Of the heads of tables."""
PICTURE = re.compile(r"work/.*\.render(_\d)?\.png", re.DOTALL)
"""Of one layout where no -o was given."""


@cache
def _model(folder: Path) -> Path:
    return tiny.save_checkpoint(folder / f"{os.getpid()}.safetensors")


def stays_inside(folder: Path, seed: int, defect: str = "") -> str | None:
    """None if a run among evil names, all drawn by `seed`, changes nothing outside, and tells it.

    It ends with an exit code for what is wrong with files, with one line on stderr that a terminal
    can show. The code is added to a file. `defect` is 'links' or 'escapes': see `_planted`.
    """
    rng = np.random.default_rng(seed)
    root = folder / f"{os.getpid()}-{seed}"
    try:
        place = prepare(root, rng)
        given = words(place, rng)
        terminal = bool(rng.integers(2))
        at = given.index("--")
        model = ["-m", str(_model(folder)), "--threads", "1"] if given[0] == "render" else []
        given = [*given[:at], *model, *given[at:]]
        before = place.files()
        with _planted(defect):
            done = run(given, place.work, main=_on_terminal if terminal else cli.main)
        wrong = _judge(place, before, done, terminal)
        with (folder / f"{os.getpid()}.codes").open("a") as stream:
            stream.write(f"{done.code}\n")
        return wrong and f"{given}: {wrong}"
    finally:
        subprocess.run(["rm", "-rf", root], check=True)  # which knows no deepest level


def codes(folder: Path) -> list[int]:
    """The exit codes of all runs so far."""
    return [int(line) for path in folder.glob("*.codes") for line in path.open()]


def _on_terminal(given: list[str]) -> None:
    with mock.patch.object(sys.stdout, "isatty", return_value=True):
        cli.main(given)


def _judge(
    place: Place, before: dict[str, tuple[int, bytes]], done: Ran, terminal: bool
) -> str | None:
    after = place.files()
    if changed := [name for name, found in before.items() if after.get(name) != found]:
        return f"changed {changed}"
    if new := [n for n in after if n not in before and not PICTURE.fullmatch(n)]:
        return f"wrote {new}"
    lines = done.err.split("\n")[:-1]
    shown = lines + (BOLD.sub("", done.out).split("\n") if terminal else [])
    if not all(line.isprintable() for line in shown):
        return f"printed {shown}"
    ends = [line for line in lines if line.startswith("crn-fast: ")]
    if done.code not in CODES or "bug of ours" in done.err or "Traceback" in done.err:
        return f"exit code {done.code}: {done.err[-500:]}"
    if ends != (lines[-1:] if done.code else []):
        return f"exit code {done.code}, but said {lines}"
    return None


@contextmanager
def _planted(defect: str) -> Iterator[None]:
    """'links': pictures and manifests follow links. 'escapes': names are printed as they are."""
    from crn_fast.rendering import manifest, tree

    def follow(folder: Path, name: object) -> Path:
        path = folder / str(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    if defect == "links":
        with (
            mock.patch.object(tree, "place", follow),
            mock.patch.object(manifest.os.path, "islink", return_value=False),
        ):
            yield
    elif defect == "escapes":
        with mock.patch.object(cli, "one_line", str):
            yield
    else:
        yield
