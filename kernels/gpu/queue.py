"""Where kernels get their memory and are launched: for real, or only on paper.

A queue on the device `meta` computes nothing: it records the launches and measures how much memory
they need at once. A second queue, over one block of that size, hands out tensors at the places that
were planned, so that addresses are fixed and a CUDA graph can hold them.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, NamedTuple

import torch
from torch import Tensor

from crn_fast.kernels.gpu.descriptors import descriptor

PIECE = 256
"""Alignment of every tensor, in bytes; TMA wants 16 at least."""


class Box(NamedTuple):
    """A tensor that a kernel reads box by box, through a TMA descriptor."""

    tensor: Tensor
    shape: tuple[int, ...]


class Launch(NamedTuple):
    kernel: Any
    """a `triton.jit` or `gluon.jit` function"""
    grid: tuple[int, int, int]
    arguments: Mapping[str, Any]
    """by name: tensors, boxes, numbers, and the values of constants"""
    warps: int
    stages: int


class Plan(NamedTuple):
    """Where each tensor that a queue hands out lies in one block of memory."""

    places: tuple[int, ...]
    """first byte of each tensor, in the order of `take`"""
    bytes: int
    """size of the block"""


class Queue:
    def __init__(
        self,
        device: torch.device | str,
        arena: Tensor | None = None,
        places: tuple[int, ...] = (),
    ) -> None:
        """Without an arena torch allocates each tensor.

        Args:
            device: of the tensors; `meta` records.
            arena: uint8 block that tensors lie in.
            places: of a `plan` for the same calls.
        """
        self.device, self.arena, self.places = torch.device(device), arena, places
        self.launches: list[Launch] = []
        """On `meta`: every launch, in order."""
        self._taken: dict[int, Tensor] = {}
        self._lives: list[tuple[int, int, int]] = []  # size, first and last moment; by `take`
        self._moment = 0

    @property
    def live(self) -> int:
        """How many tensors are taken."""
        return len(self._taken)

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """A tensor whose values are undefined."""
        i, size = len(self._lives), prod(shape) * dtype.itemsize
        if self.arena is None:
            tensor = torch.empty(shape, dtype=dtype, device=self.device)
        else:
            flat = self.arena[self.places[i] : self.places[i] + size]
            tensor = flat.view(dtype).view(shape)
        self._moment += 1
        self._taken[i] = tensor
        self._lives.append((-(-size // PIECE) * PIECE, self._moment, 1 << 62))
        return tensor

    def give(self, *tensors: Tensor) -> None:
        """Take back tensors whose last reader was launched."""
        self._moment += 1
        for tensor in tensors:
            (i,) = (i for i, taken in self._taken.items() if taken is tensor)
            del self._taken[i]
            self._lives[i] = (*self._lives[i][:2], self._moment)

    def plan(self) -> Plan:
        """Places for all that was taken so far, such that what lives at once lies apart.

        The largest first, each in the lowest gap between those that live beside it.
        """
        places: dict[int, int] = {}
        for i in sorted(range(len(self._lives)), key=lambda i: -self._lives[i][0]):
            size, born, died = self._lives[i]
            beside = sorted(
                (place, place + self._lives[j][0])
                for j, place in places.items()
                if self._lives[j][1] < died and born < self._lives[j][2]
            )
            place = 0
            for start, end in beside:
                if place + size <= start:
                    break
                place = max(place, end)
            places[i] = place
        ends = (places[i] + life[0] for i, life in enumerate(self._lives))
        return Plan(tuple(places[i] for i in range(len(places))), max(ends, default=0))

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, int, int],
        *,
        num_warps: int = 4,
        num_stages: int = 3,
        **arguments: Any,
    ) -> None:
        """Launch a `triton.jit` or `gluon.jit` function; a `Box` becomes a descriptor."""
        if self.device.type == "meta":
            self.launches.append(Launch(kernel, grid, arguments, num_warps, num_stages))
            return
        live = {
            name: descriptor(value, kernel) if isinstance(value, Box) else value
            for name, value in arguments.items()
        }
        kernel[grid](**live, num_warps=num_warps, num_stages=num_stages)
