"""What 'auto' decides, what it refuses, and what it says about pictures it cannot read."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from crn_fast import layout
from crn_fast.errors import BadInput
from crn_fast.palette import LabelSet, label_set

CITY, CAMVID, NYU = label_set("cityscapes"), label_set("camvid"), label_set("nyu40")


def read(
    picture: Image.Image, labels: LabelSet, name: str = "x.png", unknown: str = "error"
) -> layout.LabelMap:
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    stream.seek(0)
    stream.name = name
    return layout.read(stream, labels, unknown=unknown)  # type: ignore[arg-type]


def grey(*values: int) -> Image.Image:
    dtype = np.uint16 if max(values) > 255 else np.uint8
    return Image.fromarray(np.array([values], dtype))


def indexed(values: list[int], colors: dict[int, tuple[int, int, int]]) -> Image.Image:
    picture = Image.fromarray(np.array([values], np.uint8)).convert("L")
    picture = Image.frombytes("P", picture.size, picture.tobytes())
    picture.putpalette([part for i in range(256) for part in colors.get(i, (1, 2, 3))])
    return picture


def refused(
    picture: Image.Image, labels: LabelSet, name: str = "x.png", unknown: str = "error"
) -> str:
    with pytest.raises(BadInput) as caught:
        read(picture, labels, name, unknown)
    message = str(caught.value)
    assert message.startswith(f"{name}: ")
    assert "\n" not in message
    return message


def test_grey_is_ids() -> None:
    found = read(grey(0, 5, 11), CAMVID)
    assert (found.array.tolist(), found.encoding) == ([[0, 5, 11]], "ids")
    assert read(grey(0, 40), NYU).array.tolist() == [[0, 40]]


@pytest.mark.parametrize(
    ("values", "encoding", "channels"),
    [
        ((7, 26, 33), "ids", [0, 13, 18]),
        ((0, 18, 255), "train-ids", [0, 18, 19]),
        ((4, 23, 0), "ids", [19, 10, 19]),
    ],
)
def test_values_decide(values: tuple[int, ...], encoding: str, channels: list[int]) -> None:
    found = read(grey(*values), CITY)
    assert (found.encoding, found.array.tolist()) == (encoding, [channels])


def test_two_meanings_are_refused() -> None:
    message = refused(grey(7, 11, 0), CITY)
    for part in (
        "value 7 at row 0, column 0",
        "'road' by ids",
        "'traffic sign' by train-ids",
        "`--encoding ids` or `--encoding train-ids`",
    ):
        assert part in message


@pytest.mark.parametrize(
    ("name", "encoding", "channel"),
    [("a_gtFine_labelIds.png", "ids", 0), ("a/b_gtFine_labelTrainIds.png", "train-ids", 7)],
)
def test_the_official_names_decide(name: str, encoding: str, channel: int) -> None:
    found = read(grey(7, 11), CITY, name)
    assert (found.encoding, int(found.array[0, 0])) == (encoding, channel)


def test_a_name_does_not_make_wrong_values_right() -> None:
    message = refused(grey(7, 255), CITY, "a_labelIds.png")
    assert "value 255 at row 0, column 1 is none of the ids" in message
    assert "`--encoding train-ids` fits every pixel" in message
    assert read(grey(7, 11), CAMVID, "a_labelTrainIds.png").encoding == "ids"


def test_two_readings_that_agree_are_no_question() -> None:
    twice = LabelSet.from_json(
        '{"name": "t", "classes": [{"name": "a", "ids": [1], "train_ids": [1]},'
        ' {"name": "b", "ids": [2], "train_ids": [3]}]}'
    )
    assert read(grey(1, 1), twice).encoding == "ids"
    assert read(grey(1, 3), twice).encoding == "train-ids"


def test_index_is_the_id() -> None:
    found = read(indexed([0, 3, 11], {}), CAMVID)
    assert (found.array.tolist(), found.encoding) == ([[0, 3, 11]], "ids")


def test_a_palette_confirms_train_ids() -> None:
    colors = dict(enumerate(CITY.colors))
    for name in ("x.png", "x_labelIds.png"):
        found = read(indexed([7, 11, 0], colors), CITY, name)
        assert (found.encoding, found.array.tolist()) == ("train-ids", [[7, 11, 0]])
    by_id = {value: CITY.colors[channel] for value, channel in CITY.ids.items()}
    found = read(indexed([7, 11, 0], by_id), CITY)
    assert (found.encoding, found.array.tolist()) == ("ids", [[0, 2, 19]])


def test_a_palette_alone_is_read_by_color() -> None:
    found = read(indexed([200, 100], {200: (128, 64, 128), 100: (128, 128, 128)}), CAMVID)
    assert (found.encoding, found.array.tolist()) == ("color", [[3, 0]])


def test_a_palette_that_contradicts_the_index_is_refused() -> None:
    shifted = {i - 1: color for i, color in enumerate(NYU.colors) if i}
    message = refused(indexed([0, 1], shifted), NYU)
    assert "'none' by ids but 'wall' by color" in message
    assert "`--encoding ids` or `--encoding color`" in message


def test_a_grey_ramp_is_no_palette() -> None:
    ramp = {i: (i, i, i) for i in range(256)}
    assert read(indexed([0, 0], ramp), CAMVID).array.tolist() == [[0, 0]]


def test_unknown_values_with_two_numberings() -> None:
    message = refused(grey(77, 0), CITY, unknown="void")
    assert "neither ids nor train ids" in message
    assert "value 77" in refused(grey(77, 0), CITY)
    found = read(grey(77, 7), CITY, "a_labelIds.png", unknown="void")
    assert found.array.tolist() == [[19, 0]]


def test_another_set_is_suggested() -> None:
    assert "every pixel fits cityscapes: try `--labels cityscapes`" in refused(grey(26, 7), CAMVID)
    painted = Image.fromarray(np.array([[CITY.colors[0], CITY.colors[13]]], np.uint8))
    assert "try `--labels cityscapes`" in refused(painted, CAMVID)
    assert "try `--labels ade20k`" in refused(grey(150, 41), NYU)


def test_a_photograph_is_told_so() -> None:
    noise = np.random.default_rng(2).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    assert "looks like a photograph" in refused(Image.fromarray(noise), CITY)
    assert "looks like a photograph" in refused(Image.fromarray(noise[..., 0]), CITY)


def test_instance_ids_are_told_so() -> None:
    assert "looks like instance ids" in refused(grey(26001, 7), CITY)
    assert "looks like instance ids" in refused(grey(200, 7), CITY, "a_gtFine_instanceIds.png")


def test_id_ranges_are_listed() -> None:
    assert "(-1..33)" in refused(grey(40, 26), CITY)
    assert "none of the train-ids of cityscapes (0..19, 255)" in refused(
        grey(26, 7), CITY, "a_labelTrainIds.png"
    )


def test_16_bit_ids() -> None:
    found = read(Image.fromarray(np.array([[0, 40]], np.uint16)), NYU)
    assert found.array.tolist() == [[0, 40]]
    assert "value 261" in refused(grey(0, 40, 261), NYU)
