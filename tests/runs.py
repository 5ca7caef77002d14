"""Whether two runs of training ended alike: a digest of each thing that must not differ."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from crn_fast import checkpoint


def digests(run: Path) -> dict[str, str]:
    """SHA-256 of each part of the checkpoint, of the metrics and of each sample picture."""
    state = checkpoint.load_training(run / "ckpt.pt")
    parts = ("model", "raw", "optimizer", "loss", "step")
    found = {part: hashlib.sha256(b"".join(plain(state[part]))).hexdigest() for part in parts}
    for path in (run / "metrics.jsonl", *sorted((run / "samples").iterdir())):
        found[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    assert "sheet.png" in found and len(found) > 7
    return found


def plain(value: Any) -> Iterator[bytes]:
    """The bytes of nested tables of tensors and numbers, in order."""
    if isinstance(value, dict):
        for key in sorted(value, key=str):
            yield f"{key}:".encode()
            yield from plain(value[key])
    elif isinstance(value, torch.Tensor):
        yield f"{value.dtype}{tuple(value.shape)}".encode()
        yield value.contiguous().numpy().tobytes()
    else:
        yield repr(value).encode()
