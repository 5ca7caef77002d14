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
import tempfile
import weakref
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import IO, Any

from crn_fast import checkpoint, failpoints, torch_file
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import BadInput, ResourceError, Unavailable
from crn_fast.files import (
    explain,
    kind_of,
    make_folder,
    require_file,
    sync_folder,
    write_whole,
)

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
        write_whole(path, lambda stream: torch_file.write(state, stream))
        try:
            failpoints.reach("save.numbered")
            self._rename(path)
            self._drop_but(step, keep)
        except OSError as error:
            raise ResourceError(
                f"{self.newest}: cannot be written: {explain(self.newest, error)}"
            ) from error

    def _rename(self, path: Path) -> None:
        """Make a checkpoint the newest, by a second name that is moved into place.

        So there is a newest checkpoint at every moment.
        """
        other = self.path / ".ckpt.pt.tmp"
        other.unlink(missing_ok=True)
        try:
            _link(path, other)
            failpoints.reach("save.linked")
            other.replace(self.newest)
        except BaseException:
            other.unlink(missing_ok=True)
            raise
        sync_folder(self.path)  # before any that is older goes
        failpoints.reach("save.newest")

    def _drop_but(self, step: int, keep: int) -> None:
        """Take away checkpoints before the `keep` newest up to a step, and those of later steps.

        A run has later ones that went on from an earlier checkpoint than its newest, as that was
        damaged.
        """
        numbered = self._numbered()
        kept = [path for number, path in numbered if number <= step][:keep]
        for _, path in numbered:
            if path not in kept and kind_of(path) == "file":
                path.unlink(missing_ok=True)
                failpoints.reach("save.dropped")

    def load(self) -> tuple[dict[str, Any], Checkpoint, list[str]]:
        """The newest checkpoint that is sound: its state, its network, and what was passed over.

        What stands where a checkpoint belongs and is no file is moved aside, for the next save
        needs its name.

        Raises:
            BadInput: there is none.
        """
        passed: list[str] = []
        odd: list[Path] = []
        for path in (self.newest, *(path for _, path in self._numbered())):
            try:
                _require_readable(path)
                state = checkpoint.load_training(path)
                found = checkpoint.of_training(path, state)
            except BadInput as error:
                passed.append(str(error))
                odd += [path] * (kind_of(path) in ("folder", "other"))
                continue
            if self._lock:
                for path in odd:
                    aside = tempfile.mkdtemp(prefix="damaged-", dir=self.path)
                    path.replace(Path(aside) / path.name)
            return state, found, passed
        raise BadInput(
            f"{'; '.join(passed)}; nothing here can be resumed"
            if holds_run(self.path)
            else f"{self.newest}: nothing to resume; leave --resume out to begin a run there"
        )

    def log(self, name: str, values: Mapping[str, Any]) -> None:
        """Add a line to <name>.jsonl.

        Raises:
            ResourceError: it cannot be written. Half a line may be; see `forget_after`.
        """
        path = self.path / f"{name}.jsonl"
        line = json.dumps(values) + "\n"
        try:
            with path.open("a") as stream:
                failpoints.reach("log.half", lambda: _begin(stream, line))
                stream.write(line)
            failpoints.reach("log.line")
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written: {explain(path, error)}") from None
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
                failpoints.reach("resume.cut")

    def _numbered(self) -> list[tuple[int, Path]]:
        return _numbered(self.path)


def holds_run(path: Path) -> bool:
    """Whether there is a checkpoint in a folder, sound or not."""
    return os.path.lexists(path / NEWEST) or bool(_numbered(path))


def _numbered(path: Path) -> list[tuple[int, Path]]:
    """Steps and their checkpoints, latest first; the first is the newest under its other name."""
    numbered = [(p.stem.removeprefix("ckpt-"), p) for p in path.glob("ckpt-*.pt")]
    return sorted(((int(n), p) for n, p in numbered if n.isdecimal()), reverse=True)


def _require_readable(path: Path) -> None:
    """As `require_file`, but a file without permission is as good as damaged."""
    try:
        require_file(path, "a checkpoint")
    except ResourceError as error:
        raise BadInput(str(error)) from None


def _begin(stream: IO[str], line: str) -> None:
    stream.write(line[: len(line) // 2])
    stream.flush()


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
            "training.tensorboard needs the package tensorboard: `pip install tensorboard`"
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
