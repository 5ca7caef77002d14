"""Servers of `crn-fast compare` on a free port of this machine, each in a thread."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from crn_fast.compare.server import Experiment, Server
from crn_fast.compare.trials import Source, plan, scenes


@contextmanager
def comparing(
    folders: Mapping[Source, Path], out: Path, trials: int, sentinels: int
) -> Iterator[Server]:
    """A server that asks about a and b; the answers go to `out`."""
    found = scenes(folders)
    experiment = Experiment(
        lambda rater: plan(found, [("a", "b")], (None,), trials, sentinels, rater), out
    )
    server = Server(experiment, 0)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
