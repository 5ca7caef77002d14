"""The cascade through the Triton kernels, on an NVIDIA GPU from sm_80 on: one CUDA graph a frame.

Its kernels were compiled for sm_80 to sm_120 and run in Triton's interpreter, never on a GPU; so
'auto' does not choose it, only its name does.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from crn_fast.errors import Mismatch, ResourceError, Unavailable, UsageError
from crn_fast.extras import out_of_memory, why_no_torch
from crn_fast.spec import CascadeSpec

if TYPE_CHECKING:
    from crn_fast.fused.frame import Frame
    from crn_fast.fused.ops import Choices

PRECISIONS = ("fp16", "bf16", "tf32", "fp32", "fp8")
OPTIONS: tuple[str, ...] = ()
EXECUTABLE = False
OLDEST = 80
"""Compute capability, as in sm_80."""
OLDEST_FP8 = 89
FRAMES = 2
"""Batch sizes whose buffers and graphs are kept."""


def available() -> str | None:
    """None when torch, Triton and a GPU that is new enough are there, else what is missing."""
    reason = available_to_build()
    if reason is not None:
        return reason
    import torch

    if not torch.cuda.is_available():
        return "torch finds no NVIDIA GPU; take --backend native or eager"
    archs = [_arch(i) for i in range(torch.cuda.device_count())]
    if max(archs) < OLDEST:
        return f"the GPU is sm_{max(archs)}; sm_{OLDEST} or newer is needed: take --backend eager"
    return None


def available_to_build() -> str | None:
    """None when torch and Triton can be imported."""
    reason = why_no_torch()
    if reason is not None:
        return reason
    found = find_spec("triton")
    # An empty folder called triton would be found, too, but has no file.
    there = found is not None and found.origin is not None
    return None if there else "Triton is not installed: pip install triton (Linux only)"


def _arch(device: int) -> int:
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def pack(
    spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
) -> dict[str, np.ndarray]:
    """The tensors that an engine file holds: see `crn_fast.fused.packed`. 'auto' is fp16.

    Raises:
        BadInput: a weight is beyond the range of the precision.
        UsageError: an unknown precision, or $CRN_FAST_FP8_STAGES names no stage.
    """
    from crn_fast.fused import packed

    precision = "fp16" if precision == "auto" else precision
    _check_precision(precision)
    return packed.pack(spec, tensors, precision)


def describe(packed: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Nothing: the payload runs on every GPU, as kernels are compiled where it is opened."""
    return {}


def check(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
    """BadInput unless `packed` is what `pack` gives for this spec."""
    from crn_fast.fused import packed as tensors

    tensors.check(source, spec, packed)


def load(
    spec: CascadeSpec,
    packed: Mapping[str, np.ndarray],
    precision: str,
    device: int | None,
    threads: int | None,
) -> FusedRenderer:
    """Put the weights on the GPU `device` (None: the first), and capture the frame of one layout.

    Raises:
        Unavailable: no such GPU.
        Mismatch: the GPU is too old, or the weights are packed in another precision.
        ResourceError: not enough memory on the GPU.
        UsageError: an unknown precision.
    """
    import torch

    from crn_fast.fused import packed as tensors
    from crn_fast.fused.ops import Choices
    from crn_fast.kernels.gpu import tuning

    if precision != "auto":
        _check_precision(precision)
    precision = tensors.precision_of(packed, precision)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not 0 <= (device or 0) < gpus:
        raise Unavailable(f"--device {device or 0}: this torch sees {gpus} GPUs")
    where = torch.device("cuda", device or 0)
    arch, oldest = _arch(where.index), OLDEST_FP8 if precision == "fp8" else OLDEST
    if arch < oldest:
        raise Mismatch(
            f"{where} is sm_{arch}; fused in {precision} needs sm_{oldest} or newer: take another "
            "--precision or --backend eager"
        )
    name = torch.cuda.get_device_name(where)
    choices = Choices(spec, arch, precision, tuning.read_table(tuning.table_path(name)))
    return FusedRenderer(choices, packed, where, f"{where} ({name})")


def _check_precision(precision: str) -> None:
    if precision not in PRECISIONS:
        raise UsageError(f"fused: precision is {precision!r}; expected {', '.join(PRECISIONS)}")


class FusedRenderer:
    """A network that is ready on one device."""

    def __init__(
        self,
        choices: Choices,
        packed: Mapping[str, np.ndarray],
        where: object,
        device: str,
    ) -> None:
        """`where`: a torch.device; a CPU only for Triton's interpreter."""
        import torch

        from crn_fast.fused.packed import unpack

        assert isinstance(where, torch.device)
        self.choices, self.where = choices, where
        self.device, self.precision = device, choices.precision
        self._frames: dict[int, Frame] = {}
        try:
            self.weights = choices.fold(unpack(choices.spec, packed, where))
            self.frame(1)
        except (RuntimeError, MemoryError) as error:
            raise self._no_room(error) from None

    def frame(self, n: int) -> Frame:
        """The frame for `n` layouts, made at its first use.

        Raises:
            ResourceError: not enough memory on the GPU.
        """
        from crn_fast.fused.frame import Frame

        if n not in self._frames:
            while len(self._frames) >= FRAMES:
                del self._frames[next(iter(self._frames))]
            self._frames[n] = Frame(self.choices, self.weights, n, self.where)
        return self._frames[n]

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: out of memory.
        """
        import torch

        try:
            with torch.inference_mode():
                pictures = self.frame(len(labels)).render(torch.from_numpy(labels))
                array: np.ndarray = pictures.cpu().numpy().copy()
                return array
        except (RuntimeError, MemoryError) as error:
            raise self._no_room(error) from None

    def _no_room(self, error: BaseException) -> BaseException:
        if not out_of_memory(error) or isinstance(error, ResourceError):
            return error
        return ResourceError(f"{self.device}: out of memory ({error}); try fewer layouts")
