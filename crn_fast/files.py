"""Writing files so that each appears whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

from crn_fast.errors import ResourceError


def write_whole(path: str | Path, save: Callable[[IO[bytes]], object]) -> None:
    """Let `save` write to a temporary file beside `path`, then move it into place.

    Whatever goes wrong, a file that was there before is untouched and no temporary file remains.

    Raises:
        ResourceError: the folder is missing or cannot be written, or the disk is full.
    """
    path = Path(path)
    try:
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                save(stream)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(temporary, 0o666 & ~_umask())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise ResourceError(f"{path}: cannot be written: {_explain(path, error)}") from error


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _explain(path: Path, error: OSError) -> str:
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        free = shutil.disk_usage(path.parent).free
        return f"{error.strerror} ({free / 1e6:.1f} MB free); make room or choose another folder"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"no permission in {path.parent}; choose another folder with -o"
    if error.errno == errno.ENOENT:
        return f"the folder {path.parent} does not exist; create it or choose another"
    return error.strerror or str(error)
