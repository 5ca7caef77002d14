"""`crn-fast labels`: its results on stdout, its faults by type."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from crn_fast import layout
from crn_fast.commands.labels import command
from crn_fast.errors import BadInput, Mismatch, PartlyDone, ResourceError, UsageError
from crn_fast.palette import BUILTIN, LabelSet, label_set

CAMVID = label_set("camvid")


def run(*arguments: object) -> Result:
    return CliRunner().invoke(command, [str(argument) for argument in arguments])


def ok(*arguments: object) -> str:
    result = run(*arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def fails(kind: type[Exception], *arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, kind), result.exception
    return str(result.exception)


def save(path: Path, values: Any, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.array(values, np.uint8))
    (picture.convert(mode) if mode else picture).save(path)
    return path


@pytest.mark.parametrize("name", ["list", "show", "check", "map"])
def test_help_ends_with_examples(name: str) -> None:
    text = ok(name, "--help")
    assert f"crn-fast labels {name}" in text.partition("Examples:")[2]


def test_list() -> None:
    lines = ok("list").splitlines()
    assert [line.split()[0] for line in lines] == list(BUILTIN)
    assert "20 channels" in lines[0]
    assert [json.loads(line)["classes"] for line in ok("list", "--json").splitlines()] == [
        20, 12, 41, 151,
    ]  # fmt: skip


@pytest.mark.parametrize("name", BUILTIN)
def test_show(name: str) -> None:
    labels = label_set(name)
    rows = ok("show", name).splitlines()[1:]
    assert len(rows) == labels.classes
    for i, row in enumerate(rows):
        assert row.split()[0] == str(i)
        assert labels.names[i] in row
        assert f"#{bytes(labels.colors[i]).hex()}" in row
    assert LabelSet.from_json(ok("show", name, "--json")) == labels


def test_show_refuses() -> None:
    assert "cityscapes" in fails(UsageError, "show", "nothing")
    assert "no such file" in fails(BadInput, "show", "missing.toml")


def test_check_sums_up(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 0, 3, 3]])
    save(tmp_path / "deep" / "b.PNG", [[3, 3, 3, 11]])
    (tmp_path / "notes.txt").write_text("not a layout")
    lines = ok("check", tmp_path, "--labels", "camvid").splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["road", "62.500", "%", "2"],
        ["sky", "25.000", "%", "1"],
        ["void", "12.500", "%", "1"],
    ]


def test_check_names_each_faulty_file(tmp_path: Path) -> None:
    save(tmp_path / "good.png", [[0, 1]])
    bad = save(tmp_path / "bad.png", [[0, 77]])
    (tmp_path / "cut.png").write_bytes(bad.read_bytes()[:-9])
    result = run("check", tmp_path, tmp_path / "missing.png", "--labels", "camvid")
    assert isinstance(result.exception, BadInput)
    assert "3 of 4 layouts" in str(result.exception)
    lines = result.stdout.splitlines()
    assert lines[0].startswith(f"{bad}: value 77 at row 0, column 1")
    assert lines[1].startswith(f"{tmp_path / 'cut.png'}: truncated")
    assert lines[2].startswith(f"{tmp_path / 'missing.png'}: no such file")
    assert result.stdout.endswith("%  1         \n")


def test_check_json(tmp_path: Path) -> None:
    save(tmp_path / "a.png", [[0, 1]])
    save(tmp_path / "b.png", [[0, 77]])
    result = run("check", tmp_path, "--labels", "camvid", "--unknown", "void", "--json")
    assert result.exit_code == 0
    first, second, total = map(json.loads, result.stdout.splitlines())
    assert first == {"path": str(tmp_path / "a.png"), "ok": True, "size": [1, 2], "encoding": "ids"}
    assert second["encoding"] == "ids; 1 unknown pixels read as void"
    assert (total["layouts"], total["faulty"], total["pixels"]["void"]) == (2, 0, 1)


def test_check_refuses(tmp_path: Path) -> None:
    assert "no .png" in fails(BadInput, "check", tmp_path)
    save(tmp_path / "a.png", [[0, 1]])
    fails(UsageError, "check", tmp_path, "--labels", "camvid", "--encoding", "train-ids")


def test_map_changes_the_encoding(tmp_path: Path) -> None:
    before = layout.from_array([[0, 3], [9, 11]], CAMVID)
    source = save(tmp_path / "painted.png", layout.colorize(before))
    out = ok("map", source, tmp_path / "ids.png", "--from", "camvid")
    assert out == f"{tmp_path / 'ids.png'}\n"
    with Image.open(tmp_path / "ids.png") as picture:
        assert np.asarray(picture).tolist() == [[0, 3], [9, 11]]


def test_map_a_folder_into_another_set(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a_labelIds.png", [[7, 11]])
    save(tmp_path / "in" / "deep" / "b_labelIds.png", [[20, 0]])
    arguments = ("map", tmp_path / "in", tmp_path / "out", "--from", "cityscapes", "--to", "camvid")
    assert len(ok(*arguments).splitlines()) == 2
    read = layout.read(tmp_path / "out" / "deep" / "b_labelIds.png", CAMVID)
    assert [CAMVID.names[i] for i in read.array[0]] == ["sign", "void"]
    assert "exists already" in fails(UsageError, *arguments)
    ok(*arguments, "--overwrite")


def test_map_by_a_table(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", [[3, 9]])
    arguments = ("map", source, tmp_path / "b.png", "--from", "camvid", "--to", "ade20k")
    assert "'pedestrian'" in fails(Mismatch, *arguments)
    table = tmp_path / "table.toml"
    table.write_text('pedestrian = "person"\n')
    ok(*arguments, "--table", table)
    assert layout.read(tmp_path / "b.png", label_set("ade20k")).array.tolist() == [[7, 13]]
    table.write_text('pedestrian = "human"\n')
    message = fails(BadInput, *arguments, "--table", table, "--overwrite")
    assert "table.toml" in message
    assert "'human'" in message


def test_map_goes_on_after_a_fault(tmp_path: Path) -> None:
    save(tmp_path / "in" / "a.png", [[77]])
    save(tmp_path / "in" / "b.png", [[1]])
    result = run("map", tmp_path / "in", tmp_path / "out", "--from", "camvid")
    assert isinstance(result.exception, PartlyDone)
    assert "1 of 2" in str(result.exception)
    assert "value 77" in result.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["b.png"]


def test_map_refuses(tmp_path: Path) -> None:
    source = save(tmp_path / "a.png", [[1]])
    assert "ends in .png" in fails(
        UsageError, "map", source, tmp_path / "b.jpg", "--from", "camvid"
    )
    (tmp_path / "file").write_text("")
    fails(ResourceError, "map", source, tmp_path / "file" / "b.png", "--from", "camvid")
    assert "no such file" in fails(
        BadInput, "map", tmp_path / "no.png", tmp_path / "c.png", "--from", "camvid"
    )


@pytest.mark.skipif(os.name == "nt", reason="symbolic links need a privilege there")
def test_map_follows_no_link_out_of_its_folder(tmp_path: Path) -> None:
    save(tmp_path / "in/a.png", [[1]])
    (tmp_path / "out").mkdir()
    (tmp_path / "outside.png").write_bytes(b"kept")
    (tmp_path / "out/a.png").symlink_to(tmp_path / "outside.png")
    paths = tmp_path / "in", tmp_path / "out"
    fails(ResourceError, "map", *paths, "--from", "camvid", "--overwrite")
    assert (tmp_path / "outside.png").read_bytes() == b"kept"
