"""A checkpoint's weights, ready on one device: Triton compiles the launches, torch runs them.

`runtime` is the same for an engine file, whose launches were compiled before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crn_fast.errors import BadInput, ResourceError
from crn_fast.extras import out_of_memory
from crn_fast.fused.frame import Frame
from crn_fast.fused.ops import Choices
from crn_fast.fused.packed import unpack
from crn_fast.fused.program import MAX_BATCH
from crn_fast.memory import shortage

FRAMES = 2
"""Batch sizes whose buffers and graphs are kept."""


class FusedRenderer:
    """A network that is ready on one device."""

    def __init__(
        self,
        choices: Choices,
        packed: Mapping[str, np.ndarray],
        where: torch.device,
        device: str,
    ) -> None:
        """`where`: a CPU only for Triton's interpreter. `device`: its name, for people."""
        self.choices, self.where = choices, where
        self.device, self.precision = device, choices.precision
        self.most = MAX_BATCH
        """Layouts at a time; fewer after memory ran out."""
        self._frames: dict[int, Frame] = {}
        try:
            self.weights = choices.fold(unpack(choices.spec, packed, where))
        except (RuntimeError, MemoryError) as error:
            raise self._no_room(error) from None
        if not self._has_room():
            # Its pictures are not the plain schedule's bit for bit, so it is chosen here, for good,
            # and told; never between two pictures.
            self.choices = choices.leaner()
            self.device += ", lean schedule"
            self.frame(1)

    def _has_room(self) -> bool:
        try:
            self.frame(1)
        except ResourceError:
            return False
        return True

    def frame(self, n: int) -> Frame:
        """The frame for `n` layouts, made at its first use.

        Raises:
            ResourceError: not enough memory on the GPU.
        """
        if n not in self._frames:
            while len(self._frames) >= FRAMES:
                del self._frames[next(iter(self._frames))]
            try:
                self._frames[n] = Frame(self.choices, self.weights, n, self.where)
            except (RuntimeError, MemoryError) as error:
                raise self._no_room(error) from None
        return self._frames[n]

    def fitting(self, n: int) -> tuple[int, Frame]:
        """The frame for `n` layouts, or for as many as there is memory for; and how many.

        Raises:
            ResourceError: not even that fits; needed and free are named.
        """
        while True:
            n = min(n, self.most)
            try:
                return n, self.frame(n)
            except ResourceError:
                self._frames.clear()
                if n == 1:
                    raise
                self.most = n // 2

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: out of memory.
        """
        return np.concatenate([*self._render(torch.from_numpy(labels), born_here=False)])

    def render_device(self, labels: Any) -> np.ndarray:
        """Pictures of ids that were born on this GPU: uint8 RGB [N, K, H, W, 3] on the host.

        Args:
            labels: uint8 [N, H, W]: a tensor, or anything with `__cuda_array_interface__` or
                DLPack.

        Raises:
            BadInput: another type or shape, or ids outside of the label set.
            ResourceError: out of memory.
        """
        ids = torch.as_tensor(labels, device=self.where)
        if ids.dtype != torch.uint8 or ids.ndim != 3 or tuple(ids.shape[1:]) != self.size:
            raise BadInput(
                f"labels on the GPU are {ids.dtype} {tuple(ids.shape)}; expected uint8 [N, "
                f"{self.size[0]}, {self.size[1]}]"
            )
        return np.concatenate([*self._render(ids, born_here=True)])

    @property
    def size(self) -> tuple[int, int]:
        return self.choices.spec.size

    def _render(self, labels: Tensor, born_here: bool) -> Iterator[np.ndarray]:
        start = 0
        while start < len(labels):
            n, held = self.fitting(len(labels) - start)
            try:
                with torch.inference_mode():
                    pictures = held.render(labels[start : start + n])
                    array: np.ndarray = pictures.cpu().numpy().copy()
                    if born_here:
                        held.check()
            except (RuntimeError, MemoryError) as error:
                raise self._no_room(error) from None
            yield array
            start += n

    def _no_room(self, error: BaseException) -> BaseException:
        if not out_of_memory(error) or isinstance(error, ResourceError):
            return error
        gpu = self.where.type == "cuda"
        free = torch.cuda.mem_get_info(self.where)[0] if gpu else None
        return shortage(self.device, error, free)
