"""Composed pictures against a loop over pixels."""

from __future__ import annotations

import numpy as np
import pytest

from crn_fast.errors import UsageError
from crn_fast.palette import label_set
from crn_fast.rendering.compose import compose, parse_choice

CAMVID = label_set("camvid")


def by_loop(
    pictures: np.ndarray, labels: np.ndarray, choice: dict[int, int], seam: int
) -> np.ndarray:
    height, width = labels.shape
    out = np.empty_like(pictures[0])
    for y in range(height):
        for x in range(width):
            rows = range(max(0, y - seam), min(height, y + seam + 1))
            columns = range(max(0, x - seam), min(width, x + seam + 1))
            square = [choice.get(int(labels[j, i]), 0) for j in rows for i in columns]
            mean = np.mean([pictures[k, y, x].astype(float) for k in square], 0)
            out[y, x] = np.floor(mean + 0.5)
    return out


def scene(seed: int, size: tuple[int, int], images: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 4, (-(-size[0] // 3), -(-size[1] // 3)), dtype=np.uint8)
    labels = np.kron(blocks, np.ones((3, 3), np.uint8))[: size[0], : size[1]]
    return rng.integers(0, 256, (images, *size, 3), dtype=np.uint8), labels


@pytest.mark.parametrize("seam", [0, 1, 2, 30])
@pytest.mark.parametrize("size", [(7, 11), (1, 5), (12, 1)])
def test_agrees_with_the_loop(size: tuple[int, int], seam: int) -> None:
    pictures, labels = scene(1, size, 3)
    choice = {1: 2, 2: 1, 3: 2}
    found = compose(pictures, labels, choice, seam)
    np.testing.assert_array_equal(found, by_loop(pictures, labels, choice, seam))
    assert found.dtype == np.uint8


def test_without_a_seam_every_pixel_is_one_of_the_pictures() -> None:
    pictures, labels = scene(2, (20, 30), 4)
    found = compose(pictures, labels, {0: 3})
    np.testing.assert_array_equal(found[labels == 0], pictures[3][labels == 0])
    np.testing.assert_array_equal(found[labels != 0], pictures[0][labels != 0])
    np.testing.assert_array_equal(compose(pictures, labels, {}, 5), pictures[0])


def test_far_from_borders_a_seam_changes_nothing() -> None:
    pictures, _ = scene(3, (9, 40), 2)
    labels = np.zeros((9, 40), np.uint8)
    labels[:, 20:] = 1
    hard, soft = (compose(pictures, labels, {1: 1}, seam) for seam in (0, 4))
    np.testing.assert_array_equal(soft[:, :16], hard[:, :16])
    np.testing.assert_array_equal(soft[:, 24:], hard[:, 24:])
    assert (soft[:, 16:24] != hard[:, 16:24]).any()


def test_choices_are_read() -> None:
    car, road = CAMVID.names.index("car"), CAMVID.names.index("road")
    assert parse_choice("car=2, road=0", CAMVID, 4) == {car: 2, road: 0}


@pytest.mark.parametrize(
    ("text", "images", "named"),
    [
        ("car=1", 1, "makes one picture"),
        ("horse=1", 4, "'horse' is no class of camvid"),
        ("car=4", 4, "0 to 3, not '4'"),
        ("car=-1", 4, "not '-1'"),
        ("car", 4, "CLASS=K"),
        ("", 4, "CLASS=K"),
        ("car=1,car=2", 4, "'car' twice"),
    ],
)
def test_choices_that_are_none(text: str, images: int, named: str) -> None:
    with pytest.raises(UsageError, match=named):
        parse_choice(text, CAMVID, images)


def test_what_does_not_fit_is_refused() -> None:
    pictures, labels = scene(4, (5, 6), 2)
    for arguments in (
        (pictures, labels[1:], {}),
        (pictures[0], labels, {}),
        (pictures, labels, {1: 2}),
        (pictures, labels, {}, -1),
        (pictures, labels, {}, 257),
    ):
        with pytest.raises(UsageError):
            compose(*arguments)
