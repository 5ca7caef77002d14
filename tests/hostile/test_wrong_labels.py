"""P4: wrong labels are found before a device sees them, and named with value and first pixel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from hostile.campaign import Campaigns
from hostile.worker import verdicts
from hostile.wrong_labels import (
    FILES,
    KINDS,
    PLACES,
    VALUES,
    at,
    changed_meanwhile,
    in_command,
    in_library,
    in_stream,
    in_training,
    planted,
)

ARRAYS = [(kind, place) for kind in VALUES for place in PLACES]
ALL = [*ARRAYS, *((kind, "first") for kind in KINDS)]
SINGLE = [(kind, place) for kind, place in ARRAYS if not kind.startswith("one of")]
CAMPAIGNS: dict[str, tuple[Callable[..., str | None], list[Any], str]] = {
    "arrays": (in_library, ALL, "was rendered"),
    "arrays in a stream": (in_stream, SINGLE, "was rendered"),
    "files to render": (in_command, list(FILES), "exit 0, "),
    "files to train on": (in_training, list(FILES), "was trained on"),
}
"""Subject, cases, and what it says of one that was not refused."""


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_wrong_labels_are_refused_and_named(
    campaigns: Campaigns, tmp_path: Path, name: str
) -> None:
    subject, cases, _ = CAMPAIGNS[name]
    with campaigns.tried("P4", name) as tally:
        for case in cases:  # in this process: nothing here can crash it
            wrong = subject(tmp_path, case)
            tally.case(wrong and f"{case}: {wrong}")
        tally.figures["kinds of fault"] = str(
            len({c if isinstance(c, str) else c[0] for c in cases})
        )


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_a_path_that_clips_is_noticed(campaigns: Campaigns, tmp_path: Path, name: str) -> None:
    subject, cases, missed = CAMPAIGNS[name]
    with campaigns.control("P4", f"ids are clipped: {name}") as tally:
        for case in cases[:9]:
            tally.case(subject(tmp_path, case, defect="clip"))
    assert len(tally.failures) == 9
    assert all(wrong.startswith(missed) for wrong in tally.failures), tally.failures


def test_labels_that_change_as_they_are_read(campaigns: Campaigns, tmp_path: Path) -> None:
    with campaigns.tried("P4", "arrays that another thread changes") as tally:
        count, subject = campaigns.count(commit=8, soak=400), partial(changed_meanwhile, tmp_path)
        for case, wrong in verdicts(subject, range(count), memory=None, seconds=60):
            tally.case(wrong and f"{case}: {wrong}")


def test_labels_that_are_copied_after_the_check_are_noticed(
    campaigns: Campaigns, tmp_path: Path
) -> None:
    with campaigns.control("P4", "labels are copied after the check") as tally:
        subject = partial(changed_meanwhile, tmp_path, defect="late")
        for _, wrong in verdicts(subject, range(40), memory=None, seconds=60):
            tally.case(wrong)
            if wrong and wrong.startswith("was rendered, with labels"):
                break
        else:
            pytest.fail(f"none of 40 noticed: {tally.failures}")


def by_server(defect: str | None = None) -> Iterator[tuple[int, str | None]]:
    """Status of each answer to wrong labels, and what was wrong with it."""
    from serving import RAW, running
    from stub_engine import SIZE, Stub

    def asked(body: bytes, headers: dict[str, str], said: str) -> tuple[int, str | None]:
        query = "/v1/render?name=x.png&fit=nearest"
        answer = server.ask("POST", query, body, headers)
        if answer.status != 422:
            return answer.status, f"{answer.status}"
        message = json.loads(answer.body)["message"]
        named = message.startswith(f"x.png: {said}")
        return answer.status, None if named else f"not {said!r}: {message}"

    with running(Stub(0.0)) as server, planted(defect):
        for data, said in FILES.values():
            yield asked(data, {"Content-Type": "image/png"}, said)
        for row, column in ((0, 0), (SIZE[0] // 2, 7), (SIZE[0] - 1, SIZE[1] - 1)):
            for value in (12, 34, 255):
                ids = np.zeros(SIZE, np.uint8)
                ids[-1, -1] = value ^ 1
                ids[row, column] = value
                yield asked(ids.tobytes(), RAW, f"value {value}{at(row, column)}")


def test_the_server_names_them(campaigns: Campaigns) -> None:
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    with campaigns.tried("P4", "files and ids to the server") as tally:
        for _, wrong in by_server():
            tally.case(wrong)


def test_a_server_that_clips_is_noticed(campaigns: Campaigns) -> None:
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    with campaigns.control("P4", "ids are clipped: files and ids to the server") as tally:
        for _, wrong in by_server("clip"):
            tally.case(wrong)
    assert tally.failures.count("200") > tally.cases // 2
