"""Runs the campaigns: some cases with every commit, all of them with --soak, which is `make soak`.

`--soak` draws a fresh seed and prints it; `--record` writes the outcomes into
docs/reliability.jsonl and the page made of it.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest

from hostile.campaign import Campaigns, lines, merge, read
from hostile.reliability import PAGE, ROWS, page

FOUND = pytest.StashKey[Campaigns]()


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--record") and not config.getoption("--soak"):
        raise pytest.UsageError("--record is for the long run: add --soak")
    # A shell starts what it runs in the background with Ctrl-C ignored, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    config.stash[FOUND] = Campaigns(config.getoption("--soak"), config.getoption("--seed"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Only Linux has the limits of processes and the view into them that the campaigns use."""
    if sys.platform != "linux":
        for item in items:
            if item.path.parent == Path(__file__).parent and item.path.stem != "test_campaign":
                item.add_marker(pytest.mark.skip(reason="the campaigns need Linux"))


@pytest.fixture
def campaigns(request: pytest.FixtureRequest) -> Campaigns:
    return request.config.stash[FOUND]


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    campaigns = config.stash[FOUND]
    outcomes = merge([], campaigns.outcomes)
    if not outcomes:
        return
    terminalreporter.section("campaigns")
    for found in outcomes:
        kind = "control: " if found.control else ""
        told = "".join(f", {name} {value}" for name, value in found.figures.items())
        terminalreporter.line(
            f"{found.promise:>3}  {kind}{found.name}: {found.failures} of {found.cases} failed, "
            f"{found.seconds:.1f} s{told}"
        )
    total = sum(found.seconds for found in outcomes)
    terminalreporter.line(f"{len(outcomes)} campaigns in {total:.0f} s, --seed {campaigns.seed}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    campaigns = session.config.stash[FOUND]
    if session.config.getoption("--record") and campaigns.outcomes:
        root = Path(session.config.rootpath)
        whole = session.config.args == ["tests/hostile"] and not session.config.option.keyword
        known = merge([] if whole else read(root / ROWS), campaigns.outcomes)
        (root / ROWS).write_text(lines(known), "utf-8")
        (root / PAGE).write_text(page(known), "utf-8")
