"""Files and folders as a user names them: what a path is, and writing that leaves nothing half."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from threading import Lock
from typing import IO, Literal

from crn_fast.errors import BadInput, ResourceError

Kind = Literal["file", "folder", "other", "missing"]


def kind_of(path: str | Path) -> Kind:
    """What a path is; a name that no file can have is 'missing'.

    Raises:
        ResourceError: a folder on the way may not be entered.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        raise ResourceError(f"{path}: no permission to look at it") from None
    except (OSError, ValueError):  # too long, NUL, a file used as a folder
        return "missing"
    if stat.S_ISREG(mode):
        return "file"
    return "folder" if stat.S_ISDIR(mode) else "other"


def require_file(path: str | Path, expected: str) -> None:
    """Check that a path is a file that may be read.

    Raises:
        BadInput: missing, a folder or a device; the message says what was `expected`.
        ResourceError: it may not be read.
    """
    found = {"missing": "no such file", "folder": "is a folder", "other": "is no regular file"}
    if (kind := kind_of(path)) != "file":
        raise BadInput(f"{path}: {found[kind]}; expected {expected}")
    if not os.access(path, os.R_OK):
        raise ResourceError(f"{path}: no permission to read it")


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"{path}: the folder cannot be made ({reason})") from None


def check_folder(path: str | Path) -> None:
    """Check, before long work, that a file could be written at `path`.

    Raises:
        ResourceError: its folder is missing or may not be written.
    """
    folder = Path(path).parent
    if kind_of(folder) != "folder":
        raise ResourceError(f"{path}: the folder {folder} does not exist; create it first")
    if not os.access(folder, os.W_OK):
        raise ResourceError(f"{path}: no permission to write in {folder}; choose another folder")


def write_whole(path: str | Path, save: Callable[[IO[bytes]], object]) -> None:
    """Let `save` write to a temporary file beside `path`, then move it into place.

    Whatever goes wrong, a file that was there before is untouched and no temporary file remains.
    A symbolic link is followed; a device or pipe is refused.

    Raises:
        ResourceError: the folder is missing or cannot be written, or the disk is full.
    """
    if kind_of(path) == "other":
        raise ResourceError(f"{path}: is no regular file; use - to write to a pipe")
    check_folder(path)
    path = Path(os.path.realpath(path))
    try:
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                save(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(f"{path}: cannot be written: {_explain(path, error)}") from error


@contextmanager
def staged(path: str | Path) -> Iterator[Path]:
    """A file of the same name in a folder of its own beside `path`, moved there if all goes well.

    For files that are used before they are kept; `write_whole` writes them. Whatever goes wrong,
    what was at `path` is untouched and the folder is gone.

    Raises:
        ResourceError: the folder of `path` is missing or cannot be written.
    """
    if kind_of(path) == "other":
        raise ResourceError(f"{path}: is no regular file; choose another name")
    check_folder(path)
    path = Path(os.path.realpath(path))
    try:
        holder = tempfile.TemporaryDirectory(prefix=".", dir=path.parent)
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {_explain(path, error)}") from error
    with holder as folder:
        temporary = Path(folder) / path.name
        yield temporary
        try:
            temporary.replace(path)
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written: {_explain(path, error)}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """`write_whole` of bytes that are in memory."""

    def save(stream: IO[bytes]) -> None:
        stream.write(data)

    write_whole(path, save)


_ASKING = Lock()


@cache
def _umask() -> int:
    """Asked for once: it can only be read by setting it, which no two threads may do at a time."""
    with _ASKING:
        mask = os.umask(0o022)
        os.umask(mask)
    return mask


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(path.parent).free
        return f"{error.strerror} ({free / 1e6:.1f} MB free); make room or choose another folder"
    return error.strerror or str(error)
