"""The folder of a run: checkpoints, metrics, samples. What is in it is whole at every moment.

ckpt.pt              the newest checkpoint
ckpt-<step>.pt       the newest under another name, and as many earlier ones as are kept
metrics.jsonl        a line every few steps: the same in every repetition of a deterministic run
timing.jsonl         the same lines' speed, which never repeats
samples/             validation layouts as the network renders them
loss.png             the loss and its terms over the steps, drawn when training ends
tensorboard/         the logs' lines as event files, where the recipe asks for them
diverged-<rank>.pt   what each process met where the loss stopped being a finite number
"""

from __future__ import annotations

import json
import os
import shutil
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

import torch

from crn_fast import checkpoint
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import BadInput, ResourceError, Unavailable
from crn_fast.files import make_folder, require_file, write_whole

NEWEST = "ckpt.pt"


class RunFolder:
    """A run's folder, for this process alone while it is open.

    Raises:
        BadInput: another process trains there.
        ResourceError: the folder cannot be made or written.
    """

    def __init__(self, path: Path, own: bool = True, tensorboard: bool = False) -> None:
        """Take the folder; `own` is false in the processes that only read it."""
        self.path = path
        make_folder(path / "samples")
        self._lock = _lock(path / ".lock") if own else None
        if own:
            _sweep(path)
        self._writer = _tensorboard(path / "tensorboard") if own and tensorboard else None

    def close(self) -> None:
        """Let others train here."""
        if self._writer:
            self._writer.close()
        if self._lock:
            self._lock.close()

    @property
    def newest(self) -> Path:
        return self.path / NEWEST

    def save(self, state: Mapping[str, Any], step: int, keep: int) -> None:
        """Make `state` the newest checkpoint and keep `keep` in all.

        Raises:
            ResourceError: the disk is full or may not be written; older checkpoints are whole.
        """
        path = self.path / f"ckpt-{step}.pt"
        write_whole(path, lambda stream: torch.save(dict(state), stream))
        # A second name moved into place, so that there is a newest checkpoint at every moment.
        other = self.path / ".ckpt.pt"
        other.unlink(missing_ok=True)
        _link(path, other)
        other.replace(self.newest)
        for old in self._numbered()[keep:]:
            old.unlink(missing_ok=True)

    def load(self) -> tuple[dict[str, Any], Checkpoint, list[str]]:
        """The newest checkpoint that is sound: its state, its network, and what was passed over.

        Raises:
            BadInput: there is none.
        """
        passed: list[str] = []
        for path in (self.newest, *self._numbered()):
            try:
                require_file(path, "a checkpoint")
                state = checkpoint.load_training(path)
                return state, checkpoint.of_training(path, state), passed
            except BadInput as error:
                passed.append(str(error))
        raise BadInput(
            f"{self.newest}: nothing to resume; leave --resume out to begin a run there"
            if not self.newest.exists()
            else f"{'; '.join(passed)}; nothing here can be resumed"
        )

    def log(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a line to <name>.jsonl."""
        try:
            with (self.path / f"{name}.jsonl").open("a") as stream:
                stream.write(json.dumps(values) + "\n")
        except OSError as error:
            raise ResourceError(f"{self.path}: cannot be written ({error.strerror})") from None
        if self._writer:
            for key, value in _scalars(values).items():
                self._writer.add_scalar(f"{name}/{key}", value, values["step"])

    def forget_after(self, step: int) -> None:
        """Drop logged lines of later steps, which a stopped run wrote and this one will repeat."""
        for name in ("metrics", "timing"):
            path = self.path / f"{name}.jsonl"
            if path.exists():
                lines = [line for line in path.read_bytes().splitlines() if _step_of(line) <= step]
                write_whole(path, partial(_write_lines, lines))

    def _numbered(self) -> list[Path]:
        """Checkpoints by step, latest first; the first is the newest under its other name."""
        numbered = [(p.stem.removeprefix("ckpt-"), p) for p in self.path.glob("ckpt-*.pt")]
        return [p for _, p in sorted(((int(n), p) for n, p in numbered if n.isdecimal()))[::-1]]


def _write_lines(lines: list[bytes], stream: IO[bytes]) -> None:
    stream.writelines(line + b"\n" for line in lines)


def _scalars(values: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of nested tables by dotted name, steps aside."""
    found: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            found |= _scalars(value, f"{prefix}{key}.")
        elif key not in ("step", "steps"):
            found[f"{prefix}{key}"] = float(value)
    return found


def _tensorboard(path: Path) -> Any:
    """A writer of event files.

    Raises:
        Unavailable: the package tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise Unavailable(
            "training.tensorboard needs the package tensorboard: pip install tensorboard"
        ) from None
    return SummaryWriter(str(path))


def _step_of(line: bytes) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")  # half a line, from a run that was killed


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without hard links
        shutil.copyfile(source, target)


def _sweep(path: Path) -> None:
    """Take away the temporary files of runs that were killed as they wrote."""
    for left in (*path.glob(".*.tmp"), *path.glob("samples/.*.tmp")):
        left.unlink(missing_ok=True)


def _lock(path: Path) -> IO[str]:
    """Hold the file at `path` for this process; the lock goes with the process, however it ends."""
    try:
        stream = path.open("a")
    except OSError as error:
        raise ResourceError(f"{path.parent}: cannot be written ({error.strerror})") from None
    try:
        import fcntl
    except ImportError:  # Windows
        return stream
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.close()
        raise BadInput(
            f"{path.parent}: another process trains there; choose another --out"
        ) from None
    _close_in_children(stream)
    return stream


def _close_in_children(stream: IO[str]) -> None:
    """Processes that read data inherit the lock, and would hold it when this one is killed."""
    held = weakref.ref(stream)

    def close() -> None:
        if inherited := held():
            inherited.close()

    os.register_at_fork(after_in_child=close)
