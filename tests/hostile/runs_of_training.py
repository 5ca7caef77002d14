"""A toy run of training, over in a second, and what must be the same however it got there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

import torch

from crn_fast import checkpoint
from crn_fast.training.run_folder import holds_run
from hostile.forks import Run, left_by
from hostile.old_files import OldFiles
from runs import digests
from scene import vgg_state, write_pairs

STEPS = 24
SAVE_EVERY = 5
KEEP = 2


class Toy:
    """Data, recipe and feature network in a folder, for runs below it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.save(vgg_state(), folder / "vgg19.pth")
        write_pairs(folder / "data")
        (folder / "recipe.toml").write_text(
            'label_set = "camvid"\n[network]\nwidths = [8, 8, 6]\nclasses = 12\n'
            "[[data]]\nzoom = [0.8, 1.0]\n"
            '[loss]\nweights = "vgg19.pth"\ncalibrate_at = 6\n[training]\nbatch = 2\n'
            f"steps = {STEPS}\nsave_every = {SAVE_EVERY}\nkeep = {KEEP}\nsample_every = 10\n"
            "ema = 0.9\nflip = true\nbrightness = 0.2\nhue = 0.1\ndeterministic = true\n"
        )
        self._whole: dict[int, dict[str, str]] = {}
        self._old: dict[str, OldFiles] = {}

    def start(
        self,
        name: str,
        workers: int = 0,
        ranks: int = 1,
        environment: Mapping[str, str] | None = None,
        defect: str | None = None,
        resume: bool | None = None,
    ) -> Run:
        """Begin the run `name`, or go on with it where there is something; see `Run`."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        command = ["train", "../data", "-c", "../recipe.toml", "--device", "cpu", "--out", "run"]
        command += ["--set", f"training.workers={workers}"]
        command += ["--set", "loss.weights=../vgg19.pth"]
        resume = holds_run(folder / "run") if resume is None else resume
        command += ["--resume"] * resume
        self._old[name] = OldFiles(folder / "run")
        return Run(folder, command, ranks, environment, defect)

    def outcome(
        self, name: str, workers: int = 0, ranks: int = 1, defect: str | None = None
    ) -> str | None:
        """Go on to the end; what is not as in a run that was left alone."""
        run = self.start(name, workers, ranks, defect=defect)
        if any(codes := run.wait()):
            return f"{name}: cannot go on: exit codes {codes}: {run.said[-300:]}"
        return self.differs(name, ranks)

    def differs(self, name: str, ranks: int = 1) -> str | None:
        """What of a run that ended is not as in one that was left alone."""
        if wrong := self.unsound(name):
            return wrong
        folder = self.folder / name / "run"
        whole, found = self.whole(ranks), digests(folder)
        if wrong := sorted(k for k in whole | found if whole.get(k) != found.get(k)):
            return f"{name}: ends with other {', '.join(wrong)}"
        if left := [path.name for path in folder.rglob(".*") if path.name != ".lock"]:
            return f"{name}: left {', '.join(left)}"
        numbered = sorted(path.name for path in folder.glob("ckpt-*.pt"))
        if len(numbered) != KEEP or numbered[-1] != f"ckpt-{STEPS}.pt":
            return f"{name}: keeps {', '.join(numbered)}"
        return None

    def unsound(self, name: str) -> str | None:
        """What is wrong with a run's folder after its process ended, however it did."""
        if wrong := left_by(self.folder / name):
            return wrong
        if name in self._old and (wrong := self._old.pop(name).let_go()):
            return f"{name}: {wrong}"
        folder = self.folder / name / "run"
        for path in folder.glob("ckpt*.pt"):
            try:
                checkpoint.load(path)
            except Exception as error:
                return f"{name}: {path.name} cannot be loaded: {error}"
        return None

    def step(self, name: str) -> int:
        """The step of ckpt.pt; 0 if there is none."""
        path = self.folder / name / "run" / "ckpt.pt"
        return int(checkpoint.load(path).notes["steps"]) if path.exists() else 0

    def logged(self, name: str) -> int:
        """The last step in the log of metrics."""
        path = self.folder / name / "run" / "metrics.jsonl"
        steps = [0]
        for line in path.read_text().splitlines() if path.exists() else ():
            try:
                steps.append(json.loads(line)["step"])
            except ValueError:
                break
        return max(steps)

    def whole(self, ranks: int = 1) -> dict[str, str]:
        """What a run that is left alone ends with, whatever the number of workers."""
        if ranks not in self._whole:
            name = f"whole-{ranks}"
            run = self.start(name, 0, ranks)
            codes = run.wait()
            assert not any(codes), f"{codes}: {run.said[-2000:]}"
            self._whole[ranks] = digests(self.folder / name / "run")
        return self._whole[ranks]

    def forget(self, name: str) -> None:
        shutil.rmtree(self.folder / name)
