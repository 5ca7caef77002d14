"""Files: written whole or not at all, and why not."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import IO

import pytest

from crn_fast import files
from crn_fast.errors import ResourceError


def _fail(stream: IO[bytes], code: int) -> None:
    stream.write(b"half")
    raise OSError(code, os.strerror(code))


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, r"needs more than the [0-9.]+ MB that are free; make room"),
        (errno.EFBIG, r"more than the limit of a file \(ulimit -f\) allows"),
        (errno.EDQUOT, r"more than your quota allows"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_a_write_that_fails_leaves_what_was_there(tmp_path: Path, code: int, told: str) -> None:
    path = tmp_path / "it"
    path.write_bytes(b"before")
    with pytest.raises(ResourceError, match=told):
        files.write_whole(path, lambda stream: _fail(stream, code))
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["it"]


def test_a_library_may_raise_of_something_else(tmp_path: Path) -> None:
    """As torch.save does: it goes on to end its archive, which is then too short."""

    def save(stream: IO[bytes]) -> None:
        try:
            _fail(stream, errno.ENOSPC)
        finally:
            raise RuntimeError("unexpected pos 65216 vs 65104")

    with pytest.raises(ResourceError, match="MB that are free"):
        files.write_whole(tmp_path / "it", save)
    with pytest.raises(RuntimeError, match="no disk"):
        files.write_whole(
            tmp_path / "it", lambda stream: (_ for _ in ()).throw(RuntimeError("no disk"))
        )
    assert not os.listdir(tmp_path)


@pytest.mark.skipif(os.name != "posix", reason="folders are synced on POSIX")
def test_the_name_is_on_disk_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("has no /proc")
    monkeypatch.setattr("os.fsync", note)
    files.write_bytes(tmp_path / "it", b"new")
    assert len(synced) == 2 and synced[1] == str(tmp_path)


def test_what_has_nothing_to_do_with_the_disk_is_no_error_of_it(tmp_path: Path) -> None:
    def save(stream: IO[bytes]) -> None:
        try:
            (tmp_path / "missing").read_bytes()
        except OSError:
            raise RuntimeError("a bug") from None

    with pytest.raises(RuntimeError, match="a bug"):
        files.write_whole(tmp_path / "it", save)


@pytest.mark.parametrize(
    ("given", "there", "meant"),
    [
        ("stret.png", "street.png", "street.png"),
        ("stret.pgn", "street.png", "street.png"),
        ("street", "street.png", "street.png"),
        ("stret.pth", "street.pt", "street.pt"),
        ("stret.pt", "street.png", None),
        ("emty", "empty", "empty"),
    ],
)
def test_what_was_probably_meant(tmp_path: Path, given: str, there: str, meant: str | None) -> None:
    (tmp_path / there).touch()
    assert files.nearly(tmp_path / given) == ((str(tmp_path / meant),) if meant else ())


def test_no_thousands_of_names_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = ["street.png", *(f"{i}.png" for i in range(files._MANY))]
    monkeypatch.setattr("os.listdir", lambda _: many)
    assert files.nearly(tmp_path / "stret.png") == ()
    assert files.nearly(tmp_path / "street") == (str(tmp_path / "street.png"),)
