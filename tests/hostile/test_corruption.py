"""Damaged checkpoints and engines: every change is refused, or changes nothing."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="a .pt file needs torch")

from crn_fast import container
from hostile.campaign import Campaigns
from hostile.readers import KINDS, Damage, noticed
from hostile.worker import verdicts

FORMS = ("safetensors", "ckpt.pt", "native", "trt", "fused")


def damages(campaigns: Campaigns, kind: str, count: int, stream: int) -> Iterator[Damage]:
    rng = campaigns.rng(stream)
    for i in range(count):
        yield Damage(FORMS[i % len(FORMS)], kind, *map(int, rng.integers(1 << 40, size=2)))


def test_every_corruption_is_noticed(campaigns: Campaigns) -> None:
    counts = {
        "flip": campaigns.count(commit=1_000, soak=10_000),
        "truncation": campaigns.count(commit=200, soak=1_000),
        "swap": campaigns.count(commit=60, soak=200),
    }
    others = campaigns.count(commit=40, soak=500)
    counts |= {kind: others for kind in KINDS if kind not in counts}
    cases = [
        damage
        for stream, (kind, count) in enumerate(counts.items())
        for damage in damages(campaigns, kind, count, stream)
    ]
    rng = campaigns.rng(99)
    unhashed = [
        Damage(form, "flip", *map(int, rng.integers(1 << 40, size=2)), reader)
        for form, reader in (("safetensors", "safetensors alone"), ("ckpt.pt", "torch.load alone"))
        for _ in range(50)
    ]
    with (
        campaigns.control("P6", "safetensors and torch.load without our hashes") as control,
        campaigns.tried("P6", "flips, cuts, swapped tensors, insertions") as tally,
    ):
        for damage, wrong in verdicts(noticed, [*cases, *unhashed], seconds=60):
            (control if damage.reader else tally).case(wrong)
        tally.figures |= {kind: f"{count:,}" for kind, count in counts.items()}
    # Those bits that it does not take are the header's, and the archive's directory.
    assert len(control.failures) > 50


def test_how_fast_it_verifies(campaigns: Campaigns, tmp_path: Path) -> None:
    """Measured, and told with the soak's figures; nothing is asserted of a busy machine."""
    if not campaigns.soak:
        pytest.skip("writes 500 MB; pytest --soak")
    rng = np.random.default_rng(0)
    tensors = {f"t{i}": rng.random(31_250_000, np.float32) for i in range(4)}
    container.write(tmp_path / "large.safetensors", tensors, {"format": "test"})
    measure = (
        "import os, sys, time\nfrom crn_fast import container\n"
        "if sys.argv[2] == '1': os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "best = 9e9\n"
        "for _ in range(3):\n"
        "    start = time.perf_counter()\n"
        "    container.read(sys.argv[1])\n"
        "    best = min(best, time.perf_counter() - start)\n"
        "print(0.5 / best)\n"
    )
    with campaigns.tried("P6", "the speed of verification, of 500 MB") as tally:
        for cpus in ("all", "1"):
            words = ["-P", "-c", measure, str(tmp_path / "large.safetensors"), cpus]
            done = subprocess.run(
                [sys.executable, *words], capture_output=True, text=True, check=True
            )
            tally.figures[f"with CPUs: {cpus}"] = f"{float(done.stdout):.2f} GB/s"
            tally.case()
