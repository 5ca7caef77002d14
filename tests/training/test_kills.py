"""Runs that are killed at random moments and resumed end as one that is left alone.

A few kills every day; CRN_FAST_KILLS=100 makes it a hundred in each test, `-s` shows the digests.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import checkpoint  # noqa: E402
from crn_fast.training.run_folder import RunFolder  # noqa: E402
from runs import digests  # noqa: E402
from scene import vgg_state, write_pairs  # noqa: E402

KILLS = int(os.environ.get("CRN_FAST_KILLS", "0"))
STEPS = 60 * (KILLS or 2)
BY_HAND = pytest.mark.skipif(not KILLS, reason="half a minute: with CRN_FAST_KILLS alone")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


class Killed:
    """Runs of one recipe that are killed at random moments, beside one that is not."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        torch.save(vgg_state(), folder / "vgg19.pth")
        write_pairs(folder / "data")
        (folder / "recipe.toml").write_text(
            'label_set = "camvid"\n[network]\nwidths = [8, 8, 6]\nclasses = 12\n'
            "[[data]]\nzoom = [0.8, 1.0]\n"
            '[loss]\nweights = "vgg19.pth"\ncalibrate_at = 6\n[training]\nbatch = 2\n'
            f"steps = {STEPS}\nsave_every = 7\nsample_every = 20\nema = 0.9\n"
            "flip = true\nbrightness = 0.2\nhue = 0.1\ndeterministic = true\n"
        )
        # As many processes that read data as are asked for, however few CPUs there are.
        (folder / "train.py").write_text(
            "import sys\nfrom crn_fast import cli\nfrom crn_fast.training import data\n"
            "data.usable_cpus = lambda: 4\ncli.main(sys.argv[1:])\n"
        )
        self.whole: dict[int, dict[str, str]] = {}

    def start(self, workers: int, ranks: int, out: str) -> subprocess.Popen[bytes]:
        """Begin or go on."""
        command = [*(sys.executable, *((*TORCHRUN, str(ranks)) if ranks > 1 else ())), "train.py"]
        command += ["-q", "train", "data", "-c", "recipe.toml", "--device", "cpu", "--out", out]
        command += ["--set", f"training.workers={workers}"]
        command += ["--resume"] if (self.folder / out / "ckpt.pt").exists() else []
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(
            command, cwd=self.folder, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=(self.folder / "stderr").open("ab"),
        )  # fmt: skip

    def finish(self, workers: int, ranks: int, out: str) -> None:
        """Begin or go on, to the end."""
        process = self.start(workers, ranks, out)
        try:
            assert process.wait(timeout=1800) == 0, (self.folder / "stderr").read_text()[-2000:]
        except subprocess.TimeoutExpired:
            kill(process)
            raise

    def uninterrupted(self, ranks: int) -> dict[str, str]:
        """What a run without kills ends with, whatever the number of workers."""
        if ranks not in self.whole:
            self.finish(0, ranks, f"whole-{ranks}")
            self.whole[ranks] = digests(self.folder / f"whole-{ranks}")
        return self.whole[ranks]


def kill(process: subprocess.Popen[bytes]) -> None:
    """SIGKILL to a process and all it has started; torchrun's have process groups of their own."""
    process.send_signal(signal.SIGSTOP)
    tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
    children = [int(child) for task in tasks for child in task.read_text().split()]
    for group in {os.getpgid(child) for child in children} | {process.pid}:
        os.killpg(group, signal.SIGKILL)
    process.wait()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    return Killed(tmp_path_factory.mktemp("killed"))


@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes to kill in /proc")
@pytest.mark.parametrize(
    ("workers", "ranks"), [(0, 1), (4, 1), pytest.param(0, 2, marks=BY_HAND), (4, 2)]
)
def test_kills_lose_at_most_one_save_interval(killed: Killed, workers: int, ranks: int) -> None:
    """Kills at random moments, then on to the end: the same files as without, to the byte."""
    kills = KILLS or (2 if (workers, ranks) == (0, 1) else 1)
    out = f"killed-{workers}-{ranks}"
    newest = killed.folder / out / "ckpt.pt"
    rng = np.random.default_rng((workers, ranks))
    for _ in range(kills):
        process = killed.start(workers, ranks, out)
        seen = newest.stat().st_mtime_ns if newest.exists() else 0
        until = time.monotonic() + 120
        if rng.random() < 0.25:  # while it starts or resumes
            until = time.monotonic() + float(rng.uniform(0, 4))
        while process.poll() is None and time.monotonic() < until:
            if newest.exists() and newest.stat().st_mtime_ns != seen:
                time.sleep(float(rng.uniform(0, 0.1)))
                break
            time.sleep(0.005)
        assert process.poll() is None, "it ended before it could be killed"
        kill(process)
        if newest.exists():
            checkpoint.load(newest)
    killed.finish(workers, ranks, out)
    found = digests(killed.folder / out)
    assert found == killed.uninterrupted(ranks)
    assert not list((killed.folder / out).rglob(".*.tmp"))
    print(f"\n{kills} kills, {workers} workers, {ranks} ranks, {STEPS} steps:")
    print("\n".join(f"  {value} {name}" for name, value in found.items() if "step_" not in name))


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and locks as Linux does")
def test_a_killed_run_lets_go_of_its_folder(tmp_path: Path) -> None:
    """Although the processes that read its data outlive it for seconds."""
    lock = RunFolder(tmp_path)
    here, there = os.pipe()
    if not (child := os.fork()):
        os.write(there, b"!")
        time.sleep(60)
        os._exit(0)
    os.read(here, 1)
    lock.close()
    RunFolder(tmp_path).close()
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
