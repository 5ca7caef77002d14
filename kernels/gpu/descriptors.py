"""Boxes as TMA descriptors, in both of Triton's languages.

Triton finds out by itself how a box lies in shared memory; a Gluon kernel is told. Both are told
the same: rows of up to 128 bytes, swizzled as wgmma reads them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from crn_fast.kernels.gpu.queue import Box

TYPES = {
    torch.uint8: "u8",
    torch.int32: "i32",
    torch.float8_e4m3fn: "fp8e4nv",
    torch.float16: "fp16",
    torch.bfloat16: "bf16",
    torch.float32: "fp32",
}
"""How Triton names the types of values."""


def in_gluon(kernel: Any) -> bool:
    """Whether a kernel is a `gluon.jit` function; those of Triton's interpreter cannot say."""
    return hasattr(kernel, "is_gluon") and bool(kernel.is_gluon())


def descriptor(box: Box, kernel: Any) -> Any:
    """What `kernel` is launched with for a box."""
    if not in_gluon(kernel):
        from triton.tools.tensor_descriptor import TensorDescriptor

        return TensorDescriptor.from_tensor(box.tensor, list(box.shape))
    from triton.experimental.gluon.nvidia import hopper

    return hopper.TensorDescriptor.from_tensor(box.tensor, list(box.shape), _layout(box))


def described(box: Box, kernel: Any) -> str:
    """The type of a box in the signature that `kernel` is compiled for."""
    layout = f", {_layout(box)!r}" if in_gluon(kernel) else ""
    return f"tensordesc<{TYPES[box.tensor.dtype]}[{', '.join(map(str, box.shape))}]{layout}>"


def _layout(box: Box) -> Any:
    from triton.experimental.gluon import language as gl

    dtype = {torch.float16: gl.float16, torch.bfloat16: gl.bfloat16}[box.tensor.dtype]
    return gl.NVMMASharedLayout.get_default_for(list(box.shape), dtype)
