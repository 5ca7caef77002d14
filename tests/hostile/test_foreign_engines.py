"""Engines of others: code reaches no driver, and weights, whatever they hold, end no process."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="a checkpoint's reader is compared, too")

from crn_fast import container, trust
from crn_fast.backends import trt
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, CrnError, ResourceError
from hostile.campaign import Campaigns
from hostile.engines import CODE, FORGED, Attack, Weights, kept_out, survived
from hostile.readers import KINDS
from hostile.worker import verdicts


def attacks(campaigns: Campaigns) -> Iterator[Attack]:
    rng = campaigns.rng(7)
    kinds = [*FORGED, *(kind for kind in KINDS if kind not in FORGED)]
    for i in range(campaigns.count(commit=500, soak=10_000)):
        # Flips and cuts are a half of all.
        kind = kinds[i // 2 % len(kinds)] if i % 2 else ("flip", "truncation")[i // 2 % 2]
        yield Attack(("trt", "fused")[i // 4 % 2], kind, *map(int, rng.integers(1 << 40, size=2)))


def test_no_foreign_code_reaches_a_driver(campaigns: Campaigns) -> None:
    trusting = [
        Attack(backend, kind, i, i, trusting=True)
        for backend in ("trt", "fused")
        for kind in ("not signed", "signed with another key")
        for i in range(10)
    ]
    with (
        campaigns.control("P7", "engines are opened whoever signed them") as control,
        campaigns.tried("P7", "plans and cubins that are foreign or damaged") as tally,
    ):
        for attack, wrong in verdicts(kept_out, [*attacks(campaigns), *trusting], seconds=60):
            (control if attack.trusting else tally).case(wrong)
    assert len(control.failures) == control.cases


def test_no_weights_end_a_process(campaigns: Campaigns) -> None:
    """Of a downloaded engine or checkpoint whose hashes its maker made right."""
    rng = campaigns.rng(8)
    seeds = [int(seed) for seed in rng.integers(1 << 31, size=campaigns.count(400, 10_000))]
    cases = [
        *map(Weights, seeds),
        *(Weights(seed, fragile=True) for seed in seeds[: campaigns.count(60, 600)]),
    ]
    defect = "weights that are not finite end the process"
    with (
        campaigns.control("P7", defect, "died with exit code") as control,
        campaigns.tried("P7", "weights of hostile values, shapes and types, rendered") as tally,
    ):
        for weights, wrong in verdicts(survived, cases, seconds=60):
            (control if weights.fragile else tally).case(wrong)


class Racer:
    """Writes into a file, again and again, while it is read."""

    def __init__(self, path: Path, at: int) -> None:
        self.path, self.at, self.done = path, at, threading.Event()
        self.thread = threading.Thread(target=self._run)

    def __enter__(self) -> Racer:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()

    def _run(self) -> None:
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self.at)
            sound = file.read(1)[0]
            turn = 0
            while not self.done.is_set():
                turn ^= 0xFF
                file.seek(self.at)
                file.write(bytes([sound ^ turn]))


@pytest.mark.parametrize("trusting", [False, True])
def test_a_file_that_changes_while_it_is_opened(
    trusting: bool, campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is handed on is what was signed, whoever writes into the file meanwhile."""
    packed, metadata = CODE()["trt"]
    plan = np.random.default_rng(0).integers(0, 256, 1 << 20, np.uint8)
    path = tmp_path / "net.crn"
    container.write(path, {**packed, "plan": plan}, metadata, trust.sign)
    reached: list[bool] = []

    def load(spec: Any, found: Mapping[str, np.ndarray], *rest: Any) -> Any:
        reached.append(any(not np.array_equal(found["plan"], plan) for _ in range(20)))
        return SimpleNamespace(device="stand-in", precision="fp16")

    monkeypatch.setattr(trt, "load", load)
    monkeypatch.setattr(trt, "available", lambda: None)
    if trusting:
        monkeypatch.setattr(trust, "check", lambda source, tensors, metadata: tensors)
    at = len(path.read_bytes()) - plan.size // 2 - len(packed["about"])
    run = campaigns.control if trusting else campaigns.tried
    name = "the mapped file itself is handed on" if trusting else "files written into meanwhile"
    with run("P7", name) as tally, Racer(path, at):
        for _ in range(campaigns.count(commit=60, soak=2_000)):
            try:
                Engine.open(path)
            except BadInput:
                reached.append(False)
            tally.case("other code than was signed" if reached[-1] else None)


def _replaced(key: Path) -> None:
    key.write_bytes(b"x" * trust.KEY_BYTES)


def _empty(key: Path) -> None:
    key.write_bytes(b"")


def _readable(key: Path) -> None:
    key.chmod(0o644)


def _linked(key: Path) -> None:
    other = key.with_name("other.key")
    other.write_bytes(b"y" * trust.KEY_BYTES)
    other.chmod(0o600)
    key.unlink()
    key.symlink_to(other)


def _gone(key: Path) -> None:
    key.unlink()


def _folder(key: Path) -> None:
    key.unlink()
    key.mkdir()


def _anothers(key: Path) -> None:
    if os.geteuid():
        pytest.skip("only root can give a file away")
    os.chown(key, 12345, -1)


@pytest.mark.skipif(os.name != "posix", reason="modes and owners of files")
@pytest.mark.parametrize(
    ("change", "error"),
    [
        (_replaced, BadInput),
        (_empty, ResourceError),
        (_readable, ResourceError),
        (_linked, BadInput),
        (_gone, BadInput),
        (_folder, ResourceError),
        (_anothers, ResourceError),
    ],
)
def test_a_key_that_is_not_the_one(
    change: Any, error: type[CrnError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    packed, metadata = CODE()["trt"]
    path = tmp_path / "net.crn"
    container.write(path, packed, metadata, trust.sign)
    monkeypatch.setattr(trt, "load", lambda *_: pytest.fail("reached TensorRT"))
    monkeypatch.setattr(trt, "available", lambda: None)
    change(trust.key_path())
    with pytest.raises(error):
        Engine.open(path)
