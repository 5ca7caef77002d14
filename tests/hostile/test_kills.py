"""P9: `kill -9` at any moment costs at most one save interval, and runs end as if it never came."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast import failpoints, image  # noqa: E402
from crn_fast.training.run_folder import RunFolder  # noqa: E402
from hostile.campaign import Campaigns  # noqa: E402
from hostile.forks import left_by, working_in  # noqa: E402
from hostile.old_files import OldFiles  # noqa: E402
from hostile.runs_of_training import SAVE_EVERY, Toy  # noqa: E402
from hostile.work import Work, pictures_in  # noqa: E402

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills as Linux does")

SHAPES = ((0, 1), (4, 1), (0, 2), (4, 2))
"""Processes that read data, and that train."""
ROW = 3
"""Kills of a run, at most."""
PLACES = [name for name in failpoints.PLACES if not name.startswith("stage.")]
EARLY = "done before it could be killed"
ARRIVALS = {"write": 12, "save": 4, "save.dropped": 3, "log": 6, "train": 4, "train.sampled": 3}
ARRIVALS["resume"] = 2
"""How often each place, or those of its kind, are reached in a whole run, or the resumed one."""


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("killed"))


def test_kills_at_random_moments(campaigns: Campaigns, toy: Toy) -> None:
    rng = campaigns.rng(900)
    with campaigns.tried("P9", "training killed at random moments") as tally:
        plans: list[tuple[str, int, int, Sequence[float]]] = []
        for shape, (workers, ranks) in enumerate(SHAPES):
            kills = campaigns.count(commit=(2, 0, 0, 1)[shape], soak=25)
            toy.whole(ranks)
            for first in range(0, kills, ROW):
                moments = rng.random(min(ROW, kills - first)).tolist()
                plans.append((f"killed-{workers}-{ranks}-{first}", workers, ranks, moments))
        seconds = {
            shape: _seconds(toy, *shape) for shape in dict.fromkeys(plan[1:3] for plan in plans)
        }
        ends: list[int] = []
        early: list[str] = []

        def judge(plan: tuple[str, int, int, Sequence[float]]) -> list[str | None]:
            name, workers, ranks, moments = plan
            found: list[str | None] = []
            for moment in moments:
                wrong = None
                for again in count():
                    run = toy.start(name, workers, ranks)
                    until = time.monotonic() + moment * seconds[workers, ranks] * 0.7**again
                    while run.running and time.monotonic() < until:
                        time.sleep(0.002)
                    codes = run.kill(only=int(moment * 1e6) % ranks if moment < 0.5 else None)
                    if -signal.SIGKILL in codes:
                        break
                    if any(codes):
                        wrong = f"{name}: ended by itself with {codes}: {run.said[-300:]}"
                        break
                    toy.forget(name)  # it was done before it could be killed
                    early.append(name)
                ends.append(toy.step(name))
                if toy.logged(name) - toy.step(name) > SAVE_EVERY:
                    wrong = f"{name}: logged step {toy.logged(name)}, saved {toy.step(name)}"
                found.append(wrong or toy.unsound(name))
            found[-1] = found[-1] or toy.outcome(name, workers, ranks)
            if found[-1] is None:
                toy.forget(name)
            return found

        with ThreadPoolExecutor(2) as pool:
            for verdicts in pool.map(judge, plans):
                for wrong in verdicts:
                    tally.case(wrong)
        tally.figures["before the first save"] = f"{ends.count(0)}"
        tally.figures["done too early, and repeated"] = f"{len(early)}"


def test_kills_at_each_step_of_a_save(campaigns: Campaigns, toy: Toy) -> None:
    """Chains: killed at one place, resumed, killed at the next; in the long run also each alone."""
    with campaigns.tried("P9", "training killed at each step of a save, in chains") as tally:
        toy.whole()
        chains = [PLACES[0::2], PLACES[1::2]]
        with ThreadPoolExecutor(2) as pool:
            for verdicts in pool.map(lambda chain: _chain(toy, chain), chains):
                for wrong in verdicts:
                    tally.case(wrong)
    if not campaigns.soak:
        return
    often = {place: ARRIVALS.get(place, ARRIVALS[place.split(".")[0]]) for place in PLACES}
    alone = [(place, 1 + arrival) for place in PLACES for arrival in range(often[place])]
    with (
        campaigns.tried("P9", "training killed at each step of each save") as tally,
        ThreadPoolExecutor(2) as pool,
    ):
        for wrong in pool.map(lambda each: _alone(toy, *each), alone):
            tally.case(wrong)


def test_a_writer_in_place_is_noticed(campaigns: Campaigns, toy: Toy) -> None:
    with campaigns.control("P9", "checkpoints written in place") as tally:
        tally.case(_alone(toy, "write.half", 4, defect="in_place"))


def test_a_writer_that_copies_is_noticed(campaigns: Campaigns, toy: Toy) -> None:
    with campaigns.control("P9", "files copied over the old ones") as tally:
        tally.case(_alone(toy, "resume.cut", 1, defect="copies"))


def test_kills_as_the_data_is_opened(campaigns: Campaigns, toy: Toy) -> None:
    """The processes that read it come to life when what they would serve is gone."""
    with campaigns.tried("P9", "training killed before its data is read") as tally:
        for number in range(campaigns.count(commit=1, soak=10)):
            tally.case(_orphan(toy, f"orphans-{number}", 1 + number % 4, "reads_late"))
    with campaigns.control("P9", "processes that read data, and do not look for the run") as tally:
        tally.case(_orphan(toy, "defect-orphans", 2, "reads_alone"))


def _orphan(toy: Toy, name: str, workers: int, defect: str) -> str | None:
    run = toy.start(name, workers, defect=defect)
    until = time.monotonic() + 30
    while len(working_in(toy.folder / name)) <= workers:
        if not run.running or time.monotonic() > until:
            return f"{name}: opened no data: {run.wait()}: {run.said[-300:]}"
        time.sleep(0.005)
    if (codes := run.kill()) != [-signal.SIGKILL]:
        return f"{name}: ended by itself with {codes}: {run.said[-300:]}"
    return toy.unsound(name)


def test_lines_logged_twice_are_noticed(campaigns: Campaigns, toy: Toy) -> None:
    with campaigns.control("P9", "a resumed run that keeps the lines it repeats") as tally:
        tally.case(_alone(toy, "train.sampled", 1, defect="forgets_nothing"))


def _seconds(toy: Toy, workers: int, ranks: int) -> float:
    """How long a run takes that is left alone."""
    since = time.monotonic()
    name = f"timed-{workers}-{ranks}"
    codes = toy.start(name, workers, ranks).wait()
    assert not any(codes), codes
    return time.monotonic() - since


def _chain(toy: Toy, places: list[str]) -> list[str | None]:
    name = f"chain-{places[0]}"
    found = [_die(toy, name, place, 3 if place.startswith("write.") else 1) for place in places]
    found[-1] = found[-1] or toy.outcome(name)
    return found


def _alone(toy: Toy, place: str, arrival: int, defect: str | None = None) -> str | None:
    name = f"{place}-{arrival}-{defect}"
    if place == "resume.cut" and (wrong := _die(toy, name, "train.saved", 2, defect)):
        return wrong
    wrong = _die(toy, name, place, arrival, defect) or toy.outcome(name, defect=defect)
    if wrong is None:
        toy.forget(name)
    return wrong


def _die(toy: Toy, name: str, place: str, arrival: int, defect: str | None = None) -> str | None:
    """Begin or go on, and be killed at a place; what is wrong with what is left."""
    if place == "resume.cut" and toy.step(name) == 0:
        return f"{name}: nothing to resume"
    chosen = f"{place}:SIGKILL:{arrival}"
    run = toy.start(name, environment={failpoints.VARIABLE: chosen}, defect=defect)
    if (codes := run.wait()) != [-signal.SIGKILL]:
        return f"{name}: {chosen} ended with {codes}: {run.said[-300:]}"
    return toy.unsound(name)


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    pytest.importorskip("crn_fast.kernels.cpu._native", reason="the native module is not built")
    return Work(tmp_path_factory.mktemp("work"))


def _kill(
    work: Work, name: str, command: list[str], chosen: str, moment: float, defect: str | None
) -> str | None:
    """Begin, and be killed at a place or a moment; what is wrong with what was there before."""
    old = OldFiles(work.folder / name)
    run = work.start(name, command, chosen, defect)
    if not chosen:
        time.sleep(moment)
    codes = run.wait() if chosen else run.kill()
    if wrong := old.let_go():
        return f"{name}: {wrong}"
    if codes == [0] and not chosen:
        return EARLY
    if codes != [-signal.SIGKILL]:
        return f"{name}: {chosen or moment} ended with {codes}: {run.said[-300:]}"
    return None


def _render(work: Work, name: str, chosen: str, moment: float, defect: str | None) -> str | None:
    if wrong := _kill(work, name, work.render, chosen, moment, defect):
        return wrong
    out = work.folder / name / "out"
    for path in out.glob("*.png"):
        try:
            image.read(path)
        except Exception as error:
            return f"{name}: {path.name} is torn: {error}"
    run = work.start(name, [*work.render, "--skip-existing"])
    if (codes := run.wait()) != [0]:
        return f"{name}: the same command again: {codes}: {run.said[-300:]}"
    return None if pictures_in(out) == work.pictures else f"{name}: other pictures"


def _build(work: Work, name: str, chosen: str, moment: float, defect: str | None) -> str | None:
    target = work.folder / name / "it.crn"
    target.parent.mkdir()
    old = b"the engine before" if moment < 0.2 else None
    if old:
        target.write_bytes(old)
    if wrong := _kill(work, name, work.build, chosen, moment, defect):
        return wrong
    found = target.read_bytes() if target.exists() else None
    if found not in (old, work.engine):
        return f"{name}: neither the engine before nor the new one"
    run = work.start(name, work.build)
    if (codes := run.wait()) != [0] or target.read_bytes() != work.engine:
        return f"{name}: the same command again: {codes}: {run.said[-300:]}"
    return None


@pytest.mark.parametrize(("subject", "told"), [(_render, "render DIR"), (_build, "build-engine")])
def test_other_commands_are_killed(
    campaigns: Campaigns,
    work: Work,
    subject: Callable[[Work, str, str, float, str | None], str | None],
    told: str,
) -> None:
    rng = campaigns.rng(901)
    places = [p for p in failpoints.PLACES if p.split(".")[0] in ("write", "stage")]
    if told == "render DIR":
        places = [p for p in places if p.startswith("write.")]
    with campaigns.tried("P9", f"{told} killed, and given again") as tally:
        plans = [(f"{place}:SIGKILL", 0.0) for place in places]
        plans = plans if campaigns.soak else plans[1::4]
        plans += [("", rng.uniform(0, 0.4)) for _ in range(campaigns.count(commit=1, soak=40))]
        names = [f"{told}-{number}" for number in range(len(plans))]
        early: list[str] = []

        def judge(name: str, plan: tuple[str, float]) -> str | None:
            chosen, moment = plan
            for again in count():
                folder = f"{name.replace(' ', '-')}-{again}"
                wrong = subject(work, folder, chosen, moment * 0.7**again, None)
                if wrong != EARLY:
                    return wrong
                early.append(name)
            raise AssertionError

        with ThreadPoolExecutor(2) as pool:
            for wrong in pool.map(judge, names, plans):
                tally.case(wrong)
        tally.figures["done too early, and repeated"] = f"{len(early)}"
    with campaigns.control("P9", f"{told} that writes in place") as tally:
        tally.case(
            subject(work, f"defect-{told.split()[0]}", "write.half:SIGKILL", 0.0, "in_place")
        )


def test_an_engine_that_is_copied_is_noticed(campaigns: Campaigns, work: Work) -> None:
    with campaigns.control("P9", "an engine copied over the old one") as tally:
        tally.case(_build(work, "defect-copied", "stage.renamed:SIGKILL", 0.0, "copies"))


def test_ranks_end_when_torchrun_is_killed(campaigns: Campaigns, toy: Toy) -> None:
    """They save, and let go of the folder; with the real torchrun, in the long run alone."""
    if not campaigns.count(commit=0, soak=1):
        pytest.skip("ten seconds: with --soak alone")
    with campaigns.tried("P9", "torchrun alone killed") as tally:
        tally.case(_kill_torchrun(toy.folder / "launched", ["crn_fast"]))
    with campaigns.control("P9", "ranks that train on without torchrun") as tally:
        planted = ["hostile.defects", "trains_on"]
        tally.case(_kill_torchrun(toy.folder / "defect-launched", planted))


def _kill_torchrun(folder: Path, program: list[str]) -> str | None:
    folder.mkdir()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "2", "-m", *program, "train", "../data", "-c"]
    command += ["../recipe.toml", "--device", "cpu", "--out", "run"]
    command += ["--set", "loss.weights=../vgg19.pth", "--set", "training.steps=100000"]
    given = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with (folder / "said").open("wb") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=given)
    newest = folder / "run" / "ckpt.pt"
    until = time.monotonic() + 60
    while not newest.exists() and time.monotonic() < until:
        time.sleep(0.05)
    process.kill()
    process.wait()
    saved = newest.exists()
    if wrong := left_by(folder, 30):
        return wrong
    if not saved:
        return f"never saved: {(folder / 'said').read_text()}"
    RunFolder(folder / "run").close()  # which nobody holds
    return None


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
