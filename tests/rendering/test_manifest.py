"""Manifests: what a kill leaves of them is read, and what is done is known by its hashes."""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path

import pytest

from crn_fast.errors import ResourceError
from crn_fast.rendering import manifest
from crn_fast.rendering.manifest import Entry, Manifest, Output

ENTRY = Entry(
    "in/\udcff\n.png", "ab", (Output("a.png", "cd"),), "done", "m", "ef", "native", "fp32", "s", 1.5
)


def test_round_trip_of_any_name(tmp_path: Path) -> None:
    with Manifest(tmp_path / "manifest.jsonl") as written:
        written.add(ENTRY)
        written.add(dataclasses.replace(ENTRY, status="failed", outputs=(), error="bad\nlayout"))
        assert written.lines == 2
    first, second = manifest.read(tmp_path / "manifest.jsonl")
    assert first == ENTRY
    assert (second.status, second.outputs, second.error) == ("failed", (), "bad\nlayout")


def test_torn_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    line = ENTRY.to_json().encode() + b"\n"
    for end in range(0, len(line) + 1, 7):
        path.write_bytes(line + line[:end])
        assert len(list(manifest.read(path))) == 1 + (end >= len(line) - 1)
        with Manifest(path) as going_on:
            going_on.add(ENTRY)
        whole = 2 + (end == len(line))
        assert path.read_bytes() == line * whole
    path.write_bytes(b"x" * 200_000)
    with Manifest(path) as going_on:
        going_on.add(ENTRY)
    assert path.read_bytes() == line


def test_foreign_lines_are_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "manifest.jsonl"
    lines = ["[]", "null", '{"outputs": 3}', '{"outputs": []}', "\xff", ENTRY.to_json()]
    path.write_text("\n".join(lines) + "\n", encoding="latin-1")
    assert list(manifest.read(path)) == [ENTRY]


def test_manifests_of_shards_join(tmp_path: Path) -> None:
    for i in (1, 2):
        with Manifest(tmp_path / f"manifest.{i}-of-2.jsonl") as part:
            part.add(dataclasses.replace(ENTRY, outputs=(Output(f"{i}.png", "0"),)))
    assert set(manifest.finished(tmp_path)) == {("1.png",), ("2.png",)}


def test_done_means_the_same_hashes_and_settings(tmp_path: Path) -> None:
    layout, picture = tmp_path / "layout.png", tmp_path / "a.png"
    layout.write_bytes(b"layout")
    picture.write_bytes(b"picture")
    entry = dataclasses.replace(
        ENTRY,
        input_sha256=manifest.sha256_of(layout),
        outputs=(Output("a.png", manifest.sha256_of(picture)),),
    )
    assert manifest.is_whole(entry, tmp_path, "s", layout)
    assert not manifest.is_whole(entry, tmp_path, "other", layout)
    picture.write_bytes(b"pictura")
    assert not manifest.is_whole(entry, tmp_path, "s", layout)
    picture.write_bytes(b"picture")
    layout.write_bytes(b"another")
    assert not manifest.is_whole(entry, tmp_path, "s", layout)
    layout.unlink()
    assert not manifest.is_whole(entry, tmp_path, "s", layout)


def test_a_full_disk_is_told() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(ResourceError, match="No space left"), Manifest(Path("/dev/full")) as full:
        full.add(ENTRY)


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"outputs": [{"path": ["a"], "sha256": ""}]}',
        b'{"outputs": [{"path": 1, "sha256": null}]}',
        b'{"outputs": 3}',
        b"null",
        b"\xff\xfe",
    ],
)
def test_lines_of_a_stranger_are_passed_over(line: bytes, tmp_path: Path) -> None:
    (tmp_path / "manifest.jsonl").write_bytes(line + b"\n" + ENTRY.to_json().encode() + b"\n")
    assert list(manifest.finished(tmp_path)) == [("a.png",)]


@pytest.mark.skipif(sys.platform == "win32", reason="names and links are those of Unix")
def test_what_is_no_file_is_neither_read_nor_written(tmp_path: Path) -> None:
    outside = tmp_path / "outside.jsonl"
    outside.write_bytes(b"kept\ntorn")
    out = tmp_path / "out"
    out.mkdir()
    (out / "manifest.jsonl").symlink_to(outside)
    with pytest.raises(ResourceError, match="is a link"):
        Manifest(out / "manifest.jsonl")
    assert outside.read_bytes() == b"kept\ntorn"
    os.mkfifo(out / "manifest.2.jsonl")
    os.mkfifo(out / "a.png")
    (out / "manifest.3.jsonl").mkdir()
    assert manifest.finished(out) == {}
    assert not manifest.is_whole(ENTRY, out, "s", outside)
