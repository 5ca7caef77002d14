"""Failpoints: they do nothing unless asked, then once, at the arrival that was asked for."""

from __future__ import annotations

import errno
import os
import re
import signal
from pathlib import Path

import pytest

from crn_fast import failpoints

ROOT = Path(__file__).parents[1]


def test_unset_nothing_happens() -> None:
    failpoints.reach("write.begin")


def test_the_nth_arrival_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "write.half:EIO:2")
    monkeypatch.setattr(failpoints, "arrivals", type(failpoints.arrivals)())
    made: list[str] = []
    failpoints.reach("write.half", lambda: made.append("half"))
    failpoints.reach("write.begin")
    assert not made
    with pytest.raises(OSError, match="Input/output error") as caught:
        failpoints.reach("write.half", lambda: made.append("half"))
    assert caught.value.errno == errno.EIO and made == ["half"]
    failpoints.reach("write.half")


def test_a_signal_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(failpoints.VARIABLE, "save.newest:SIGTERM")
    monkeypatch.setattr(failpoints, "arrivals", type(failpoints.arrivals)())
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        failpoints.reach("save.newest")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert heard == [signal.SIGTERM]


def test_the_table_is_what_is_there() -> None:
    text = "".join(
        path.read_text("utf-8")
        for top in ("crn_fast", "training")
        for path in (ROOT / top).rglob("*.py")
    )
    assert set(re.findall(r'failpoints\.reach\("(.*?)"', text)) == set(failpoints.PLACES)


def test_this_process_has_none() -> None:
    assert failpoints.VARIABLE not in os.environ
