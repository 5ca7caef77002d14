"""What an engine takes: arrays, tensors and layouts, each checked and copied once."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from crn_fast import batch
from crn_fast.errors import BadInput, Mismatch
from crn_fast.layout import from_array
from crn_fast.palette import label_set

CAMVID, SIZE = label_set("camvid"), (3, 4)
IDS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 12


def stack(labels: Any) -> np.ndarray:
    return batch.stack(labels, CAMVID, SIZE)


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.int8])
def test_arrays_of_any_integers(dtype: type) -> None:
    ids = IDS.astype(dtype)
    for given in (ids, list(ids), iter(ids), ids[:, ::-1][:, ::-1]):
        found = stack(given)
        assert found.dtype == np.uint8
        np.testing.assert_array_equal(found, IDS)
    np.testing.assert_array_equal(stack(ids[0]), IDS[:1])


def test_layouts_and_arrays_may_be_mixed() -> None:
    np.testing.assert_array_equal(stack([from_array(IDS[0], CAMVID), IDS[1]]), IDS)


def test_what_is_rendered_cannot_change_after_the_check() -> None:
    ids = IDS.copy()
    found = stack(ids)
    ids[:] = 200
    np.testing.assert_array_equal(found, IDS)


def test_tensors_on_the_cpu_are_read_where_they_are() -> None:
    torch = pytest.importorskip("torch", reason="the extra [train] is not installed")
    for tensor in (torch.from_numpy(IDS.copy()), torch.from_numpy(IDS.astype(np.int64))):
        assert batch.as_numpy(tensor).ctypes.data == tensor.data_ptr()
        np.testing.assert_array_equal(stack(tensor), IDS)
        np.testing.assert_array_equal(stack(tensor.transpose(1, 2).transpose(1, 2)), IDS)
        np.testing.assert_array_equal(stack(list(tensor)), IDS)
    with pytest.raises(BadInput, match="float32"):
        stack(torch.zeros(3, 4))


class OnGpu:
    def __dlpack__(self, **options: Any) -> Any:
        raise BufferError("not from here")

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0


class Movable(OnGpu):
    def cpu(self) -> np.ndarray:
        return IDS


def test_tensors_on_a_gpu_are_copied_or_refused() -> None:
    np.testing.assert_array_equal(stack(Movable()), IDS)
    with pytest.raises(BadInput, match="on a GPU; copy them"):
        stack(OnGpu())


@pytest.mark.parametrize(
    ("labels", "error", "named"),
    [
        (np.full((3, 4), 12), BadInput, "value 12 at row 0, column 0"),
        (np.array([IDS[0], IDS[1] + 200]), BadInput, "is no channel of camvid"),
        (np.full((3, 4), -1), BadInput, "value -1"),
        (np.zeros((3, 5), np.uint8), Mismatch, "3x5, the network makes 3x4"),
        (np.zeros((1, 3, 4, 1), np.uint8), BadInput, "shape"),
        ([], BadInput, "no layouts"),
        (["x"], BadInput, "labels are str"),
        ([None], BadInput, "labels are NoneType"),
        (from_array(IDS[0], label_set("cityscapes")), Mismatch, "cityscapes"),
    ],
)
def test_mistakes_are_named(labels: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        stack(labels)
