"""The cascade through TensorRT or TensorRT-RTX, on an NVIDIA GPU. Engines build without one.

An engine file holds two tensors of uint8: `plan`, TensorRT's own serialised engine, which is
executable code, and `about`, JSON with what must be known to run it. TensorRT-RTX builds for any of
its GPUs without one here; TensorRT builds for the GPU that it finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crn_fast.backends import require_precision
from crn_fast.cuda import driver
from crn_fast.errors import BadInput, Mismatch, Outdated, Unavailable, UsageError
from crn_fast.spec import CascadeSpec
from crn_fast.trt.build import PORTABLE, About, Progress, build, fp8_stages
from crn_fast.trt.build import estimate as sizes
from crn_fast.trt.flavour import NAMES, TITLES, Flavour
from crn_fast.trt.flavour import load as load_flavour
from crn_fast.trt.runtime import PlanRenderer

PRECISIONS = ("fp32", "tf32", "bf16", "fp16", "fp8")
OLDEST_FP8 = 89
"""Compute capability, as in sm_89."""
OPTIONS = ("targets", "batch", "timing_cache", "progress")
EXECUTABLE = True
MAX_BATCH = 64


def available() -> str | None:
    """None when a plan can run here, else what is missing and the way to it."""
    if reason := available_to_build() or driver.why_none():
        return reason
    return _why_not_this_gpu(_flavour(()), driver.capability())


def available_to_open() -> str | None:
    """As `available`."""
    return available()


def available_to_build() -> str | None:
    """None when a TensorRT can be loaded, else the way to one."""
    try:
        _flavour(())
    except Unavailable as error:
        return str(error)
    return None


def pack(
    spec: CascadeSpec,
    tensors: Mapping[str, np.ndarray],
    precision: str,
    *,
    targets: tuple[str, ...] = (),
    batch: tuple[int, int] = (1, 1),
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, np.ndarray]:
    """The plan and what it says of itself; 'auto' is fp16.

    Raises:
        UsageError: a GPU that this TensorRT does not build for by name or that has no fp8, a batch
            out of range, or $CRN_FAST_FP8_STAGES names no stage.
        ResourceError: TensorRT failed.
        Unavailable: there is no TensorRT.
    """
    flavour = _flavour(targets)
    flavour.check_targets(targets)
    _check_fp8(flavour, precision, targets)
    if not 1 <= batch[0] <= batch[1] <= MAX_BATCH:
        raise UsageError(
            f"--batch is {batch[0]} to {batch[1]}; expected 1 to {MAX_BATCH}, in order"
        )
    precision = "fp16" if precision == "auto" else precision
    plan = build(flavour, spec, tensors, precision, targets, batch, timing_cache, progress)
    target = ",".join(targets) or (PORTABLE if flavour.rtx else _sm(driver.capability()))
    narrow = fp8_stages(spec, precision)
    about = About(flavour.name, flavour.version, target, precision, batch, narrow)
    return {
        "plan": np.frombuffer(plan, np.uint8),
        "about": np.frombuffer(about.to_bytes(), np.uint8),
    }


prepare = pack


def describe(packed: Mapping[str, np.ndarray]) -> dict[str, str]:
    """For the manifest: what the plan was built for, and with."""
    about = _about("the plan", packed)
    low, high = about.batch
    layouts = str(low) if low == high else f"{low} to {high}"
    facts = {
        "target": about.target,
        "precision": about.precision,
        about.flavour: about.version,
        "batch": layouts,
    }
    return facts | ({"fp8 stages": about.fp8_stages} if about.fp8_stages else {})


def estimate(
    spec: CascadeSpec,
    precision: str,
    targets: tuple[str, ...] = (),
    batch: tuple[int, int] = (1, 1),
) -> str:
    """What a build would give, for people. Errors as of `pack`."""
    flavour = _flavour(targets)
    flavour.check_targets(targets)
    _check_fp8(flavour, precision, targets)
    precision = "fp16" if precision == "auto" else precision
    plan, memory = sizes(spec, precision, batch[1])
    narrow = fp8_stages(spec, precision)
    where = "" if not narrow else f" in {'no stage' if narrow == 'none' else f'stages {narrow}'}"
    return (
        f"{flavour.title}, {precision}{where}: a plan of about {plan / 1e6:.0f} MB, and about "
        f"{memory / 1e6:.0f} MB of GPU memory at a batch of {batch[1]} (worked out, not measured)"
    )


def check(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
    """BadInput unless `packed` has the form that `pack` gives."""
    check_form(source, packed)


def check_form(source: str, packed: Mapping[str, np.ndarray]) -> None:
    """As `check`; a plan's form does not depend on the network."""
    for name in sorted(packed.keys() | {"plan", "about"}):
        if name not in ("plan", "about") or name not in packed:
            state = "missing" if name not in packed else "unexpected"
            raise BadInput(f"{source}: its tensors are no TensorRT engine's: {state} {name}")
        if packed[name].dtype != np.uint8 or packed[name].ndim != 1 or not packed[name].size:
            raise BadInput(f"{source}: tensor {name} is no row of bytes")
    _about(source, packed)


def about_of(source: str, backend: str, packed: Mapping[str, np.ndarray]) -> About:
    """Of an engine file that must be of this backend.

    Raises:
        BadInput: its payload has another form than `pack` gives.
        Mismatch: it is another backend's.
    """
    if backend != "trt":
        raise Mismatch(
            f"{source}: holds no TensorRT plan, but an engine of the backend {backend}: build one: "
            "crn-fast build-engine CKPT --backend trt"
        )
    check_form(source, packed)
    return _about(source, packed)


def load(
    spec: CascadeSpec,
    packed: Mapping[str, np.ndarray],
    precision: str,
    device: int | None,
    threads: int | None,
) -> PlanRenderer:
    """Hand a checked and trusted plan to TensorRT.

    Raises:
        Outdated: another version of TensorRT, another GPU or another precision than it was built
            for.
        Unavailable: its TensorRT, the driver or the GPU is missing.
        UsageError: an unknown precision.
    """
    about = _about("the engine", packed)
    require_precision("trt", precision, PRECISIONS)
    if precision not in ("auto", about.precision):
        raise Outdated(
            f"the plan computes in {about.precision}, not {precision}", precision=precision
        )
    if about.flavour not in NAMES:
        raise Outdated(f"the plan is of {about.flavour!r}, not of {' or '.join(NAMES)}")
    flavour = load_flavour((about.flavour,))
    if flavour.version != about.version:
        raise Outdated(
            f"the plan was built by {TITLES[about.flavour]} {about.version}; here is "
            f"{flavour.version}"
        )
    gpu = driver.make(device or 0)
    _check_gpu(about, gpu)
    return PlanRenderer(flavour, packed["plan"].tobytes(), about, spec, gpu)


def _flavour(targets: tuple[str, ...]) -> Flavour:
    """The TensorRT to build with: TensorRT's builder needs a GPU and takes no target."""
    if targets or driver.capability() is None:
        return load_flavour(("tensorrt_rtx",))
    return load_flavour()


def _check_fp8(flavour: Flavour, precision: str, targets: tuple[str, ...]) -> None:
    """UsageError when fp8 is asked for and a GPU that is built for has none."""
    if precision != "fp8":
        return
    if flavour.rtx and not targets:
        raise UsageError(
            f"--precision fp8: without --target this builds for {PORTABLE}, and fp8 needs "
            f"sm_{OLDEST_FP8} or newer: name GPUs, as in --target sm_89"
        )
    for gpu in targets or (_sm(driver.capability()),):
        number = gpu.removeprefix("sm_")
        if number.isdecimal() and int(number) < OLDEST_FP8:
            raise UsageError(f"--precision fp8: {gpu} has none; sm_{OLDEST_FP8} or newer is needed")


def _about(source: str, packed: Mapping[str, np.ndarray]) -> About:
    return About.from_bytes(source, packed["about"].tobytes())


def _why_not_this_gpu(flavour: Flavour, capability: tuple[int, int] | None) -> str | None:
    """None when the flavour supports a GPU."""
    if capability is None:
        return "the NVIDIA driver finds no GPU"
    if not flavour.rtx or _sm(capability) in flavour.targets:
        return None
    return (
        f"{flavour.title} supports {', '.join(flavour.targets)}, and the GPU here is "
        f"{_sm(capability)}: install TensorRT itself, or take --backend fused or eager"
    )


def _check_gpu(about: About, gpu: driver.Driver) -> None:
    """Outdated unless the plan was built for the GPU."""
    here = _sm(gpu.capability)
    suits = (
        gpu.capability >= (8, 0) if about.target == PORTABLE else here in about.target.split(",")
    )
    if not suits:
        raise Outdated(f"the plan was built for {about.target}; the GPU here, {gpu.gpu}, is {here}")


def _sm(capability: tuple[int, int] | None) -> str:
    return "sm_{}{}".format(*capability) if capability else "unknown"
