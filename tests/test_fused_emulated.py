"""The emulation of the fused backend's roundings against the kernels in Triton's interpreter.

Which rounds to fp16 as a GPU does. On the way to fp8 it loses the carry into odd exponents, so that
31.1 becomes 16, and cuts the smallest values off: so does the emulation here.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ops.gpu_ops import DEVICE

# isort: split

import torch

pytest.importorskip("fused_emulated", reason="benchmarks/ is not in the sdist")

import fused_emulated
import tiny
from crn_fast import fp8
from crn_fast.fused import frame, packed
from crn_fast.fused.ops import Choices
from crn_fast.spec import CascadeSpec

SPEC = CascadeSpec(widths=(7, 6, 4), base=(2, 3), classes=12, images=2)


def interpreted(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """As `rounded`, but to fp8 as Triton's interpreter does: see above."""
    found = x.to(dtype).float()
    if dtype != torch.float8_e4m3fn:
        return found
    carried = (found.abs() > x.abs()) & (found.abs().frexp().mantissa == 0.5)
    lost = carried & (x.frexp().exponent % 2 == 1)
    small = (x * 512).trunc() / 512
    return torch.where(x.abs() < 2**-7, small, torch.where(lost, found / 2, found))


@pytest.mark.skipif(DEVICE != "cpu", reason="a GPU rounds to fp8, and needs no emulation")
@pytest.mark.parametrize(
    ("precision", "upsampling", "stages", "apart"),
    [
        ("fp16", "align_corners", None, 1),
        ("fp16", "half_pixel", None, 1),
        ("fp8", "align_corners", "1,2", 3),
        ("fp8", "half_pixel", "1", 3),
    ],
)
def test_agrees_with_the_interpreter(
    precision: str,
    upsampling: Any,
    stages: str | None,
    apart: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Grey levels apart: a sum in another order may round a value of fp8 to the next one."""
    monkeypatch.setattr(fused_emulated, "rounded", interpreted)
    monkeypatch.setattr("crn_fast.kernels.gpu.tuning.FOLD_PIXELS", 8 * 12)
    spec = dataclasses.replace(SPEC, upsampling=upsampling)
    made = tiny.calm_checkpoint(spec)
    labels = tiny.labels_array(1, spec)
    emulated = fused_emulated.render(made, torch.from_numpy(labels), precision, stages)
    if stages is not None:
        monkeypatch.setenv(fp8.VARIABLE, stages)
    choices = Choices(spec, fused_emulated.ARCH, precision, {})
    cpu = torch.device("cpu")
    arrays = packed.pack(spec, made.tensors, precision)
    weights = choices.fold(packed.unpack(spec, arrays, cpu))
    found = frame.Frame(choices, weights, len(labels), cpu).render(torch.from_numpy(labels))
    psnr, largest = fused_emulated.compare(emulated, found)
    assert found.float().std() > 10
    assert largest <= apart
    exact = torch.from_numpy(tiny.oracle(made, labels)).clamp(0, 255)
    rounding = fused_emulated.compare(found, (exact + 0.5).to(torch.uint8))[0]
    assert psnr > rounding + 3, "as far from the kernels as those are from the oracle"
