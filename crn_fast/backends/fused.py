"""The cascade through the Triton kernels, on an NVIDIA GPU from sm_80 on: one CUDA graph a frame.

Two ways lead to the same launches. An engine file holds them compiled, and is run by the driver
through pycuda or cuda.core: it needs neither torch nor Triton. A checkpoint is compiled by Triton
as it is opened, and run by torch. The kernels were compiled for sm_80 to sm_120 and run in Triton's
interpreter, never on a GPU; so 'auto' does not choose this backend, only its name does.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from crn_fast.cuda import driver
from crn_fast.errors import BadInput, Mismatch, Outdated, Unavailable, UsageError
from crn_fast.extras import way_to, why_no_torch
from crn_fast.fused import program
from crn_fast.fused.program import MAX_BATCH
from crn_fast.fused.runtime import ProgramRenderer
from crn_fast.spec import CascadeSpec

if TYPE_CHECKING:
    from crn_fast.fused.just_in_time import FusedRenderer

PRECISIONS = ("fp16", "bf16", "tf32", "fp32", "fp8")
OPTIONS = ("targets", "batch", "tune", "progress")
EXECUTABLE = True
OLDEST = 80
"""Compute capability, as in sm_80."""
OLDEST_FP8 = 89
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class About:
    """What must be known of an engine's programs before one is chosen."""

    precision: str
    triton: str
    """version that compiled it"""
    targets: tuple[str, ...]
    batch: int
    """the most layouts at a time"""
    tiles: Mapping[str, Any]
    """measured choices by `Shape.key`; empty where the rule decided"""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def of(cls, source: str, packed: Mapping[str, np.ndarray]) -> About:
        """BadInput unless the tensor `about` is what `to_bytes` wrote; `source` is named."""
        try:
            fields = json.loads(packed["about"].tobytes())
            found = cls(**{**fields, "targets": tuple(fields["targets"])})
            known = found.precision in PRECISIONS and isinstance(found.triton, str)
            if not known or not found.targets or type(found.batch) is not int:
                raise ValueError("a value is out of range")
            if unknown := sorted(set(found.targets) - set(program.TARGETS)):
                raise ValueError(f"no target {unknown[0]!r:.40}")
            return found
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise BadInput(
                f"{source}: holds no compiled programs of this crn_fast ({error!r:.120}): build it "
                "again: crn-fast build-engine CKPT --backend fused --force"
            ) from None


def available() -> str | None:
    """None when a checkpoint can be rendered: torch, Triton and a GPU that is new enough."""
    reason = available_to_build()
    if reason is not None:
        return f"{reason}; an engine file, built elsewhere with --target, needs neither"
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
    try:
        import triton
    except Exception as error:  # a package without its libraries raises what it likes
        words = (str(error) or repr(error)).splitlines()[0]
        return f"Triton, which is for Linux only, cannot be imported ({words}): {way_to('gpu')}"
    # An empty folder called triton imports as a package, too.
    return None if hasattr(triton, "jit") else f"the triton found here is not it: {way_to('gpu')}"


def available_to_open() -> str | None:
    """None when an engine file can run: a driver and pycuda or cuda.core; no torch, no Triton."""
    if reason := driver.why_none():
        return reason
    return None if driver.capability() else "the NVIDIA driver finds no GPU"


def _arch(device: int) -> int:
    import torch

    major, minor = torch.cuda.get_device_capability(device)
    return 10 * major + minor


def prepare(
    spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
) -> dict[str, np.ndarray]:
    """What `load` takes for a checkpoint: the weights alone, see `crn_fast.fused.packed`.

    Raises:
        BadInput: a weight is beyond the range of the precision.
        UsageError: an unknown precision, or $CRN_FAST_FP8_STAGES names no stage.
    """
    from crn_fast.fused import packed

    return packed.pack(spec, tensors, _precision(precision))


def pack(
    spec: CascadeSpec,
    tensors: Mapping[str, np.ndarray],
    precision: str,
    *,
    targets: tuple[str, ...] = (),
    batch: tuple[int, int] = (1, 1),
    tune: bool = False,
    progress: Progress = lambda phase, done, steps: None,
) -> dict[str, np.ndarray]:
    """The tensors of an engine file, with every kernel compiled: see `crn_fast.fused.program`.

    Args:
        spec: the network's.
        tensors: its weights.
        precision: 'auto' is fp16.
        targets: GPUs to compile for, as 'sm_90'; the one that is here when empty.
        batch: the most layouts at a time is what counts: smaller numbers are compiled besides.
        tune: time tiles on the GPU that is here, and take the fastest, where otherwise a rule
            decides.
        progress: called with what is done, the steps done and their number.

    Raises:
        BadInput: a weight is beyond the range of the precision.
        UsageError: an unknown precision, target or batch, no target and no GPU, or
            $CRN_FAST_FP8_STAGES names no stage.
        Unavailable: `tune` without the GPU that is built for.
    """
    precision, targets = _precision(precision), _targets(precision, targets, tune)
    sizes = _sizes(batch)
    import torch
    import triton

    from crn_fast.fused import packed, recording
    from crn_fast.fused.ops import Choices

    weights = packed.unpack(spec, packed.pack(spec, tensors, precision), torch.device("cpu"))
    found: dict[str, np.ndarray] = {}
    tiles: dict[str, Any] = {}
    for target in targets:
        table = {}
        if tune:
            from crn_fast.fused import tune as tuner

            table = tuner.tune_here(spec, weights, int(target[3:]), precision, progress)
            tiles = {key: asdict(tile) for key, tile in table.items()}
        choices = Choices(spec, int(target[3:]), precision, table)
        found |= recording.record(choices, weights, sizes, progress)
    about = About(precision, triton.__version__, targets, sizes[-1], tiles)
    return found | {"about": np.frombuffer(about.to_bytes(), np.uint8)}


def describe(packed: Mapping[str, np.ndarray]) -> dict[str, str]:
    """For the manifest: what the programs were built for, and with."""
    about = About.of("the engine", packed)
    return {
        "target": ",".join(about.targets),
        "precision": about.precision,
        "triton": about.triton,
        "batch": str(about.batch),
    }


def estimate(
    spec: CascadeSpec,
    precision: str,
    targets: tuple[str, ...] = (),
    batch: tuple[int, int] = (1, 1),
    tune: bool = False,
) -> str:
    """What a build would give, for people. Errors as of `pack`."""
    precision, targets = _precision(precision), _targets(precision, targets, tune)
    sizes = _sizes(batch)
    from crn_fast.fused import packed, recording
    from crn_fast.fused.ops import Choices

    lines = []
    for target in targets:
        choices = Choices(spec, int(target[3:]), precision, {})
        weights = choices.fold(packed.blank(spec, precision))
        held = recording.Recording(choices, weights, sizes[-1])
        lean = recording.Recording(choices.leaner(), weights, 1)
        read = recording.weight_tensors(weights, spec.classes).values()
        lines.append(
            f"{target}, {precision}: {len(held.launches)} launches of "
            f"{len({recording.key_of(launch) for launch in held.launches})} kernels; "
            f"{sum(t.numel() * t.itemsize for t in read) / 1e6:.0f} MB of weights, and "
            f"{held.arena / 1e6:.0f} MB of GPU memory beside them for {sizes[-1]} layouts at a "
            f"time, or {lean.arena / 1e6:.0f} MB for one in the lean schedule"
        )
    return "; ".join(lines)


def check(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
    """BadInput unless an engine's programs are whole and stay within what they own."""
    about = About.of(source, packed)
    needed = {"about"}
    for target in about.targets:
        needed |= program.used(target, program.read(source, spec, packed, target))
    if wrong := sorted(needed ^ packed.keys()):
        state = "missing" if wrong[0] in needed else "unexpected"
        raise BadInput(f"{source}: its tensors do not fit its programs: {state} {wrong[0]}")
    for name, array in packed.items():
        if array.dtype != np.uint8 and not np.isfinite(array).all():
            raise BadInput(f"{source}: tensor {name} holds values that are no finite numbers")


def load(
    spec: CascadeSpec,
    packed: Mapping[str, np.ndarray],
    precision: str,
    device: int | None,
    threads: int | None,
) -> FusedRenderer | ProgramRenderer:
    """Make an engine's programs, or a checkpoint's weights, ready on the GPU `device`.

    Args:
        spec: the network's.
        packed: what `pack` gave, checked and trusted, or what `prepare` gave.
        precision: 'auto' for the one that they are in.
        device: its number; None for the first.
        threads: not used.

    Raises:
        Unavailable: no such GPU.
        Outdated: compiled for another GPU or in another precision.
        Mismatch: the GPU is too old.
        ResourceError: not enough memory on the GPU.
        UsageError: an unknown precision.
    """
    if precision != "auto":
        _precision(precision)
    if "about" in packed:
        return _load_programs(spec, packed, precision, device or 0)
    return _load_weights(spec, packed, precision, device or 0)


def _load_programs(
    spec: CascadeSpec, packed: Mapping[str, np.ndarray], precision: str, device: int
) -> ProgramRenderer:
    about = About.of("the engine", packed)
    if precision not in ("auto", about.precision):
        raise Outdated(
            f"the engine computes in {about.precision}, not {precision}", precision=precision
        )
    gpu = driver.make(device)
    target = "sm_{}{}".format(*gpu.capability)
    if target not in about.targets:
        raise Outdated(
            f"the engine was compiled for {', '.join(about.targets)}; the GPU here, {gpu.gpu}, is "
            f"{target}",
            target=target,
        )
    programs = program.read("the engine", spec, packed, target)
    return ProgramRenderer(spec, programs, packed, target, about.precision, gpu)


def _load_weights(
    spec: CascadeSpec, packed: Mapping[str, np.ndarray], precision: str, device: int
) -> FusedRenderer:
    import torch

    from crn_fast.fused import packed as tensors
    from crn_fast.fused.just_in_time import FusedRenderer
    from crn_fast.fused.ops import Choices
    from crn_fast.kernels.gpu import tuning

    precision = tensors.precision_of(packed, precision)
    gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not 0 <= device < gpus:
        raise Unavailable(f"--device {device}: this torch sees {gpus} GPUs")
    where = torch.device("cuda", device)
    arch, oldest = _arch(where.index), _oldest(precision)
    if arch < oldest:
        raise Mismatch(
            f"{where} is sm_{arch}; fused in {precision} needs sm_{oldest} or newer: take another "
            "--precision or --backend eager"
        )
    name = torch.cuda.get_device_name(where)
    choices = Choices(spec, arch, precision, tuning.read_table(tuning.table_path(name)))
    return FusedRenderer(choices, packed, where, f"{where} ({name})")


def _precision(asked: str) -> str:
    """UsageError unless it is known; 'auto' is fp16."""
    precision = "fp16" if asked == "auto" else asked
    if precision not in PRECISIONS:
        raise UsageError(f"fused: precision is {precision!r}; expected {', '.join(PRECISIONS)}")
    return precision


def _oldest(precision: str) -> int:
    return OLDEST_FP8 if precision == "fp8" else OLDEST


def _targets(precision: str, asked: tuple[str, ...], tune: bool) -> tuple[str, ...]:
    """The GPUs to compile for, each once."""
    capability = driver.capability()
    here = "sm_{}{}".format(*capability) if capability else None
    if tune and (here is None or asked not in ((), (here,))):
        raise Unavailable(
            f"--tune times on the GPU that is built for, and here is {here or 'none'}: leave it "
            "out, or build there"
        )
    targets = tuple(dict.fromkeys(asked)) or ((here,) if here else ())
    known = ", ".join(program.TARGETS)
    if not targets:
        raise UsageError(f"no GPU here to compile for: name one of {known}, as in --target sm_90")
    if unknown := [name for name in targets if name not in program.TARGETS]:
        raise UsageError(f"--target {unknown[0]}: fused compiles for {known}")
    if old := [name for name in targets if int(name[3:]) < _oldest(precision)]:
        raise UsageError(
            f"--target {old[0]}: {precision} needs sm_{_oldest(precision)} or newer: take another "
            "--precision"
        )
    return targets


def _sizes(batch: tuple[int, int]) -> list[int]:
    """The numbers of layouts to compile for: the most, and its halves down to 1."""
    if not 1 <= batch[0] <= batch[1] <= MAX_BATCH:
        raise UsageError(
            f"--batch is {batch[0]} to {batch[1]}; expected 1 to {MAX_BATCH}, in order"
        )
    sizes = [batch[1]]
    while sizes[0] > 1:
        sizes.insert(0, sizes[0] // 2)
    return sizes
