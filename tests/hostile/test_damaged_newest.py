"""P10: a damaged newest checkpoint costs one save; the one before is used, with a warning."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs torch")

from hostile.campaign import Campaigns
from hostile.damaged_run import (
    KINDS,
    NAMES,
    Damage,
    copy,
    damage,
    goes_on,
    trusts_the_newest,
)
from hostile.runs_of_training import Toy
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks")


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Toy:
    made = Toy(tmp_path_factory.mktemp("damaged"))
    made.whole()
    return made


def _cases(rng: np.random.Generator, toy: Toy, count: int, lost: int) -> list[Damage]:
    """Kinds in turn, mostly of flips; of every `lost` cases one has no sound checkpoint left."""
    template = str(toy.folder / "whole-1" / "run")
    cases = []
    for number in range(count):
        kind = KINDS[number % len(KINDS)] if number % 2 else KINDS[number // 2 % 5]
        names = NAMES if number % lost == lost - 1 else NAMES[: 1 + (number % 5 > 0)]
        if len(names) == len(NAMES) and kind == "flip":
            kind = "truncate"  # a flip may be in no content
        cases.append(Damage(template, kind, float(rng.random()), names))
    return cases


def test_what_is_resumed_is_sound(campaigns: Campaigns, toy: Toy) -> None:
    cases = _cases(campaigns.rng(1000), toy, campaigns.count(commit=40, soak=500), 10)
    with campaigns.tried("P10", "damaged newest checkpoints") as tally:
        for _, wrong in verdicts(goes_on, cases, memory=None):
            tally.case(wrong)
        tally.figures["with none that is sound"] = f"{sum(len(c.names) == 3 for c in cases)}"
    with campaigns.control("P10", "a run that trusts its newest checkpoint") as tally:
        for _, wrong in verdicts(trusts_the_newest, cases[:3], processes=1, memory=None):
            tally.case(wrong)


def test_the_run_goes_on_to_the_same_end(campaigns: Campaigns, toy: Toy) -> None:
    rng = campaigns.rng(1001)
    kinds = (("folder",), KINDS[1:])[campaigns.soak]
    with campaigns.tried("P10", "training resumed from the checkpoint before") as tally:
        for kind in kinds:
            name = f"resumed-{kind.replace(' ', '-')}"
            run = toy.folder / name / "run"
            copy(toy.folder / "whole-1" / "run", run)
            where = float(rng.random())
            for each in NAMES[:2]:
                damage(run / each, kind, where)
            tally.case(_resume(toy, name))
    with campaigns.tried("P10", "training with no sound checkpoint") as tally:
        for given, code in (([], 3), (["--resume"], 3)):
            tally.case(_refused(toy, f"lost-{len(given)}", given, code))


def _resume(toy: Toy, name: str) -> str | None:
    run = toy.start(name, resume=True)
    if (codes := run.wait()) != [0]:
        return f"{name}: {codes}: {run.said[-400:]}"
    line = next((line for line in run.said.splitlines() if "passed over" in line), "")
    if "run/ckpt.pt" not in line or "run/ckpt-20.pt is used" not in line:
        return f"{name}: says {run.said[:400]}"
    left = list((toy.folder / name / "run").glob("damaged-*/*"))
    if name == "resumed-folder" and len(left) != 2:
        return f"{name}: the folders that were in the way are not aside"
    return toy.differs(name)


def _refused(toy: Toy, name: str, given: list[str], code: int) -> str | None:
    """With `--resume` or without, nothing is overwritten."""
    folder = toy.folder / name / "run"
    copy(toy.folder / "whole-1" / "run", folder)
    for each in NAMES:
        damage(folder / each, "missing" if each == NAMES[0] else "truncate", 0.5)
    before = _files(folder)
    run = toy.start(name, resume=bool(given))
    codes = run.wait()
    if codes != [code] or _files(folder) != before:
        return f"{name}: {codes}, unchanged {_files(folder) == before}: {run.said}"
    if given and not all(each in run.said for each in NAMES):
        return f"{name}: says {run.said}"
    return None


def _files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
