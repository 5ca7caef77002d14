"""Label maps: what they can hold, and files -> channels -> files without a wrong label."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from crn_fast import layout
from crn_fast.errors import BadInput, Mismatch, ResourceError, UsageError
from crn_fast.layout import LabelMap
from crn_fast.palette import BUILTIN, LabelSet, label_set

CITY, CAMVID, ADE = label_set("cityscapes"), label_set("camvid"), label_set("ade20k")
PLAIN = LabelSet.from_json('{"name": "plain", "classes": [{"name": "a"}, {"name": "b"}]}')


def label_map(values: Any, labels: LabelSet = CAMVID) -> LabelMap:
    return layout.from_array(np.array(values), labels)


def stream_of(array: np.ndarray, mode: str | None = None) -> io.BytesIO:
    picture = Image.fromarray(array)
    stream = io.BytesIO()
    (picture.convert(mode) if mode else picture).save(stream, "PNG")
    stream.seek(0)
    return stream


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, bool])
def test_a_label_map_holds_what_it_was_given(dtype: type) -> None:
    array: np.ndarray = np.array([[0, 1], [1, 1], [0, 0]], dtype)
    found = layout.from_array(array, CAMVID, source="drawn")
    array[:] = 1
    assert found.array.tolist() == [[0, 1], [1, 1], [0, 0]]
    assert found.array.dtype == np.dtype(np.uint8)
    assert found.size == (3, 2)
    assert (found.source, found.encoding, found.labels) == ("drawn", "channels", CAMVID)
    assert found.array.flags.c_contiguous


def test_a_label_map_cannot_be_changed() -> None:
    found = label_map(np.asfortranarray([[1, 2, 3], [4, 5, 6]]))
    assert found.array.flags.c_contiguous
    with pytest.raises(ValueError, match="read-only"):
        found.array[0, 0] = 200
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.array.flags.writeable = True
    with pytest.raises(AttributeError):
        found.array = np.zeros((1, 1), np.uint8)  # type: ignore[misc]
    again = pickle.loads(pickle.dumps(found))
    np.testing.assert_array_equal(again.array, found.array)
    assert not again.array.flags.writeable
    assert again.labels == CAMVID


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        ([[0, 1], [2, 12]], ["value 12 at row 1, column 1", "camvid", "0..11"]),
        ([[0, -1], [2, 12]], ["value -1 at row 0, column 1"]),
        ([[0, 256 + 3]], ["value 259"]),
        ([[2**40]], [str(2**40)]),
        ([[0.0, 1.0]], ["float64", "integers"]),
        ([0, 1], ["(2,)", "[height, width]"]),
        ([[[0, 1, 2]]], ["(1, 1, 3)"]),
        (np.zeros((0, 4), int), ["(0, 4)"]),
    ],
)
def test_a_label_map_refuses(array: Any, parts: list[str]) -> None:
    with pytest.raises(BadInput) as caught:
        layout.from_array(np.array(array), CAMVID, source="mine")
    assert str(caught.value).startswith("mine: ")
    for part in parts:
        assert part in str(caught.value)


CHANNELS = st.integers(1, 9).flatmap(
    lambda width: st.lists(
        st.lists(st.integers(0, 254), min_size=width, max_size=width), min_size=1, max_size=7
    )
)


@settings(deadline=None)
@given(name=st.sampled_from(BUILTIN), rows=CHANNELS, mode=st.sampled_from(["RGB", "RGBA"]))
def test_colors_round_trip(name: str, rows: list[list[int]], mode: str) -> None:
    labels = label_set(name)
    before = label_map(np.array(rows) % labels.classes, labels)
    painted = layout.colorize(before)
    assert painted.dtype == np.uint8
    assert painted[0, 0].tolist() == list(labels.colors[before.array[0, 0]])
    after = layout.read(stream_of(painted, mode), labels)
    np.testing.assert_array_equal(after.array, before.array)
    assert after.encoding == "color"


@settings(deadline=None)
@given(name=st.sampled_from(BUILTIN), rows=CHANNELS, wide=st.booleans(), data=st.data())
def test_ids_round_trip(name: str, rows: list[list[int]], wide: bool, data: st.DataObject) -> None:
    labels = label_set(name)
    channels = np.array(rows) % labels.classes
    choices = {
        c: [v for v, to in labels.ids.items() if to == c and v >= 0] for c in range(labels.classes)
    }
    pick = {c: data.draw(st.sampled_from(choices[c])) for c in np.unique(channels).tolist()}
    values = np.vectorize(pick.__getitem__)(channels).astype(np.uint16 if wide else np.uint8)
    found = layout.read(stream_of(values), labels, encoding="ids")
    np.testing.assert_array_equal(found.array, channels)


@settings(deadline=None)
@given(name=st.sampled_from(BUILTIN), rows=CHANNELS)
def test_what_write_writes_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, name: str, rows: list[list[int]]
) -> None:
    labels = label_set(name)
    before = label_map(np.array(rows) % labels.classes, labels)
    path = tmp_path_factory.mktemp("written") / "x_labelIds.png"
    layout.write(before, path)
    np.testing.assert_array_equal(layout.read(path, labels).array, before.array)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        np.testing.assert_array_equal(np.asarray(picture), before.array)
        np.testing.assert_array_equal(np.asarray(picture.convert("RGB")), layout.colorize(before))


def test_train_ids() -> None:
    values = np.array([[0, 18, 255], [13, 7, 19]], np.uint8)
    found = layout.read(stream_of(values), CITY, encoding="train-ids")
    assert found.array.tolist() == [[0, 18, 19], [13, 7, 19]]
    with pytest.raises(UsageError, match="camvid has no train ids"):
        layout.read(stream_of(values), CAMVID, encoding="train-ids")


def test_camvids_original_colors() -> None:
    array = np.array([[[0, 0, 192], [60, 40, 222], [128, 0, 192], [64, 192, 0]]], np.uint8)
    found = layout.read(stream_of(array), CAMVID)
    assert [CAMVID.names[i] for i in found.array[0]] == ["pavement", "pavement", "road", "building"]


def test_one_bit() -> None:
    array = np.array([[True, False, True]])
    assert layout.read(stream_of(array), PLAIN).array.tolist() == [[1, 0, 1]]


def test_grey_rgb_is_read_as_ids_when_asked() -> None:
    values = np.array([[0, 3, 11]], np.uint8)
    rgb = np.repeat(values[..., None], 3, 2)
    assert layout.read(stream_of(rgb), CAMVID, encoding="ids").array.tolist() == [[0, 3, 11]]
    with pytest.raises(BadInput, match="it is grey: `--encoding ids` reads"):
        layout.read(stream_of(rgb), CAMVID)
    rgb[0, 1, 2] += 1
    with pytest.raises(
        BadInput, match="cannot be read with --encoding ids; use `--encoding color`"
    ):
        layout.read(stream_of(rgb), CAMVID, encoding="ids")
    with pytest.raises(BadInput, match=r"8-bit grey .* --encoding color; use `--encoding ids`"):
        layout.read(stream_of(values), CAMVID, encoding="color")


def test_unknown_ids() -> None:
    values = np.array([[0, 3], [77, 1]], np.uint8)
    with pytest.raises(
        BadInput, match=r"value 77 at row 1, column 0 .*\(0\.\.11\).*--unknown void"
    ):
        layout.read(stream_of(values), CAMVID)
    with pytest.raises(BadInput, match="value 77 at row 1"):
        layout.read(stream_of(values), CAMVID, unknown="nearest")
    found = layout.read(stream_of(values), CAMVID, unknown="void")
    assert found.array.tolist() == [[0, 3], [11, 1]]
    assert found.encoding == "ids; 1 unknown pixels read as void"
    with pytest.raises(UsageError, match="plain has no void class"):
        layout.read(stream_of(values), PLAIN, unknown="void")


def test_unknown_colors() -> None:
    array = layout.colorize(label_map([[0, 3, 9]]))
    array[0, 1] += 3
    array[0, 2] = (0, 0, 10)
    with pytest.raises(BadInput) as caught:
        layout.read(stream_of(array), CAMVID)
    for part in (
        "colour [131, 67, 131] at row 0, column 1",
        "camvid",
        "'road'",
        "1 more",
        "nearest",
    ):
        assert part in str(caught.value)
    assert layout.read(stream_of(array), CAMVID, unknown="void").array.tolist() == [[0, 11, 11]]
    found = layout.read(stream_of(array), CAMVID, unknown="nearest")
    assert found.array.tolist() == [[0, 3, 11]]
    assert found.encoding == "color; 2 unknown pixels read as the nearest colour"


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_nearest_is_the_nearest(seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    found = layout.read(stream_of(array), ADE, encoding="color", unknown="nearest")
    known = np.array(ADE.colors, int)
    distance = ((array[:, :, None].astype(int) - known) ** 2).sum(-1)
    np.testing.assert_array_equal(found.array, distance.argmin(-1))


@pytest.mark.parametrize(
    ("old", "new"), [((3, 5), (7, 4)), ((8, 8), (4, 16)), ((1, 1), (3, 3)), ((9, 2), (2, 9))]
)
def test_fit_nearest_takes_the_pixel_under_the_centre(
    old: tuple[int, int], new: tuple[int, int]
) -> None:
    array = np.random.default_rng(1).integers(0, 12, old)
    found = layout.fit(label_map(array), new, "nearest")
    for row in range(new[0]):
        for column in range(new[1]):
            y, x = (row + 0.5) * old[0] / new[0], (column + 0.5) * old[1] / new[1]
            assert found.array[row, column] == array[int(y), int(x)]
    assert found.size == new


def test_fit_pad_and_crop() -> None:
    small = label_map([[1, 2, 3]])
    padded = layout.fit(small, (4, 5), "pad")
    assert padded.array.tolist() == [[11] * 5, [11, 1, 2, 3, 11], [11] * 5, [11] * 5]
    assert layout.fit(padded, (2, 3), "crop").array.tolist() == [[1, 2, 3], [11] * 3]
    assert layout.fit(small, (1, 3), "error") is small
    assert padded.labels == CAMVID


@pytest.mark.parametrize(
    ("how", "size", "part"),
    [
        ("error", (2, 2), "--fit nearest"),
        ("crop", (2, 3), "too small to crop"),
        ("crop", (1, 4), "too small to crop"),
        ("pad", (1, 2), "too large to pad"),
    ],
)
def test_fit_names_both_sizes(how: Any, size: tuple[int, int], part: str) -> None:
    with pytest.raises(Mismatch, match=part) as caught:
        layout.fit(label_map([[1, 2, 3]]), size, how)
    assert "1x3" in str(caught.value)
    assert f"{size[0]}x{size[1]}" in str(caught.value)


def test_fit_refuses() -> None:
    with pytest.raises(Mismatch, match="plain has no void class"):
        layout.fit(label_map([[0, 1]], PLAIN), (4, 4), "pad")
    for size in ((0, 4), (4, -1), (1, 100_000)):
        with pytest.raises(UsageError, match="expected height and width"):
            layout.fit(label_map([[0, 1]]), size, "nearest")


def test_convert_by_map_name_and_void() -> None:
    before = label_map([[0, 1, 6, 8, 19]], CITY)
    found = layout.convert(before, CAMVID)
    names = [CAMVID.names[i] for i in found.array[0]]
    assert names == ["road", "pavement", "sign", "tree", "void"]
    assert found.labels == CAMVID
    other = layout.convert(before, CAMVID, {"sidewalk": "road"})
    assert CAMVID.names[other.array[0, 1]] == "road"


def test_convert_names_what_has_no_counterpart() -> None:
    before = label_map([[3, 3], [3, 9]], CAMVID)
    with pytest.raises(Mismatch, match=r"'pedestrian' of camvid at row 1, column 1 .* ade20k"):
        layout.convert(before, ADE)
    assert layout.convert(before, ADE, unknown="void").array.tolist() == [[7, 7], [7, 0]]
    mapped = layout.convert(before, ADE, {"pedestrian": "person"})
    assert ADE.names[mapped.array[1, 1]] == "person"
    with pytest.raises(BadInput, match="'human' is no class of ade20k"):
        layout.convert(before, ADE, {"pedestrian": "human"})
    with pytest.raises(BadInput, match="'human' is no class of camvid"):
        layout.convert(before, ADE, {"human": "person"})


def test_write_is_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.png"
    layout.write(label_map([[1]]), path)
    before = path.read_bytes()

    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(ResourceError, match=r"out\.png"):
        layout.write(label_map([[2]]), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_write_refuses(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"ends in \.png"):
        layout.write(label_map([[1]]), tmp_path / "out.jpg")
    with pytest.raises(ResourceError, match="missing"):
        layout.write(label_map([[1]]), tmp_path / "missing" / "out.png")


def test_messages_begin_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "street.png"
    path.write_bytes(stream_of(np.full((2, 2), 99, np.uint8)).getvalue())
    with pytest.raises(BadInput, match=rf"^{path}: value 99"):
        layout.read(path, CAMVID)
    with pytest.raises(BadInput, match=rf"^{path}: value 99"), path.open("rb") as stream:
        layout.read(stream, CAMVID)
    with pytest.raises(BadInput, match=r"^stream: value 99"):
        layout.read(io.BytesIO(path.read_bytes()), CAMVID)
