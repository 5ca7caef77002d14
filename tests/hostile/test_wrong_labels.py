"""P4: wrong labels are found before a device sees them, and named with value and first pixel."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra [train]")

from hostile.campaign import Campaigns
from hostile.worker import Subject, verdicts
from hostile.wrong_labels import (
    FILES,
    KINDS,
    PIXELLESS,
    PLACES,
    VALUES,
    _names,
    changed_meanwhile,
    in_command,
    in_library,
    in_stream,
    in_training,
)

ARRAYS = [(kind, place) for kind in VALUES for place in PLACES]
ALL = [*ARRAYS, *((kind, "first") for kind in KINDS)]
CAMPAIGNS: dict[str, tuple[Subject, list]] = {  # type: ignore[type-arg]
    "arrays": (in_library, ALL),
    "arrays in a stream": (in_stream, ARRAYS),
    "files to render": (in_command, list(FILES)),
    "files to train on": (in_training, list(FILES)),
}


@pytest.mark.parametrize("name", CAMPAIGNS)
def test_wrong_labels_are_refused_and_named(campaigns: Campaigns, name: str) -> None:
    subject, cases = CAMPAIGNS[name]
    with campaigns.tried("P4", name) as tally:
        for case in cases:  # in this process: nothing here can crash it
            wrong = subject(case)
            tally.case(wrong and f"{case}: {wrong}")
        tally.figures["kinds of fault"] = str(
            len({c if isinstance(c, str) else c[0] for c in cases})
        )


def test_labels_that_change_as_they_are_read(campaigns: Campaigns) -> None:
    with campaigns.tried("P4", "arrays that another thread changes") as tally:
        count = campaigns.count(commit=8, soak=400)
        for case, wrong in verdicts(changed_meanwhile, range(count), memory=None, seconds=60):
            tally.case(wrong and f"{case}: {wrong}")


def test_the_server_names_them(campaigns: Campaigns) -> None:
    pytest.importorskip("fastapi", reason="needs the extra [serve]")
    from serving import RAW, running
    from stub_engine import SIZE, Stub

    with (
        running(Stub(0.0)) as server,
        campaigns.tried("P4", "files and ids to the server") as tally,
    ):
        for case, make in FILES.items():
            answer = server.ask(
                "POST", "/v1/render?name=x.png", make(), {"Content-Type": "image/png"}
            )
            text = answer.body.decode("utf-8", "replace")
            refused = 400 <= answer.status < 500
            wrong = None if case in PIXELLESS else _names(text)
            tally.case(f"{case}: {answer.status} {text}" if not refused else wrong)
        for place in ((0, 0), (SIZE[0] - 1, SIZE[1] - 1)):
            for value in (12, 34, 255):
                ids = np.zeros(SIZE, np.uint8)
                ids[place] = value
                answer = server.ask("POST", "/v1/render", ids.tobytes(), RAW)
                wrong = _names(answer.body.decode(), place)
                tally.case(wrong if 400 <= answer.status < 500 else f"{answer.status}")


def test_labels_that_are_copied_after_the_check_are_noticed(campaigns: Campaigns) -> None:
    with campaigns.control("P4", "labels are copied after the check") as tally:
        subject = partial(changed_meanwhile, defect="late")
        for case, wrong in verdicts(subject, range(8), memory=None, seconds=60):
            tally.case(wrong and f"{case}: {wrong}")


@pytest.mark.parametrize("name", ["arrays", "files to render", "files to train on"])
def test_a_path_that_clips_is_noticed(campaigns: Campaigns, name: str) -> None:
    subject, cases = CAMPAIGNS[name]
    with campaigns.control("P4", f"ids are clipped: {name}") as tally:
        for case in cases[:9]:
            wrong = partial(subject, defect="clip")(case)
            tally.case(wrong and f"{case}: {wrong}")
        assert len(tally.failures) == 9
