"""The campaigns themselves: one that cannot fail would promise nothing."""

from __future__ import annotations

from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from hostile.campaign import Campaigns, Outcome, lines, merge, read
from hostile.reliability import PAGE, PROMISES, ROWS, page
from hostile.strange import strange
from hostile.worker import verdicts

ROOT = Path(__file__).resolve().parents[2]


def test_workers_outlive_crashes_and_hangs() -> None:
    cases = ["right", "crash", "right", "hang", "wrong", "exit", "fill", "raise", "right"]
    found = list(verdicts(strange, cases, seconds=2))
    assert [case for case, _ in found] == cases
    assert [verdict for _, verdict in found] == [
        None,
        "the process died with exit code -6",
        None,
        "took longer than 2 s",
        "wrong",
        "the process died with exit code 7",
        "MemoryError: ",
        "ValueError: no",
        None,
    ]


def run(campaigns: Campaigns, name: str, *verdicts: str | None) -> None:
    with campaigns.tried("P1", name) as tally:
        for verdict in verdicts:
            tally.case(verdict)


def test_a_campaign_fails_with_a_case() -> None:
    campaigns = Campaigns(soak=False)
    run(campaigns, "sound", None)
    with pytest.raises(AssertionError, match=r"1 of 2 cases failed .*--seed 0.*\n  it broke"):
        run(campaigns, "unsound", None, "it broke")
    assert [(found.cases, found.failures) for found in campaigns.outcomes] == [(1, 0), (2, 1)]


def test_each_campaign_has_a_name_of_its_own() -> None:
    campaigns = Campaigns(soak=False)
    run(campaigns, "flips", None)
    with pytest.raises(AssertionError, match="two campaigns are called 'flips'"):
        run(campaigns, "flips", None)


def test_a_campaign_without_cases_fails() -> None:
    with pytest.raises(AssertionError, match="no case was tried"):
        run(Campaigns(soak=False), "nothing")


def test_a_campaign_that_breaks_down_is_on_record_as_failed() -> None:
    campaigns = Campaigns(soak=True)
    with suppress(OSError), campaigns.tried("P1", "broken") as tally:
        tally.case()
        raise OSError("no")
    assert campaigns.outcomes[0].failures == 1


@pytest.mark.parametrize(
    ("verdict", "words", "noticed"),
    [
        ("another picture", "", True),
        ("another picture", "picture", True),
        ("TypeError: the plant itself", "picture", False),
        (None, "", False),
    ],
)
def test_a_control_must_notice_its_defect(verdict: str | None, words: str, noticed: bool) -> None:
    expected = nullcontext() if noticed else pytest.raises(AssertionError, match="none noticed: a")
    with expected, Campaigns(soak=True).control("P1", "a defect", words) as tally:
        tally.case()
        tally.case(verdict)


def test_seeds() -> None:
    assert Campaigns(soak=False).seed == 0
    assert Campaigns(soak=True, seed=5).rng(2).random() == Campaigns(True, 5).rng(2).random()
    assert Campaigns(soak=True).seed != Campaigns(soak=True).seed


def outcome(promise: str, name: str, cases: int, control: bool = False) -> Outcome:
    figures = {"refused": "3"}
    return Outcome(promise, name, control, True, cases, 0, 1.0, 7, figures, "2026-01-01", "2 CPUs")


def test_the_newest_outcome_of_each_campaign_is_kept(tmp_path: Path) -> None:
    old = [outcome("P10", "a", 1), outcome("P2", "b", 2)]
    new = [outcome("P10", "a", 3), outcome("P10", "a", 4, control=True)]
    found = merge(old, new)
    assert [(one.promise, one.cases) for one in found] == [("P2", 2), ("P10", 3), ("P10", 4)]
    (tmp_path / "rows.jsonl").write_text(lines(found))
    assert read(tmp_path / "rows.jsonl") == found


def test_the_page_tells_every_promise() -> None:
    text = page([outcome("P2", "flips", 10_000)])
    assert "| flips | 10,000 | 0 |" in text
    assert all(f"## {promise}\n" in text for promise in PROMISES)


@pytest.mark.skipif(not (ROOT / ROWS).exists(), reason="no long run is on record")
def test_the_page_is_that_of_its_rows() -> None:
    assert (ROOT / PAGE).read_text("utf-8") == page(read(ROOT / ROWS))
