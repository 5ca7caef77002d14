"""P18: no name of a file leads out of the folder that was named, or into the terminal's hands."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from crn_fast.backends import native
from crn_fast.cluster.sinks import STAGING, FolderSink
from crn_fast.cluster.sources import Job
from crn_fast.errors import CrnError
from crn_fast.rendering import tree
from hostile.campaign import Campaigns
from hostile.names import STEMS, evil_ids, write_layout
from hostile.paths import codes, stays_inside
from hostile.worker import verdicts

pytestmark = pytest.mark.skipif(os.name == "nt", reason="names and links are those of Unix")
renders = pytest.mark.skipif(native.available() is not None, reason="needs the compiled ops")


@renders
def test_rendering(campaigns: Campaigns, tmp_path: Path) -> None:
    count = campaigns.count(commit=60, soak=1_500)
    seeds = campaigns.rng(8).integers(0, 1 << 31, count).tolist()
    with campaigns.tried("P18", "runs of crn-fast render among evil names and links") as tally:
        for _, wrong in verdicts(partial(stays_inside, tmp_path), seeds, seconds=30):
            tally.case(wrong)
        found = codes(tmp_path)
        tally.figures["ended with 0"] = f"{found.count(0):,}"
        assert found.count(0) > count // 5, f"exit codes {found}: too few are 0"


@renders
@pytest.mark.parametrize(
    ("defect", "told", "words"),
    [
        ("links", "links are followed", (": changed [", ": wrote [")),
        ("escapes", "names are printed as they are", (": printed [",)),
    ],
)
def test_a_planted_defect_is_noticed(
    campaigns: Campaigns, tmp_path: Path, defect: str, told: str, words: tuple[str, ...]
) -> None:
    count = campaigns.count(commit=25, soak=150)
    seeds = campaigns.rng(9).integers(0, 1 << 31, count).tolist()
    with campaigns.control("P18", told) as tally:
        subject = partial(stays_inside, tmp_path, defect=defect)
        for _, wrong in verdicts(subject, seeds, seconds=30):
            tally.case(wrong)
    own = [any(word in wrong for word in words) for wrong in tally.failures]
    assert any(own), tally.failures


def test_ids_of_samples(campaigns: Campaigns, tmp_path: Path) -> None:
    """What a stranger's Parquet file or tar calls its layouts."""
    outside, written = tmp_path / "outside", 0
    with campaigns.tried("P18", "ids in Parquet files and tars") as tally:
        for name in evil_ids():
            out = tmp_path / "out"
            (out / STAGING).mkdir(parents=True)
            outside.mkdir()
            os.symlink(outside, out / "linked")
            tally.case(put(out, name) or escaped(tmp_path, name))
            written += len(list(out.rglob("*.png"))) == 2
            shutil.rmtree(out)
            shutil.rmtree(outside)
        tally.figures["written"] = f"{written}"
    assert written > tally.cases // 2


def put(out: Path, name: str) -> str | None:
    sink = FolderSink(out, "png", 2, 1)
    try:
        sink.put(Job("sample", name, b""), [b"first", b"second"])
    except CrnError:
        return None
    except Exception as error:
        return f"{name!r}: {error!r}"
    return None


def escaped(folder: Path, name: str) -> str | None:
    """What is in the folder now, but should not be."""
    wrong = [p.name for p in folder.iterdir() if p.name not in ("out", "outside")]
    wrong += sorted(p.name for p in (folder / "outside").iterdir())
    wrong += sorted(p.name for p in (folder / "out" / STAGING).iterdir())
    return f"{name!r}: wrote {wrong}" if wrong else None


def test_ids_that_are_believed_are_noticed(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def follow(folder: Path, name: PurePosixPath) -> Path:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    monkeypatch.setattr(tree, "place", follow)
    with campaigns.control("P18", "ids are taken for paths") as tally:
        for name in ("a", "linked/x"):
            out = tmp_path / "out"
            (out / STAGING).mkdir(parents=True)
            (tmp_path / "outside").mkdir()
            os.symlink(tmp_path / "outside", out / "linked")
            tally.case(put(out, name) or escaped(tmp_path, name))
            shutil.rmtree(out)
            shutil.rmtree(tmp_path / "outside")
    assert tally.failures == ["'linked/x': wrote ['x_0.png', 'x_1.png']"]


def lost(folder: Path, stem: str) -> str | None:
    """None if the answer to a picture of that name is found again in the file of answers."""
    from crn_fast.compare import trials
    from crn_fast.compare.server import Experiment

    folders = folder / "a", folder / "b"
    for each in folders:
        write_layout(each / f"{stem}.png")
    if not any(folders[0].iterdir()):
        return None  # too long for this file system
    found = trials.scenes(dict(zip("ab", folders, strict=True)))  # type: ignore[arg-type]

    def plan(rater: str) -> list[trials.Trial]:
        return trials.plan(found, [("a", "b")], [None], 2, 0, rater)

    try:
        Experiment(plan, folder / "answers.csv").answer("me", 0, "left", 0, 1)
        left = Experiment(plan, folder / "answers.csv").left("me")
    except Exception as error:
        return f"{stem!r}: {error!r}"
    return None if len(left) == 1 else f"{stem!r}: the answer was lost"


def test_scenes_of_a_comparison(campaigns: Campaigns, tmp_path: Path) -> None:
    with campaigns.tried("P18", "scenes of crn-fast compare by evil names") as tally:
        for number, stem in enumerate(STEMS):
            tally.case(lost(tmp_path / f"{number}", stem))


def test_scenes_that_are_written_as_they_are_named_are_noticed(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crn_fast.compare import trials

    monkeypatch.setattr(trials, "one_line", str)
    with campaigns.control("P18", "scenes by names as they are") as tally:
        for number, stem in enumerate(STEMS):
            tally.case(lost(tmp_path / f"{number}", stem))
    assert any("holds answers to other pairs" in wrong for wrong in tally.failures)


PATHS = ("/etc/passwd", "../../x.png", "file:///etc/passwd", "C:\\x", "\\\\host\\x", "~/x", "a\0b")


def test_the_api_takes_no_paths(campaigns: Campaigns, tmp_path: Path) -> None:
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    from serving import layouts, running

    body = layouts(1)[0].tobytes()
    raw = {"Content-Type": "application/octet-stream"}
    with campaigns.tried("P18", "paths in every field of the API") as tally, running() as server:
        schema = json.loads(server.ask("GET", "/openapi.json").body)
        for route, method, fields in operations(schema):
            tally.case(paths_in(route, fields))
            for field in fields:
                for path in PATHS:
                    query = f"?{field}={quote(path)}"
                    sent = body if method == "post" else None
                    answer = server.ask(method.upper(), route + query, sent, raw)
                    leaked = b"root:" in answer.body or answer.status >= 500
                    tally.case(f"{route}{query}: {answer.status}" if leaked else None)
        for path in PATHS:
            status = server.ask("GET", "/" + quote(path, safe="/.:~\\")).status
            tally.case(f"GET {path}: {status}" if status < 400 or status >= 500 else None)


def operations(schema: dict[str, Any]) -> Iterator[tuple[str, str, list[str]]]:
    """Route, method and fields of each operation."""
    for route, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield route, method, [each["name"] for each in operation.get("parameters", ())]


def paths_in(route: str, fields: list[str]) -> str | None:
    """What of an operation would take a path."""
    named = [f for f in fields if any(word in f.lower() for word in ("path", "file", "url", "dir"))]
    return f"{route}: takes {named}" if named or "{" in route else None


def test_an_api_that_takes_paths_is_noticed(campaigns: Campaigns) -> None:
    field = {"name": "layout_path", "in": "query"}
    schema = {"paths": {"/render": {"post": {"parameters": [field]}}, "/get/{name}": {"get": {}}}}
    with campaigns.control("P18", "an API with a path for a field") as tally:
        for route, _, fields in operations(schema):
            tally.case(paths_in(route, fields))


def test_numbers_in_names(tmp_path: Path) -> None:
    """Evil names have an order, too."""
    rng = np.random.default_rng(0)
    files = [(Path(stem), PurePosixPath(stem + ".png")) for stem in rng.permutation(STEMS)]
    assert len(tree.in_number_order(files)) == len(STEMS)
