"""Files that try to run something, to take all memory or to never end, through every door."""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

import tiny

pytest.importorskip("torch", reason="a .pt file needs torch")

from hostile import files, opcodes, pickles
from hostile.campaign import Campaigns
from hostile.doors import DOORS, NETWORKS, Case, opened
from hostile.worker import verdicts

FOREIGN = ("vgg19", "distilled", "inception", "segmenter")
"""Doors for other networks' weights."""
ALL = (*NETWORKS, *FOREIGN)


def spread(
    campaigns: Campaigns,
    made: dict[str, bytes],
    file: str,
    doors: tuple[str, ...],
    codes: tuple[int, ...] = (3,),
) -> Iterator[Case]:
    """Each file by each door; in the short run by one, in turns."""
    for number, (name, data) in enumerate(made.items()):
        for door in doors if campaigns.soak else [doors[number % len(doors)]]:
            yield Case(name, {file: data}, door, codes)


def malicious_pickles(campaigns: Campaigns, whole: bytes) -> Iterator[Case]:
    evil = pickles.call("os system", "true")
    archives = {name: pickles.archive(made) for name, made in pickles.pickles().items()}
    with warnings.catch_warnings(action="ignore"):  # zipfile warns of a member that is there twice
        odd = pickles.odd_archives(whole, evil)
        hidden = pickles.odd_archives(whole, pickles.crafted()["an hour of hashing"])
    # Out of memory is 5, and not damaged: it may be this machine's fault.
    yield from spread(campaigns, archives, "net.pt", ALL, (3, 5))
    # Of these some are the same network, with something beside it that is never looked at; it may
    # then be another than a recipe's (4), or be what cannot be exported here (8).
    same = (0, 3, 4, 8)
    yield from spread(campaigns, odd, "net.pt", tuple(NETWORKS), same)
    for ending in ("pt", "pth"):
        yield from spread(campaigns, pickles.wrapped(evil), f"net.{ending}", FOREIGN)
    yield from spread(campaigns, pickles.wrapped(evil), "net.pt", tuple(NETWORKS))
    # Those that look like another network's weights to whoever does not look as torch does.
    for name in ("the pickle in capitals", "two directories"):
        yield from spread(campaigns, {f"{name}, for an hour": hidden[name]}, "net.pt", ALL, (0, 3))
    for name in ("os.system", "an hour of hashing", "nothing"):
        yield Case(name, {"ckpt.pt": archives[name]}, "train --resume")


def changed_pickles(campaigns: Campaigns, whole: bytes) -> Iterator[Case]:
    torch, rng = pytest.importorskip("torch"), campaigns.rng(6)
    weights, older = io.BytesIO(), io.BytesIO()
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    torch.save(network.state_dict(), weights)
    torch.save(network.state_dict(), older, _use_new_zipfile_serialization=False)
    codes = (0, 3, 4, 5)
    for i in range(campaigns.count(commit=100, soak=20_000)):
        made = {
            "checkpoint.load": lambda: opcodes.changed_archive(whole, rng),
            "distilled": lambda: opcodes.changed_archive(weights.getvalue(), rng),
            "vgg19": lambda: opcodes.changed_older(older.getvalue(), rng),
        }
        door = tuple(made)[i % len(made)]
        yield Case(f"changed opcodes {i}", {"net.pt": made[door]()}, door, codes)


def tricks(campaigns: Campaigns) -> Iterator[Case]:
    doors, engine_doors = tuple(NETWORKS), ("Engine.open", "info", "render")
    yield from spread(campaigns, files.headers(), "net.safetensors", doors)
    yield from spread(campaigns, files.headers(), "net.crn", engine_doors)
    yield from spread(campaigns, files.checkpoints(), "net.safetensors", doors, (3, 4))
    yield from spread(campaigns, files.engines(), "net.crn", ("Engine.open", "render"), (2, 3, 4))
    for name in ("a target that clears the screen", "built with what clears the screen"):
        yield Case(name, {"net.crn": files.engines()[name]}, "info")
    text_doors = ("recipe", "labels show", "info --labels")
    yield from spread(campaigns, files.tomls(), "x.toml", text_doors, (2, 3, 4, 5))
    yield from (Case(name, made, "convert") for name, made in files.bundles().items())


def matlab_files(campaigns: Campaigns) -> Iterator[Case]:
    """MatConvNet's VGG-19 is read by scipy."""
    scipy = pytest.importorskip("scipy.io", reason="reads .mat files")
    stream = io.BytesIO()
    scipy.savemat(stream, {"layers": [[1, 2]], "x": "os.system('true')"})
    whole, rng = stream.getvalue(), campaigns.rng(5)
    yield Case("another's .mat", {"vgg.mat": whole}, "vgg19")
    for i in range(campaigns.count(commit=10, soak=300)):
        damaged = bytearray(whole)
        damaged[rng.integers(124, len(whole))] ^= 1 << int(rng.integers(8))
        yield Case(f"damaged .mat {i}", {"vgg.mat": bytes(damaged)}, "vgg19")


def executed() -> Iterator[Case]:
    """Pickles by a door that should not be."""
    for name, given in pickles.NAMED.items():
        if name != "os fork":  # there would be two of the worker
            made = pickles.archive(pickles.call(name, *given))
            yield Case(name, {"net.pt": made}, "torch.load of anything")


def test_files_run_nothing(campaigns: Campaigns, tmp_path: Path) -> None:
    whole = tiny.save_checkpoint(tmp_path / "net.pt").read_bytes()
    cases = chain(
        *(malicious_pickles(campaigns, whole), tricks(campaigns), matlab_files(campaigns)),
        *(changed_pickles(campaigns, whole), executed()),
    )
    doors, deaf = set(), set()
    with (
        campaigns.control("P5", "torch.load(weights_only=False)") as control,
        campaigns.tried("P5", "pickles, archives, containers, TOML and others' files") as tally,
    ):
        for case, wrong in verdicts(opened, cases, seconds=60):
            if case.door in DOORS:
                tally.case(wrong)
                doors.add(case.door)
                continue
            heard = wrong is not None and ("did " in wrong or "the process" in wrong)
            control.case(wrong if heard else None)
            deaf |= set() if heard else {case.name}
        tally.figures["doors"] = str(len(doors))
    assert len(deaf) < control.cases / 5, deaf
    assert not {"os system", "builtins eval", "socket create_connection"} & deaf


def test_torch_alone_is_kept_busy(campaigns: Campaigns) -> None:
    if not campaigns.soak:
        pytest.skip("takes the time that it is to notice; pytest --soak")
    made = pickles.archive(pickles.crafted()["an hour of hashing"])
    case = Case("an hour of hashing", {"net.pt": made}, "torch.load of weights only")
    with campaigns.control("P5", "torch.load(weights_only=True) alone") as tally:
        for _, wrong in verdicts(opened, [case], seconds=20, processes=1):
            tally.case(wrong)
