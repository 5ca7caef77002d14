"""The C++ label_pyramid, bit for bit against loops over blocks in float64."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from crn_fast.kernels import cpu

Labels = NDArray[np.uint8]
THREADS = [0, 1, 2, 3, 16]


def oracle(labels: Labels, classes: int, levels: int) -> list[NDArray[np.float64]]:
    """The definition: the share of each class in every block of 2**l x 2**l labels."""
    batch, height, width = labels.shape
    maps = []
    for level in range(levels, 0, -1):
        side = 2**level
        share = np.zeros((batch, classes, height // side, width // side))
        for n, y, x in product(range(batch), range(height // side), range(width // side)):
            block = labels[n, y * side : (y + 1) * side, x * side : (x + 1) * side]
            ids, counts = np.unique(block, return_counts=True)
            share[n, ids, y, x] = counts / side**2
        maps.append(share)
    return maps


def random_labels(*shape: int, classes: int, seed: int = 0) -> Labels:
    return np.random.default_rng(seed).integers(0, classes, shape, dtype=np.uint8)


def assert_equal(maps: list[NDArray[np.float32]], expected: list[NDArray[np.float64]]) -> None:
    assert len(maps) == len(expected)
    for found, wanted in zip(maps, expected, strict=True):
        assert found.dtype == np.float32
        assert found.flags.c_contiguous
        assert found.shape == wanted.shape
        np.testing.assert_array_equal(found.astype(np.float64), wanted)


@contextmanager
def poisoned_memory() -> Iterator[list[tuple[int, ...]]]:
    """Inside, numpy.empty gives memory full of NaN, and lists the shapes it is asked for."""
    asked: list[tuple[int, ...]] = []
    true_empty = np.empty

    def empty(shape: tuple[int, ...], dtype: str) -> NDArray[np.float32]:
        asked.append(tuple(shape))
        memory: NDArray[np.float32] = true_empty(shape, dtype)
        memory.fill(np.nan)
        return memory

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(np, "empty", empty)
        yield asked


@pytest.mark.parametrize("threads", THREADS)
@pytest.mark.parametrize(
    ("batch", "base", "levels", "classes"),
    [
        (1, (3, 5), 4, 20),
        (3, (3, 5), 3, 7),
        (2, (1, 1), 5, 2),
        (1, (1, 17), 1, 255),
        (2, (7, 1), 2, 254),
        (5, (2, 3), 3, 1),
        (1, (4, 8), 5, 35),
    ],
)
def test_matches_the_definition(
    batch: int, base: tuple[int, int], levels: int, classes: int, threads: int
) -> None:
    labels = random_labels(batch, base[0] << levels, base[1] << levels, classes=classes)
    with poisoned_memory() as asked:
        maps = cpu.label_pyramid(labels, classes, levels, threads)
    assert_equal(maps, oracle(labels, classes, levels))
    assert asked == [found.shape for found in maps], "the memory was not all poisoned"


@settings(deadline=None)
@given(
    batch=st.integers(1, 3),
    base=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    levels=st.integers(0, 4),
    classes=st.integers(1, 255),
    threads=st.integers(0, 5),
    seed=st.integers(0, 2**32 - 1),
)
def test_matches_the_definition_anywhere(
    batch: int, base: tuple[int, int], levels: int, classes: int, threads: int, seed: int
) -> None:
    labels = random_labels(batch, base[0] << levels, base[1] << levels, classes=classes, seed=seed)
    assert_equal(
        cpu.label_pyramid(labels, classes, levels, threads), oracle(labels, classes, levels)
    )


def test_matches_the_reference() -> None:
    torch = pytest.importorskip("torch")
    from crn_fast.kernels import reference

    labels = random_labels(2, 48, 80, classes=20)
    expected = reference.label_pyramid(torch.from_numpy(labels), 20, 5)[:-1]
    assert_equal(cpu.label_pyramid(labels, 20, 4), [soft.double().numpy() for soft in expected])


def test_the_deepest_pyramid_is_exact() -> None:
    labels = np.zeros((1, 4096, 4096), np.uint8)
    labels[0, 4095, 4095] = 1
    top = cpu.label_pyramid(labels, 2, 12)[0]
    np.testing.assert_array_equal(top.ravel(), np.float32([1 - 2.0**-24, 2.0**-24]))


def test_shares_of_a_block_sum_to_one() -> None:
    for soft in cpu.label_pyramid(random_labels(2, 64, 96, classes=9), 9, 5):
        np.testing.assert_array_equal(soft.sum(axis=1, dtype=np.float64), 1.0)


def test_no_levels_give_no_maps() -> None:
    assert cpu.label_pyramid(random_labels(1, 3, 5, classes=4), 4, 0) == []


def test_labels_are_left_alone_and_may_be_read_only() -> None:
    labels = random_labels(1, 8, 8, classes=4)
    labels.flags.writeable = False
    before = labels.copy()
    cpu.label_pyramid(labels, 4, 2)
    np.testing.assert_array_equal(labels, before)


def test_a_length_one_axis_may_have_any_stride() -> None:
    labels = random_labels(2, 8, 8, classes=4)[::2]
    assert_equal(cpu.label_pyramid(labels, 4, 2), oracle(labels, 4, 2))


@pytest.mark.parametrize("levels", [0, 2])
def test_an_invalid_id_is_named_with_its_place(levels: int) -> None:
    labels = random_labels(3, 8, 12, classes=20)
    labels[1, 6, 7] = 20
    labels[2, 0, 0] = 255
    with pytest.raises(ValueError, match=r"label 20 at \[1, 6, 7\].*ids below 20"):
        cpu.label_pyramid(labels, 20, levels)


def test_the_first_id_that_is_too_large_is_refused() -> None:
    labels = np.zeros((1, 4, 4), np.uint8)
    labels[0, 3, 3] = 3
    cpu.label_pyramid(labels, 4, 1)
    with pytest.raises(ValueError, match=r"label 3 at \[0, 3, 3\].*ids below 3"):
        cpu.label_pyramid(labels, 3, 1)


GOOD = random_labels(2, 8, 12, classes=4)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (GOOD.astype(np.int64), "dtype int64; expected uint8"),
        (GOOD.astype(np.int8), "dtype int8; expected uint8"),
        (GOOD.astype(np.bool_), "dtype bool; expected uint8"),
        (GOOD.astype(np.float32), "dtype float32; expected uint8"),
        (GOOD.astype("datetime64[s]"), r"dtype datetime64\[s\]; expected uint8"),
        (GOOD.astype(object), "dtype object; expected uint8"),
        (GOOD.tolist(), "a <class 'list'>; expected a numpy array"),
        (None, "a <class 'NoneType'>; expected a numpy array"),
        (GOOD[0], r"shape \(8, 12\); expected \[N, H, W\]"),
        (GOOD[None], r"shape \(1, 2, 8, 12\); expected \[N, H, W\]"),
        (GOOD[:0], r"shape \(0, 8, 12\); expected \[N, H, W\], each at least 1"),
        (GOOD[:, :, :8], "stride of 12 on axis 1; expected 8"),
        (GOOD[:, :, ::-1], "stride of -1 on axis 2; expected 1"),
        (GOOD[:, ::2], "stride of 24 on axis 1; expected 12"),
        (GOOD.transpose(0, 2, 1), "stride of 12 on axis 2; expected 1"),
        (np.broadcast_to(GOOD[:1], (2, 8, 12)), "stride of 0 on axis 0; expected 96"),
        (np.ascontiguousarray(GOOD[:, :6]), "6 x 12; expected sides divisible by 4 for 2 levels"),
        (np.ascontiguousarray(GOOD[:, :, :9]), "8 x 9; expected sides divisible by 4"),
    ],
)
def test_wrong_labels_are_refused(labels: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cpu.label_pyramid(labels, 4, 2)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 2), "classes is 0; expected 1 to 255"),
        ((256, 2), "classes is 256; expected 1 to 255"),
        ((4, -1), "levels is -1; expected 0 to 12"),
        ((4, 13), "levels is 13; expected 0 to 12"),
        ((4, 2, -1), "threads is -1; expected 0 to"),
    ],
)
def test_numbers_out_of_range_are_refused(arguments: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cpu.label_pyramid(GOOD, *arguments)


def test_without_the_compiled_module_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cpu.available() is None
    monkeypatch.setitem(sys.modules, "crn_fast.kernels.cpu._native", None)
    reason = cpu.available()
    assert reason is not None
    assert "install a C++17 compiler" in reason
    with pytest.raises(ImportError, match=r"install a C\+\+17 compiler"):
        cpu.label_pyramid(GOOD, 4, 2)
