"""The cascade through the reference ops, in torch's eager mode, on a CPU or an NVIDIA GPU.

The backend that every other one is compared with. Not fast: nothing is packed or fused. It also
runs the baseline networks, which no other backend knows.

On a CPU a picture has the same bits whenever it is rendered on as many threads: PyTorch's
convolutions round otherwise on other numbers of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from crn_fast import cascade
from crn_fast.backends import require_precision, thread_count
from crn_fast.baselines.spec import BaselineSpec
from crn_fast.errors import Unavailable
from crn_fast.extras import out_of_memory, why_no_torch
from crn_fast.memory import shortage
from crn_fast.spec import CascadeSpec
from crn_fast.weights import arrange, check_tensors

if TYPE_CHECKING:
    import torch

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
ON_CPU = ("fp32",)
"""Without an NVIDIA GPU."""
OPTIONS: tuple[str, ...] = ()
EXECUTABLE = False


def available() -> str | None:
    """None when torch can be imported, else the way to get it."""
    return why_no_torch()


available_to_build = available


def available_to_open() -> str | None:
    """As `available`."""
    return available()


def pack(
    spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
) -> dict[str, np.ndarray]:
    """The tensors as they are: this backend casts when it loads them."""
    return dict(tensors)


prepare = pack


def check(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
    """BadInput unless `packed` holds the spec's tensors."""
    check_tensors(source, spec, packed)


def load(
    spec: CascadeSpec,
    packed: Mapping[str, np.ndarray],
    precision: str,
    device: int | None,
    threads: int | None,
) -> EagerRenderer:
    """Put the weights on the GPU `device` (None: the first if there is one, else the CPU).

    Raises:
        Unavailable: no such GPU, or the precision cannot run on the device.
        UsageError: an unknown precision, or `threads` below 1.
    """
    import torch

    from crn_fast.kernels import reference

    precision, where = _choose(precision, device, threads)
    convolution = _dtype(precision)

    def place(name: str, array: np.ndarray) -> torch.Tensor:
        dtype = convolution if name.endswith("weight") else torch.float32
        return torch.from_numpy(array).to(where, dtype)

    tensors = {name: place(name, array) for name, array in packed.items()}
    tensors["head.bias"] = tensors["head.bias"].to(convolution)
    weights = arrange(spec, tensors)
    network = partial(cascade.render, reference, spec, weights)
    return EagerRenderer(network, precision, where, _working_set(spec))


def load_baseline(
    spec: BaselineSpec,
    tensors: Mapping[str, np.ndarray],
    precision: str,
    device: int | None,
    threads: int | None,
) -> EagerRenderer:
    """As `load`, of a baseline network, whose checked tensors need no packing."""
    import torch

    from crn_fast.kernels import reference

    precision, where = _choose(precision, device, threads)
    convolution = _dtype(precision)
    network = spec.build()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in tensors.items()})
    network.to(where)

    def render(labels: torch.Tensor) -> torch.Tensor:
        half = convolution != torch.float32
        with torch.autocast(where.type, convolution if half else None, enabled=half):
            return reference.to_uint8(network(labels))

    return EagerRenderer(render, precision, where)


def _choose(precision: str, device: int | None, threads: int | None) -> tuple[str, torch.device]:
    """Precision and device that were asked for, checked; errors as in `load`."""
    import torch

    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if device is not None and not 0 <= device < gpus:
        raise Unavailable(
            f"--device {device}: this torch sees {gpus} GPUs; leave it out for the CPU"
        )
    where = torch.device("cuda", device or 0) if gpus else torch.device("cpu")
    require_precision("eager", precision, PRECISIONS if gpus else ON_CPU)
    if precision == "auto":
        precision = "fp16" if gpus else "fp32"
    torch.set_num_threads(thread_count(threads))
    return precision, where


def _working_set(spec: CascadeSpec) -> int:
    """Bytes that the largest stage has at a time, near enough: inputs and outputs, and a copy."""
    sizes = (2 * s.height * s.width * (s.features + s.classes + s.channels) for s in spec.stages)
    return 4 * max(sizes)


def _dtype(precision: str) -> torch.dtype:
    """Of the convolutions."""
    import torch

    return {"bf16": torch.bfloat16, "fp16": torch.float16}.get(precision, torch.float32)


class EagerRenderer:
    """A network that is ready on one device."""

    def __init__(
        self,
        network: Callable[[torch.Tensor], torch.Tensor],
        precision: str,
        where: torch.device,
        working_set: int | None = None,
    ) -> None:
        """Take what was made ready by `load`.

        Args:
            network: labels uint8 [1, H, W] -> uint8 RGB [1, K, H, W, 3], both on the device.
            precision: what it computes in.
            where: the device.
            working_set: bytes that it takes for a picture, near enough.
        """
        import torch

        self.working_set = working_set
        self.network, self.precision, self.where = network, precision, where
        if where.type == "cuda":
            self.device = f"{where} ({torch.cuda.get_device_name(where)})"
        else:
            self.device = f"cpu, {torch.get_num_threads()} threads"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        One after another: PyTorch rounds otherwise for other numbers of layouts, and a picture is
        to be the same alone and in any batch.

        Raises:
            ResourceError: out of memory; needed and free are named.
        """
        import torch

        if self.where.type == "cuda":
            torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        try:
            with torch.inference_mode():
                ids = torch.from_numpy(labels).to(self.where)
                pictures = [self.network(ids[i : i + 1]).cpu().numpy() for i in range(len(ids))]
            return np.concatenate(pictures)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            gpu = self.where.type == "cuda"
            free = torch.cuda.mem_get_info(self.where)[0] if gpu else None
            raise shortage(self.device, error, free, self.working_set) from None
