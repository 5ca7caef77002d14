"""P11: SIGTERM and Ctrl-C save and exit 75, and the run ends as if they never came."""

from __future__ import annotations

import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest

pytest.importorskip("torch", reason="training needs torch")

from crn_fast import failpoints, image
from hostile.campaign import Campaigns
from hostile.forks import LATE
from hostile.runs_of_training import SAVE_EVERY, STEPS, Toy
from hostile.work import Work, pictures_in

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")

SECONDS = 30.0
"""That a run may take to save and end."""


class Case(NamedTuple):
    name: str
    place: str
    """A failpoint with its arrival; '' for the moment."""
    moment: float
    """Seconds after the beginning."""
    number: signal.Signals
    workers: int
    ranks: int
    again: bool
    """The same signal once more, at once."""


PLACES = [
    ("train.stepped:4", "in a step"),
    ("train.stepped:7", "in the step that calibrates"),
    ("write.half:1", "saving"),
    ("write.ready:2", "sampling"),
    ("log.half:2", "logging"),
    ("save.linked:2", "turning checkpoints over"),
    ("train.saved:2", "after a save"),
]
AT_THE_END = ("train.stepped:24", "in the last step")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    return Toy(tmp_path_factory.mktemp("stopped"))


def test_training_saves_and_goes_on(campaigns: Campaigns, toy: Toy) -> None:
    rng = campaigns.rng(1100)
    shapes = [(0, 1), (0, 2), (4, 1), (0, 1), (4, 2)]
    places = PLACES[:: campaigns.count(commit=5, soak=1)]
    cases = [
        Case(f"at-{number}", place, 0.0, signal.SIGTERM, *shapes[number % 5], False)
        for number, (place, _) in enumerate(places)
    ]
    for number in range(campaigns.count(commit=1, soak=33)):
        sent = signal.SIGINT if number % 4 == 3 else signal.SIGTERM
        again = sent == signal.SIGTERM and number % 3 == 0
        workers, ranks = shapes[(number + 1) % 5]
        moment = float(rng.uniform(0, 0.9)) * (1 + (ranks - 1)) * (1 + workers / 8)
        cases.append(Case(f"moment-{number}", "", moment, sent, workers, ranks, again))
    with (
        campaigns.tried("P11", "training asked to stop") as tally,
        ThreadPoolExecutor(2) as pool,
    ):
        for ranks in {case.ranks for case in cases}:
            toy.whole(ranks)
        longest = 0.0
        begun = done = 0
        for wrong, seconds, codes in pool.map(lambda case: _stop(toy, case), cases):
            tally.case(wrong)
            longest = max(longest, seconds)
            begun += any(code < 0 for code in codes)
            done += not any(codes)
        tally.figures["longest"] = f"{longest:.1f} s"
        tally.figures["before the command was there"] = f"{begun}"
        tally.figures["after the last step"] = f"{done}"


def test_a_deaf_run_is_noticed(campaigns: Campaigns, toy: Toy) -> None:
    with campaigns.control("P11", "a run that hears no signal") as tally:
        place, _ = PLACES[0]
        case = Case("deaf", place, 0.0, signal.SIGTERM, 0, 1, False)
        tally.case(_stop(toy, case, defect="is_deaf")[0])


def test_the_last_step_is_the_end(campaigns: Campaigns, toy: Toy) -> None:
    """There is nothing to go on with."""
    with campaigns.tried("P11", "training asked to stop in its last step") as tally:
        case = Case("last", AT_THE_END[0], 0.0, signal.SIGTERM, 0, 1, False)
        wrong, _, codes = _stop(toy, case)
        tally.case(wrong or (f"ended with {codes}" if codes != [0] else None))


def _stop(toy: Toy, case: Case, defect: str | None = None) -> tuple[str | None, float, list[int]]:
    """What is wrong, the seconds it took to end, and how its processes ended."""
    name = case.name
    place, _, arrival = case.place.partition(":")
    chosen = {failpoints.VARIABLE: f"{place}:{case.number.name}:{arrival}"} if place else {}
    run = toy.start(name, case.workers, case.ranks, chosen, defect)
    if not place:
        time.sleep(case.moment)
        run.send(case.number)
        if case.again:
            time.sleep(case.moment % 0.02)
            run.send(case.number)
    since = time.monotonic()
    codes = run.wait(SECONDS)  # from the signal on, or all of the time until a place and from it
    seconds = time.monotonic() - since
    step = toy.step(name)
    told = f"{name} ({case.number.name} at {case.place or f'{case.moment:.2f} s'}, {case.workers} "
    told += f"workers, {case.ranks} ranks): exit codes {codes} at step {step}"
    wrong = None
    if LATE in codes:
        return f"{told}: not over after {SECONDS:g} s", seconds, codes
    unheard = {-case.number, 130} if not step and not toy.logged(name) else set()
    if not set(codes) <= {0, 75} | unheard or (len(set(codes)) > 1 and not unheard & set(codes)):
        wrong = f"{told}: {run.said[-400:]}"
    elif set(codes) == {0} and step != STEPS:
        wrong = f"{told}, not at the end"
    elif defect is None and place and step != STEPS and codes != [75] * case.ranks:
        wrong = f"{told}, expected 75"
    elif place and not case.place.endswith("24") and step == STEPS:
        wrong = f"{told}: it went on to the end"
    elif toy.logged(name) > step:
        wrong = f"{told}: logged step {toy.logged(name)}"
    wrong = wrong or toy.unsound(name)
    if step < STEPS:
        wrong = wrong or toy.outcome(name, case.workers, case.ranks)
    else:
        wrong = wrong or toy.differs(name, case.ranks)
    if wrong is None:
        toy.forget(name)
    return wrong, seconds, codes


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Work:
    pytest.importorskip("crn_fast.kernels.cpu._native", reason="the native module is not built")
    return Work(tmp_path_factory.mktemp("work"))


def test_rendering_a_folder_goes_on(campaigns: Campaigns, work: Work) -> None:
    rng = campaigns.rng(1101)
    places = ["write.half:SIGTERM:2", "write.renamed:SIGINT:3", "write.begin:SIGTERM:1"]
    count = campaigns.count(commit=1, soak=12)
    with campaigns.tried("P11", "render DIR asked to stop") as tally:
        for number in range(count + len(places)):
            chosen = places[number] if number < len(places) else ""
            tally.case(_interrupt(work, f"stopped-{number}", chosen, float(rng.uniform(0, 0.2))))
    with campaigns.control("P11", "render DIR that hears no signal") as tally:
        tally.case(_interrupt(work, "deaf", "write.begin:SIGTERM:2", 0.0, "renders_on"))


def _interrupt(
    work: Work, name: str, chosen: str, moment: float, defect: str | None = None
) -> str | None:
    run = work.start(name, work.render, chosen, defect)
    if not chosen:
        time.sleep(moment)
        run.send(signal.SIGTERM)
    (code,) = run.wait(SECONDS)
    out: Path = work.folder / name / "out"
    found = pictures_in(out)
    unheard = not found or found == work.pictures  # before it was there, or after it was done
    if code not in (0, 75) and not (unheard and code == -signal.SIGTERM):
        return f"{name}: exit code {code}: {run.said[-300:]}"
    if chosen and code != 75:
        return f"{name}: exit code {code}, not 75"
    for path in out.glob("*.png"):
        image.read(path)
    if left := [path.name for path in out.glob(".*")]:
        return f"{name}: left {left}"
    run = work.start(name, [*work.render, "--skip-existing"])
    if (codes := run.wait()) != [0]:
        return f"{name}: the same command again: {codes}: {run.said[-300:]}"
    return None if pictures_in(out) == work.pictures else f"{name}: other pictures"


def test_the_numbers_of_the_places_are_those_of_the_toy() -> None:
    assert AT_THE_END[0] == f"train.stepped:{STEPS}" and SAVE_EVERY < 7
