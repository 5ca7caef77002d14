"""What may be given to an engine to render -> one array of checked labels."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol, TypeAlias

import numpy as np

from crn_fast.errors import BadInput, Mismatch
from crn_fast.layout import LabelMap, from_array
from crn_fast.palette import LabelSet

CPU = 1
"""DLPack's number of the device."""


class Tensor(Protocol):
    """Anything with DLPack: PyTorch's tensors, CuPy's and JAX's arrays."""

    def __dlpack__(self, **options: Any) -> Any: ...

    def __dlpack_device__(self) -> tuple[Any, int]: ...


Labels: TypeAlias = LabelMap | np.ndarray | Tensor
"""Channels of the label set: integers [H, W], or [N, H, W] where several layouts may be given."""


def stack(labels: Labels | Iterable[Labels], known: LabelSet, size: tuple[int, int]) -> np.ndarray:
    """The layouts as one uint8 array [N, H, W] of the caller's own, so that checks stay true.

    Args:
        labels: a layout, several in an array [N, H, W], or an iterable of layouts [H, W].
        known: the network's label set.
        size: the network's height and width.

    Raises:
        BadInput: channels outside the label set, or an array of another type or shape.
        Mismatch: another size or label set than the network's.
    """
    if isinstance(labels, LabelMap):
        return _of_map(labels, known, size)[None].copy()  # a renderer may want to write to it
    if is_array(labels):
        array = as_numpy(labels)
        if array.ndim not in (2, 3):
            raise BadInput(f"labels have shape {array.shape}; expected [H, W] or [N, H, W]")
        checked = _of_array(array if array.ndim == 3 else array[None], known, size)
    elif isinstance(labels, Iterable):
        layouts = [
            _of_map(item, known, size)
            if isinstance(item, LabelMap)
            else _of_array(as_numpy(item)[None], known, size, i)[0]
            for i, item in enumerate(labels)
        ]
        checked = np.stack(layouts) if layouts else np.empty((0, *size), np.uint8)
    else:
        raise _no_labels(labels)
    if not len(checked):
        raise BadInput("no layouts to render; expected at least one")
    return checked


def is_array(labels: object) -> bool:
    """Whether it is one array or tensor, and no iterable of layouts."""
    return isinstance(labels, np.ndarray) or hasattr(labels, "__dlpack__")


def as_numpy(labels: Any) -> np.ndarray:
    """The array of a tensor: the same memory on a CPU, a copy of what PyTorch has on a GPU.

    Raises:
        BadInput: neither array nor tensor, or a tensor that cannot be had from here.
    """
    if isinstance(labels, np.ndarray):
        # A mask must be seen; other kinds of arrays, as np.matrix, have rules of their own.
        return labels if np.ma.isMaskedArray(labels) else np.asarray(labels)
    if not hasattr(labels, "__dlpack__"):
        raise _no_labels(labels)
    if labels.__dlpack_device__()[0] != CPU:
        if not hasattr(labels, "cpu"):
            raise BadInput(
                f"labels are {type(labels).__module__}.{type(labels).__name__} on a GPU; copy them "
                "to the CPU first, as cupy.asnumpy does"
            )
        labels = labels.cpu()
    try:
        return np.from_dlpack(labels)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        raise BadInput(f"labels cannot be read as an array ({error}); expected integers") from None


def _no_labels(labels: object) -> BadInput:
    return BadInput(
        f"labels are {type(labels).__name__}; expected a LabelMap, a NumPy array or a tensor"
    )


def _of_map(layout: LabelMap, known: LabelSet, size: tuple[int, int]) -> np.ndarray:
    if layout.labels.names != known.names:
        raise Mismatch(
            f"{layout.source}: its label set is {layout.labels.name}, the network's is "
            f"{known.name}: crn-fast labels map converts between sets"
        )
    _check_size(layout.source, layout.array.shape, size)
    return layout.array


def _of_array(
    array: np.ndarray, known: LabelSet, size: tuple[int, int], first: int = 0
) -> np.ndarray:
    """[N, H, W] -> uint8 [N, H, W]; `first` is the number of the first one, for messages."""
    if (
        array.dtype == np.uint8
        and array.ndim == 3
        and array.size
        and not np.ma.isMaskedArray(array)
    ):
        own = np.array(array)
        if own.max() < known.classes:
            _check_size("array", own.shape[1:], size)
            return own
    layouts = [from_array(ids, known, source=f"array {i}") for i, ids in enumerate(array, first)]
    for layout in layouts:
        _check_size(layout.source, layout.size, size)
    return np.stack([layout.array for layout in layouts]) if layouts else np.empty((0, *size), "u1")


def _check_size(source: str, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise Mismatch(
            f"{source}: is {'x'.join(map(str, found))}, the network makes {wanted[0]}x{wanted[1]}: "
            "--fit pad, crop or nearest brings it to that size"
        )
