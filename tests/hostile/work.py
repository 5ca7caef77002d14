"""Rendering a folder and building an engine, to be disturbed, and what they give if left alone."""

from __future__ import annotations

from pathlib import Path

from crn_fast import failpoints
from hostile.forks import Run
from scene import write_pairs
from tiny import SPEC, save_checkpoint


class Work:
    """Their inputs, commands and results."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        model = save_checkpoint(folder / "model.safetensors", SPEC)
        write_pairs(folder / "data", 12, SPEC.size)
        shared = ["-q", "render", "--layout", str(folder / "data" / "labels"), "-m", str(model)]
        self.render = [*shared, "--backend", "native", "--threads", "1", "-o", "out"]
        self.build = ["-q", "build-engine", str(model), "--backend", "native", "-o", "it.crn"]
        self.build += ["--force"]
        for name, command in (("rendered", self.render), ("built", self.build)):
            (folder / name).mkdir()
            run = Run(folder / name, command)
            assert run.wait() == [0], run.said
        self.pictures = pictures_in(folder / "rendered" / "out")
        self.engine = (folder / "built" / "it.crn").read_bytes()

    def start(
        self, name: str, command: list[str], chosen: str = "", defect: str | None = None
    ) -> Run:
        (self.folder / name).mkdir(exist_ok=True)
        environment = {failpoints.VARIABLE: chosen} if chosen else {}
        return Run(self.folder / name, command, 1, environment, defect)


def pictures_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.png")}
