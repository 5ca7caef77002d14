"""Label sets: the facts of the built-in ones, the file format, and what it refuses."""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from crn_fast.errors import BadInput, CrnError, UsageError
from crn_fast.palette import BUILTIN, LabelSet, label_set, parse_toml

GARDEN = """
void = "nothing"
note = "a set for tests"
classes = [
  { name = "lawn", color = [80, 200, 60], ids = [3], other_colors = [[81, 200, 60]] },
  { name = "path", color = [150, 150, 140], ids = [7, 8] },
  { name = "nothing", color = [0, 0, 0], ids = [-1, 0] },
]
[map.camvid]
lawn = "tree"
path = "pavement"
"""


def of(text: str, tmp_path: Path, name: str = "garden.toml") -> LabelSet:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return label_set(path)


@pytest.mark.parametrize(
    ("name", "classes", "void"),
    [("cityscapes", 20, 19), ("camvid", 12, 11), ("nyu40", 41, 0), ("ade20k", 151, 0)],
)
def test_built_in_sets(name: str, classes: int, void: int) -> None:
    labels = label_set(name)
    assert (labels.name, labels.classes, labels.void) == (name, classes, void)
    assert len(labels.names) == len(labels.colors) == classes
    assert len(set(labels.names)) == len(set(labels.colors)) == classes
    assert set(labels.ids.values()) == set(range(classes)), "every channel can be written"
    assert all(0 <= part <= 255 for color in labels.color_channels for part in color)
    assert all(labels.color_channels[color] == i for i, color in enumerate(labels.colors))


def test_cityscapes_facts() -> None:
    labels = label_set("cityscapes")
    names = (
        "road sidewalk building wall fence pole traffic_light traffic_sign vegetation terrain sky "
        "person rider car truck bus train motorcycle bicycle none"
    )
    assert labels.names == tuple(name.replace("_", " ") for name in names.split())
    train = [7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33]
    assert labels.ids == {i: train.index(i) if i in train else 19 for i in range(-1, 34)}
    assert labels.train_ids == {**{i: i for i in range(20)}, 255: 19}
    assert labels.colors[0] == (128, 64, 128)
    assert labels.colors[13] == (0, 0, 142)
    assert labels.colors[19] == (0, 0, 0)
    assert labels.color_channels[111, 74, 0] == 19


def test_camvid_facts() -> None:
    labels = label_set("camvid")
    names = "sky building pole road pavement tree sign fence car pedestrian bicyclist void"
    assert " ".join(labels.names) == names
    assert labels.ids == {i: i for i in range(12)}
    assert labels.train_ids is None
    assert labels.colors[4] == (60, 40, 222)
    original = {(0, 0, 192): "pavement", (128, 0, 192): "road", (64, 192, 0): "building"}
    assert {c: labels.names[labels.color_channels[c]] for c in original} == original
    assert len(labels.color_channels) == 32 + 2, "the 32 of CamVid and two that only SegNet has"


def test_indoor_facts() -> None:
    nyu, ade = label_set("nyu40"), label_set("ade20k")
    assert {i: nyu.names[i] for i in (0, 1, 20, 34)} == {
        0: "none", 1: "wall", 20: "floor mat", 34: "sink"
    }  # fmt: skip
    assert {i: ade.names[i] for i in (0, 1, 7, 21, 150)} == {
        0: "none", 1: "wall", 7: "road", 21: "car", 150: "flag"
    }  # fmt: skip
    assert nyu.colors[1] == (174, 199, 232)
    assert ade.colors[7] == (140, 140, 140)
    for labels in (nyu, ade):
        assert labels.ids == {i: i for i in range(labels.classes)}


@pytest.mark.parametrize(("here", "there"), [("cityscapes", "camvid"), ("camvid", "cityscapes")])
def test_maps_between_street_sets_are_complete(here: str, there: str) -> None:
    labels, other = label_set(here), label_set(there)
    renamed = {name: labels.maps[there].get(name, name) for name in labels.names}
    assert set(renamed.values()) <= set(other.names)


@pytest.mark.parametrize("name", BUILTIN)
def test_json_round_trip(name: str) -> None:
    labels = label_set(name)
    text = labels.to_json()
    assert "\n" not in text
    assert LabelSet.from_json(text) == labels
    assert pickle.loads(pickle.dumps(labels)) == labels
    assert hash(LabelSet.from_json(text)) == hash(labels)


def test_a_users_set(tmp_path: Path) -> None:
    labels = of(GARDEN, tmp_path)
    assert labels.name == "garden"
    assert labels.names == ("lawn", "path", "nothing")
    assert labels.void == 2
    assert labels.ids == {3: 0, 7: 1, 8: 1, -1: 2, 0: 2}
    assert labels.other_colors == {(81, 200, 60): 0}
    assert labels.maps == {"camvid": {"lawn": "tree", "path": "pavement"}}
    assert labels.note == "a set for tests"
    assert LabelSet.from_json(labels.to_json()) == labels


def test_names_alone_are_enough(tmp_path: Path) -> None:
    many = "\n".join(f'[[classes]]\nname = "class {i}"' for i in range(255))
    labels = of(many, tmp_path)
    assert labels.ids == {i: i for i in range(255)}
    assert len(set(labels.colors)) == 255
    assert (labels.void, labels.train_ids, labels.maps) == (None, None, {})


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("classes = [", ["not valid TOML", "end of document"]),
        ("a = " + "[" * 100_000, ["not valid TOML"]),
        ("", ["classes", "1 to 255"]),
        ("classes = []", ["classes", "0 of them"]),
        ("classes = 3", ["classes", "3"]),
        ("\n".join(f'[[classes]]\nname="{i}"' for i in range(256)), ["256 of them", "255"]),
        ("classes = [1]", ["classes[0]", "1", "table"]),
        ('classes = [{ name = "a", colour = 1 }]', ["classes[0]", "'colour'", "other_colors"]),
        ('clases = [{ name = "a" }]', ["'clases'", "known are"]),
        ("classes = [{ color = [1, 2, 3] }]", ["classes[0].name", "None"]),
        ('classes = [{ name = "a\\nb" }]', ["classes[0].name", "one line"]),
        ('classes = [{ name = "" }]', ["classes[0].name"]),
        ('classes = [{ name = "a" }, { name = "a" }]', ["'a'", "classes[0]", "classes[1]"]),
        ('classes = [{ name = "a", color = [1, 2] }]', ["classes[0].color", "[1, 2]"]),
        ('classes = [{ name = "a", color = [1, 2, 256] }]', ["256", "0..255"]),
        ('classes = [{ name = "a", color = [1, 2, true] }]', ["True"]),
        ('classes = [{ name = "a", color = "red" }]', ["'red'"]),
        (
            'classes = [{ name = "a", color = [1, 2, 3] }, { name = "b" }]',
            ["classes[1]", "(b)", "color", "every class"],
        ),
        (
            'classes = [{ name = "a", color = [1, 2, 3] }, { name = "b", color = [1, 2, 3] }]',
            ["[1, 2, 3]", "classes[0] (a)", "classes[1] (b)"],
        ),
        (
            'classes = [{ name = "a", color = [1, 2, 3], other_colors = [[1, 2, 3]] }]',
            ["[1, 2, 3]", "both"],
        ),
        ('classes = [{ name = "a", ids = [1] }, { name = "b" }]', ["classes[1]", "ids"]),
        ('classes = [{ name = "a", ids = [4] }, { name = "b", ids = [4] }]', ["ids 4", "(b)"]),
        ('classes = [{ name = "a", ids = [70000] }]', ["classes[0].ids", "70000", "65535"]),
        ('classes = [{ name = "a", ids = [-2] }]', ["-2"]),
        ('classes = [{ name = "a", ids = 4 }]', ["classes[0].ids", "4", "list"]),
        ('classes = [{ name = "a", train_ids = [1, 1] }]', ["train_ids", "1"]),
        ('void = "b"\nclasses = [{ name = "a" }]', ["void", "'b'"]),
        ('name = 3\nclasses = [{ name = "a" }]', ["name", "3"]),
        ('classes = [{ name = "a" }]\n[map.camvid]\nb = "sky"', ["map.camvid", "'b'"]),
        ('classes = [{ name = "a" }]\n[map.camvid]\na = 3', ["map.camvid", "3"]),
        ('map = 3\nclasses = [{ name = "a" }]', ["map", "3"]),
    ],
)  # fmt: skip
def test_faults_are_named(text: str, parts: list[str], tmp_path: Path) -> None:
    with pytest.raises(BadInput) as caught:
        of(text, tmp_path)
    message = str(caught.value)
    assert "garden.toml" in message
    assert "\n" not in message
    assert len(message) < 600
    for part in parts:
        assert part in message


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "large.toml").write_bytes(b"#" * ((1 << 18) + 1))
    (tmp_path / "folder.toml").mkdir()
    for name, part in (
        ("bytes.toml", "not valid TOML"),
        ("large.toml", "larger"),
        ("folder.toml", "is a folder"),
        ("missing.toml", "no such file"),
    ):
        with pytest.raises(BadInput, match=part):
            label_set(tmp_path / name)
    with pytest.raises(BadInput):
        label_set("a\0b.toml")


@pytest.mark.parametrize("line", ['a = "{}" # it', "a = '{}'", 'a = "\\"{}"', '"{}" = 1'])
def test_dots_of_texts_are_no_keys(line: str) -> None:
    assert parse_toml(line.format("See. " * 70).encode(), "my.toml")


@pytest.mark.parametrize(
    "text",
    [
        "{} = 1",
        '"a".{} = "b"',
        "'a\"'.{} = 'b\"'",
        'a = ["""\nb""", {{{} = 1}}, "c"]',
        "a = ['''\nb''', {{{} = 1}}, 'c']",
    ],
)
def test_keys_of_many_parts_are_refused(text: str) -> None:
    with pytest.raises(BadInput, match=r"my\.toml: line [12] has more than 64 dots"):
        parse_toml(text.format("k." * 70 + "k").encode(), "my.toml")


def test_a_text_that_does_not_end_takes_no_time() -> None:
    with pytest.raises(BadInput, match="not valid TOML"):
        parse_toml(b'a = "' + b'\\"' * 130_000, "my.toml")


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(UsageError, match="cityscapes, camvid, nyu40, ade20k"):
        label_set("citiscapes")


@pytest.mark.parametrize(
    "text", ["", "{", "3", "null", "[]", "{}", '{"classes": []}', "[" * 100_000]
)
def test_from_json_refuses(text: str) -> None:
    with pytest.raises(CrnError, match="the checkpoint"):
        LabelSet.from_json(text, source="the checkpoint")


def test_importing_loads_neither_pillow_nor_numpy() -> None:
    script = "import crn_fast.palette, sys; print(*{'PIL', 'numpy', 'torch'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert result.stdout.split() == []
