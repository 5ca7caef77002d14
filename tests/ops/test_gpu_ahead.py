"""What the Triton ops compile to, for every architecture, without a GPU.

By default the largest convolutions of one network an architecture, and on sm_90 of every kernel and
of the specialised convolution; with the environment variable CRN_FAST_COMPILE=all every launch of
the authors' networks on NVIDIA's architectures, and a few for others, which takes an hour or more.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the launchers need torch")

if os.uname().machine != "x86_64":
    pytest.skip("Triton's assembler is for x86-64", allow_module_level=True)

SCRIPT = Path(__file__).parent / "compile_launches.py"
SOME = [
    (90, "1024p", "fp16", "align_corners", "largest"),
    (90, "1024p", "fp8", "half_pixel", "convolutions"),
    (80, "256p-small", "fp16", "half_pixel", "convolutions"),
    (86, "256p-small", "fp16", "align_corners", "convolutions"),
    (89, "256p-small", "bf16", "align_corners", "convolutions"),
    (100, "256p-small", "fp16", "align_corners", "convolutions"),
    (120, "256p-small", "fp16", "align_corners", "convolutions"),
    (90, "1024p", "fp16", "align_corners", "specialised"),
    ("gfx942", "256p-small", "fp16", "align_corners", "convolutions"),
    ("gfx1100", "256p-small", "fp16", "align_corners", "convolutions"),
]
ALL = [
    (arch, preset, precision, upsampling, "all")
    for arch in (80, 86, 89, 90, 100, 120)
    for preset in ("256p", "1024p")
    for precision in ("fp16", "bf16", "fp8", "tf32", "fp32")
    for upsampling in ("align_corners", "half_pixel")
    if precision != "fp8" or arch >= 89
]
ALL += [
    (90, "256p-small", "bf16", "half_pixel", "specialised"),
    ("gfx942", "256p-small", "fp16", "half_pixel", "convolutions"),
]
PRODUCT = {80: "HMMA", 86: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA", 120: "HMMA"}
PRODUCT |= {"gfx942": "v_mfma", "gfx1100": "v_wmma"}
"""The matrix instruction of half precision, by architecture."""
FP8_PRODUCTS = {"QGMMA", "QMMA", "UTCQMMA"}
SHARED = {80: 163, 86: 99, 89: 99, 90: 227, 100: 227, 120: 99, "gfx942": 64, "gfx1100": 64}
"""KiB of shared memory that one program may have; CUDA C++ programming guide, HIP's of the LDS."""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arch", "preset", "precision", "upsampling", "which"),
    ALL if os.environ.get("CRN_FAST_COMPILE") == "all" else SOME,
)
def test_every_launch_compiles_as_meant(
    arch: int | str,
    preset: str,
    precision: str,
    upsampling: str,
    which: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    # One for all: networks share launches.
    cache = tmp_path_factory.getbasetemp() / "triton"
    rows = compiled(arch, preset, precision, upsampling, which, cache)
    assert rows
    kernels = {row["kernel"] for row in rows}
    if which in ("all", "largest"):
        assert {"halve", "apply_kernel", "convolve", "pending_norm", "head_kernel"} <= kernels
    products = set()
    for row in rows:
        arguments, instructions = row["arguments"], set(row["instructions"])
        named = f"{row['kernel']} {arguments}: {row['registers']} registers, {row['stack']} stack"
        # What fp32 costs does not matter, it is there to check with.
        spilled = row["stack"] if isinstance(arch, str) else "LDL" in instructions
        assert precision == "fp32" or not spilled, f"{named}: registers are spilled"
        assert row["shared"] <= SHARED[arch] << 10, f"{named}: {row['shared']} shared"
        if row["kernel"] == "convolve_specialised":
            # Its own registers for the warp that loads, and every product from shared memory.
            assert {"HGMMA", "UTMALDG", "UTMASTG", "USETMAXREG"} <= instructions, named
            assert all(left.startswith("!ttg.memdesc") for left in row["left_operands"]), named
            continue
        if row["kernel"] != "convolve" or precision in ("fp32", "tf32"):
            continue
        assert instructions & {PRODUCT[arch], *FP8_PRODUCTS}, f"{named}: no matrix instruction"
        products |= instructions & FP8_PRODUCTS
        if isinstance(arch, str):
            continue
        if arch >= 90:
            assert "UTMALDG" in instructions, f"{named}: no TMA"
        else:
            assert "LDGSTS" in instructions, f"{named}: no asynchronous copies"
        if arch == 90 and arguments["INPUTS"] and arguments["ROWS"] == 1:
            # The first product is the features'; ids come from registers.
            assert row["left_operands"][0].startswith("!ttg.memdesc"), f"{named}: not from shared"
    assert (precision == "fp8" and arch != 89) == bool(products)


def compiled(
    arch: int | str, preset: str, precision: str, upsampling: str, which: str, cache: Path
) -> list[Any]:
    pytest.importorskip("triton", reason="the GPU ops need Triton")
    environment = {**os.environ, "TRITON_CACHE_DIR": str(cache)}
    arguments = map(str, (arch, preset, precision, upsampling, which))
    command = [sys.executable, "-P", str(SCRIPT), *arguments]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert ran.returncode == 0, ran.stderr[-2000:]
    return [json.loads(line) for line in ran.stdout.splitlines()]
