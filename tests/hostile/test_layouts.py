"""P1: hostile layouts never crash or hang; each is rendered, or refused in one line."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny
from crn_fast import layout, png
from crn_fast.backends import native
from crn_fast.errors import BadInput, CrnError
from crn_fast.palette import label_set
from hostile.campaign import Campaigns
from hostile.layouts import (
    MODEL,
    Case,
    Read,
    commanded,
    outcomes,
    read_by_pillow,
    read_with_a_crash,
    rendered_or_refused,
)
from hostile.mutators import mutate
from hostile.pngs import SIZE, ids, picture, pngs, readable, seeds
from hostile.worker import verdicts

MEMORY = 64 << 20
"""Bytes that a worker may grow above what it takes idle."""

renders = pytest.mark.skipif(native.available() is not None, reason="needs the compiled ops")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.save_checkpoint(tmp_path / MODEL)
    return tmp_path


def cases(rng: np.random.Generator, count: int) -> Iterator[Case]:
    """Every seed as it is, then mutated ones, read in all the ways."""
    named, shown = list(seeds().items()), readable()
    assert len(named) >= 80 and not shown.keys() - seeds().keys()
    for name, data in named[:count]:
        yield Case(data, name, shows=shown.get(name))
    labels = ("camvid", "camvid", "camvid", "cityscapes", "ade20k")
    encodings = (*["auto"] * 4, "ids", "color")
    unknown = ("error", "void", "void", "nearest", "nearest")
    fits = ("nearest", "nearest", "crop", "pad", "error")
    whole = list(pngs().items())
    for number in range(count - len(named)):
        group = whole if rng.integers(4) else named
        (name, data), (_, other) = (group[i] for i in rng.integers(0, len(group), 2))
        made, how = mutate(rng, data, other)
        chosen = (each[rng.integers(len(each))] for each in (encodings, unknown, fits))
        # One set for a while: to change it takes longer than to read a layout.
        yield Case(made, f"{name}, {how}", labels[number // 300 % len(labels)], *chosen)


@renders
def test_mutated_pngs(campaigns: Campaigns, folder: Path) -> None:
    count = campaigns.count(commit=2_000, soak=100_000)
    with campaigns.tried("P1", "mutated PNGs") as tally:
        subject = partial(rendered_or_refused, folder)
        for _, wrong in verdicts(subject, cases(campaigns.rng(1), count)):
            tally.case(wrong)
        found = outcomes(folder)
        for became in sorted({each for each, _, _ in found}):
            tally.figures[became] = f"{sum(each == became for each, _, _ in found):,}"
        tally.figures["slowest"] = f"{1e3 * max(seconds for _, seconds, _ in found):.0f} ms"
        grown = max(grown for _, _, grown in found)
        tally.figures["memory above idle"] = f"{grown / 1e6:.0f} MB"
        mutated = sum(each == "rendered" for each, _, _ in found) - len(readable())
        assert mutated > count // 50, f"{mutated} of {count} were rendered: too few"
        if grown > MEMORY:
            tally.case(f"memory grew by {grown / 1e6:.0f} MB")


@renders
def test_mutated_pngs_on_the_command_line(campaigns: Campaigns, folder: Path) -> None:
    count = campaigns.count(commit=40, soak=300)
    every = list(cases(campaigns.rng(2), 10 * count))
    chosen = [every[i] for i in campaigns.rng(3).permutation(len(every))[:count]]
    made = [Case(picture(), "sound", shows=ids(SIZE)), *chosen]
    with campaigns.tried("P1", "mutated PNGs on the command line") as tally:
        for _, wrong in verdicts(partial(commanded, folder), made, processes=1):
            tally.case(wrong)


@renders
@pytest.mark.parametrize(
    ("defect", "read", "words"),
    [
        ("a decoder that a byte crashes", read_with_a_crash, "died with exit code -6"),
        ("Pillow without our checks", read_by_pillow, "UnidentifiedImageError"),
    ],
)
def test_a_bad_decoder_is_noticed(
    campaigns: Campaigns, folder: Path, defect: str, read: Read, words: str
) -> None:
    with campaigns.control("P1", defect) as tally:
        subject = partial(rendered_or_refused, folder, read=read)
        for _, wrong in verdicts(subject, cases(campaigns.rng(1), 60), processes=1):
            tally.case(wrong)
    assert any(words in wrong for wrong in tally.failures)


def strange_files(folder: Path) -> Iterator[Path]:
    """Everything that can stand where a layout should."""
    (folder / "empty.png").touch()
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    os.symlink("loop.png", folder / "loop.png")
    os.symlink("nothing", folder / "dangling.png")
    os.symlink("/dev/zero", folder / "zeros.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(folder / "socket.png"))
    with (folder / "holes.png").open("wb") as stream:
        stream.write(picture())
        stream.truncate(1 << 40)
    yield from sorted(folder.iterdir())
    yield folder / "nothing.png"
    yield folder / ("n" * 256)
    yield folder / "empty.png" / "below.png"
    for device in ("zero", "null", "full", "random", "tty", "fd/0"):
        yield Path("/dev", device)
    for pseudo in ("environ", "mem", "maps", "fd", "pagemap"):
        yield Path("/proc/self", pseudo)


@contextmanager
def piped(data: bytes) -> Iterator[Path]:
    """A pipe by name that holds a file, as a shell's <(command) is one."""
    end, other = os.pipe()
    with os.fdopen(end):
        os.write(other, data)
        os.close(other)
        yield Path("/dev/fd", str(end))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_strange_files(
    campaigns: Campaigns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    with campaigns.tried("P1", "files that are no files") as tally:
        for path in strange_files(tmp_path):
            tally.case(refusal(path))
        with piped(picture()) as path:
            tally.case(refusal(path))


LARGE = (24, 40)


def changing(folder: Path, rng: np.random.Generator, count: int) -> Iterator[Changing]:
    """Files that are cut, replaced or grow between two reads."""
    path, sound, other = folder / "changing.png", picture(LARGE), picture(LARGE, color=2)
    for _ in range(count):
        path.write_bytes(sound)
        with Changing(path, other, rng) as stream:
            yield stream


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be changed there")
def test_files_that_change_while_they_are_read(campaigns: Campaigns, tmp_path: Path) -> None:
    found = {"read": 0, "refused": 0}
    with campaigns.tried("P1", "files that change while they are read") as tally:
        count = campaigns.count(commit=100, soak=3_000)
        for stream in changing(tmp_path, campaigns.rng(4), count):
            tally.case(refusal(stream, shows=ids(LARGE), found=found))
        tally.figures |= {became: f"{times:,}" for became, times in found.items()}
    assert min(found.values()) > count // 20, found


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be changed there")
def test_a_reader_that_fills_in_is_noticed(campaigns: Campaigns, tmp_path: Path) -> None:
    with campaigns.control("P1", "what a changed file lacks is filled in") as tally:
        for stream in changing(tmp_path, campaigns.rng(4), 100):
            tally.case(refusal(stream, read_what_is_left, shows=ids(LARGE)))
    assert all("other labels" in wrong for wrong in tally.failures)


def read_what_is_left(source: Any, labels: Any) -> Any:
    """A planted defect: Pillow, told to go on without what is missing."""
    from PIL import Image, ImageFile

    data = b"".join(iter(lambda: source.read(1 << 16), b""))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        try:
            with Image.open(BytesIO(data)) as picture:
                return layout.from_array(np.asarray(picture), labels)
        except Exception as error:
            raise BadInput(f"{source.name}: {error}") from None


class Changing:
    """An open file that is given out in pieces, and changes after one of them."""

    def __init__(self, path: Path, other: bytes, rng: np.random.Generator) -> None:
        self.name = str(path)
        self._stream = path.open("rb", buffering=0)
        self._other, self._rng = other, rng
        self._before = int(rng.integers(0, 4))

    def __enter__(self) -> Changing:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def read(self, size: int) -> bytes:
        if self._before == 0:
            match self._rng.integers(4):
                case 0:
                    os.truncate(self.name, int(self._rng.integers(0, 100)))
                case 1:
                    Path(self.name).write_bytes(self._other)
                case 2:
                    with open(self.name, "ab") as stream:
                        stream.write(bytes(1 << 16))
                case 3:
                    Path(self.name).unlink()
        self._before -= 1
        return self._stream.read(min(size, int(self._rng.integers(1, 200))))


def refusal(
    source: Any,
    read: Callable[..., Any] = layout.read,
    shows: np.ndarray | None = None,
    found: dict[str, int] | None = None,
) -> str | None:
    """None if a layout is refused in one line, or read as what it `shows`; else what happened.

    `found` counts which of them it was.
    """
    found = {"read": 0, "refused": 0} if found is None else found
    try:
        labels = read(source, label_set("camvid"))
    except CrnError as error:
        found["refused"] += 1
        return None if str(error).isprintable() and error.exit_code in (3, 5) else repr(error)
    except Exception as error:
        return f"{source}: {error!r}"
    found["read"] += 1
    if shows is None:
        return f"{source}: is taken for a layout"
    return None if np.array_equal(labels.array, shows) else f"{source}: is read as other labels"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_reader_that_takes_pipes_is_noticed(
    campaigns: Campaigns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(png, "require_file", lambda *_: None)
    with (
        campaigns.control("P1", "a reader that opens whatever it is given") as tally,
        piped(picture()) as path,
    ):
        tally.case(refusal(path))
    assert "is taken for a layout" in tally.failures[0]
