"""Files and folders as a user names them: what a path is, and writing that leaves nothing half."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from shlex import quote
from threading import Lock
from typing import IO, Literal

from crn_fast import failpoints
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
        BadInput: missing, a folder or a device, or what stands in a file's place when its download
            went wrong; the message says what was `expected`.
        ResourceError: it may not be read.
    """
    found = {"missing": "no such file", "folder": "is a folder", "other": "is no regular file"}
    if (kind := kind_of(path)) != "file":
        error = BadInput(f"{path}: {found[kind]}; expected {expected}")
        raise error.instead_of(str(path), *(nearly(path) if kind == "missing" else ()))
    try:
        with open(path, "rb") as stream:
            head = stream.read(64).lstrip().lower()
    except OSError as error:
        if error.errno != errno.EACCES:
            raise ResourceError(f"{path}: cannot be read ({error.strerror})") from None
        raise ResourceError(f"{path}: no permission to read it") from None
    if head.startswith(b"version https://git-lfs"):
        raise BadInput(f"{path}: is a Git LFS pointer, not the file it stands for: `git lfs pull`")
    if head.startswith((b"<!doctype html", b"<html")):
        raise BadInput(f"{path}: is a web page, not {expected}; a download went wrong: repeat it")


def nearest(word: str, known: Iterable[str]) -> tuple[str, ...]:
    """What differs least from a word; nothing where all differ much."""
    from difflib import get_close_matches

    folded = {name.casefold().replace("_", "-"): name for name in known}
    found = get_close_matches(word.casefold().replace("_", "-"), folded, 1, 0.75)
    return tuple(folded[each] for each in found)


def ending_in(path: str | Path, ending: str) -> tuple[str, ...]:
    """The same name with another ending; nothing for what has no name, as `.`."""
    return (str(Path(path).with_suffix(ending)),) if Path(path).name else ()


def nearly(path: str | Path) -> tuple[str, ...]:
    """What was probably meant by a path where nothing is, as a user would write it; or nothing.

    A tilde that no shell expanded, the backslashes of Windows, or a name that is nearly the same:
    mistyped, or without its ending. A file of another kind, as weights for a picture, never is.
    """
    text = str(path)
    expanded = Path(text).expanduser() if text.startswith("~/") else Path(text.replace("\\", "/"))
    if text != str(expanded) and kind_of(expanded) != "missing":
        return (str(expanded),)
    try:
        there = os.listdir(expanded.parent)
    except (OSError, ValueError):
        return ()
    ended = [name for name in there if Path(name).stem == expanded.name]
    names = ended if len(ended) == 1 else _nearest_file(expanded.name, there)
    return tuple(str(expanded.with_name(name)) for name in names)


_MANY = 2_000
"""Names in a folder. To compare more takes too long where layout after layout is missing."""


def _nearest_file(word: str, names: Sequence[str]) -> tuple[str, ...]:
    if len(names) > _MANY:
        return ()
    if ending := Path(word).suffix:
        alike = {each for each in {Path(name).suffix for name in names} if nearest(ending, [each])}
        names = [name for name in names if Path(name).suffix in alike]
    return nearest(word, names)


def make_folder(path: str | Path) -> None:
    """Make a folder and those above it, unless they are there.

    Raises:
        ResourceError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ResourceError(f"{path}: the folder cannot be made ({reason})") from None


def check_folder(path: str | Path) -> None:
    """Check, before long work, that a file could be written at `path`.

    Raises:
        ResourceError: its folder is missing or may not be written.
    """
    folder = Path(path).parent
    if kind_of(folder) != "folder":
        raise ResourceError(
            f"{path}: the folder {folder} does not exist; `mkdir -p {quote(str(folder))}`"
        )
    if not os.access(folder, os.W_OK):
        raise ResourceError(f"{path}: no permission to write in {folder}; choose another folder")


def write_whole(path: str | Path, save: Callable[[IO[bytes]], object]) -> None:
    """Let `save` write to a temporary file beside `path`, then move it into place.

    Whatever goes wrong, a file that was there before is untouched and no temporary file remains;
    `kill -9` alone may leave one, hidden, whose name ends in .tmp. When this returns, the file is
    on disk under its name. A symbolic link is followed; a device or pipe is refused.

    Raises:
        ResourceError: the folder is missing or cannot be written, or the disk is full.
    """
    if kind_of(path) == "other":
        raise ResourceError(f"{path}: is no regular file; use - to write to a pipe")
    check_folder(path)
    path = Path(os.path.realpath(path))
    try:
        failpoints.reach("write.begin")
        descriptor, name = tempfile.mkstemp(prefix=".", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "w+b") as stream:
                save(stream)
                stream.flush()
                failpoints.reach("write.half", partial(_halve, temporary))
                failpoints.reach("write.written")
                os.fsync(stream.fileno())
            failpoints.reach("write.synced")
            temporary.chmod(0o666 & ~_umask())
            failpoints.reach("write.ready")
            temporary.replace(path)
            failpoints.reach("write.renamed")
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)
    except ResourceError:
        raise
    except (OSError, RuntimeError) as error:
        # Where a write fails, torch.save goes on to end its archive, and complains of that.
        failed = error if isinstance(error, OSError) else error.__context__
        if not isinstance(failed, OSError) or not (failed is error or failed.errno in _OF_DISKS):
            raise
        raise ResourceError(f"{path}: cannot be written: {explain(path, failed)}") from error


_OF_DISKS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
"""What writing to an open file ends with; any other error may have to do with something else."""


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
        raise ResourceError(f"{path}: cannot be written: {explain(path, error)}") from error
    with holder as folder:
        temporary = Path(folder) / path.name
        yield temporary
        try:
            failpoints.reach("stage.ready")
            temporary.replace(path)
            failpoints.reach("stage.renamed")
            sync_folder(path.parent)
        except OSError as error:
            raise ResourceError(f"{path}: cannot be written: {explain(path, error)}") from error


def write_bytes(path: str | Path, data: bytes) -> None:
    """`write_whole` of bytes that are in memory."""

    def save(stream: IO[bytes]) -> None:
        stream.write(data)

    write_whole(path, save)


def sync_folder(path: str | Path) -> None:
    """Have the names in a folder survive a loss of power; where that cannot be, they are there."""
    if os.name != "posix":
        return
    with suppress(OSError):  # a folder that may not be read, a file system that cannot
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


_ASKING = Lock()


@cache
def _umask() -> int:
    """Asked for once: it can only be read by setting it, which no two threads may do at a time."""
    with _ASKING:
        mask = os.umask(0o022)
        os.umask(mask)
    return mask


def _halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def explain(path: Path, error: OSError) -> str:
    """Why a file cannot be written, and what to do; asked after what was begun of it is gone."""
    reason = error.strerror or str(error)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return reason
    try:
        free = f"the {shutil.disk_usage(path.parent).free / 1e6:.1f} MB that are free"
    except OSError:
        free = "what is free"
    if error.errno == errno.ENOSPC:
        return f"{reason}: it needs more than {free}; make room or choose another folder"
    limit = "your quota" if error.errno == errno.EDQUOT else "the limit of a file (ulimit -f)"
    return f"{reason}: it needs more than {limit} allows, with {free}; raise that, or make room"
