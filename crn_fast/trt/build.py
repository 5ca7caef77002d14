"""From weights to a plan: TensorRT's builder, told what to build for and asked how far it is.

A plan is a blob that only the TensorRT that built it can run; `About` is what must be known to run
it. Reading what is inside is `plan`'s business.
"""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import fp8
from crn_fast.errors import BadInput, ResourceError
from crn_fast.files import make_folder, write_whole
from crn_fast.spec import CascadeSpec
from crn_fast.trt import network
from crn_fast.trt.flavour import Flavour, logger
from crn_fast.weights import arrange

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the steps done and their number."""
PORTABLE = "sm_80 and later"
"""What TensorRT-RTX builds for when no GPU is named."""
KERNELS = 600_000
"""Bytes that each stage's kernels add to a plan, near enough; those for sm_75 are larger."""


@dataclass(frozen=True)
class About:
    """What must be known of a plan to run it."""

    flavour: str
    version: str
    target: str
    """GPUs that it was built for: 'sm_80 and later', 'sm_86,sm_89', 'sm_90'."""
    precision: str
    batch: tuple[int, int]
    """The fewest and the most layouts at a time."""
    fp8_stages: str = ""
    """Of precision fp8 the stages that are: '4,5', or 'none'; else ''."""

    def to_bytes(self) -> bytes:
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_bytes(cls, source: str, blob: bytes) -> About:
        """BadInput unless it is what `to_bytes` wrote; `source` is named."""
        try:
            fields = json.loads(blob)
            low, high = (int(n) for n in fields.pop("batch"))
            if not 1 <= low <= high or not all(isinstance(v, str) for v in fields.values()):
                raise ValueError("a value is out of range")
            return cls(**fields, batch=(low, high))
        except (ValueError, TypeError, AttributeError, KeyError, RecursionError) as error:
            raise BadInput(f"{source}: what it says of its plan cannot be read ({error})") from None


def build(
    flavour: Flavour,
    spec: CascadeSpec,
    tensors: Mapping[str, np.ndarray],
    precision: str,
    targets: tuple[str, ...] = (),
    batch: tuple[int, int] = (1, 1),
    timing_cache: Path | None = None,
    progress: Progress | None = None,
) -> bytes:
    """Compile the cascade.

    Args:
        flavour: the TensorRT to build with.
        spec: what to build.
        tensors: float32 or float16, named as in `CascadeSpec.tensors`.
        precision: 'fp32', 'tf32', 'bf16', 'fp16' or 'fp8'.
        targets: GPUs by name, checked; none for the flavour's own choice.
        batch: fewest and most layouts at a time; equal for a static network.
        timing_cache: file that keeps measured timings between builds, where TensorRT measures.
        progress: see `Progress`.

    Returns:
        the serialised plan.

    Raises:
        UsageError: $CRN_FAST_FP8_STAGES names no stage.
        ResourceError: TensorRT failed; its own words are in the message.
        KeyboardInterrupt: Ctrl-C; the build was stopped.
    """
    trt, log = flavour.trt, logger(flavour.trt)
    builder = trt.Builder(log)
    definition = flavour.create_network(builder)
    layouts = batch[0] if batch[0] == batch[1] else -1
    weights = arrange(spec, tensors)
    arrays = network.define(trt, definition, spec, weights, precision, layouts)
    config = builder.create_builder_config()
    flavour.configure(config, precision, targets)
    if hasattr(config, "profiling_verbosity"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if layouts == -1:
        profile = builder.create_optimization_profile()
        profile.set_shape(network.LABELS, *((n, *spec.size) for n in (*batch, batch[1])))
        config.add_optimization_profile(profile)
    cache = _load_timings(config, timing_cache) if flavour.has_timing_cache else None
    del log.errors[:]
    with _interruptible() as interrupted:
        config.progress_monitor = _monitor(trt, progress, interrupted)
        plan = builder.build_serialized_network(definition, config)
    del arrays
    if interrupted.is_set():
        raise KeyboardInterrupt
    if plan is None:
        words = "; ".join(log.errors[:3]) or "it gave no reason"
        raise ResourceError(f"{flavour.title} could not build the network: {words}")
    if cache is not None and timing_cache is not None:
        blob = bytes(cache.serialize())
        make_folder(timing_cache.parent)
        write_whole(timing_cache, lambda stream: stream.write(blob))
    return bytes(plan)


def estimate(spec: CascadeSpec, precision: str, layouts: int) -> tuple[int, int]:
    """Bytes of the plan, and of device memory for activations: worked out, not measured.

    At a stage's first convolution its input, concatenated, and its output are in memory, beside
    the layout at every size, in the storage type.
    """
    itemsize = 4 if precision in ("fp32", "tf32") else 2
    widest = max(
        s.height * s.width * (s.features + s.classes + s.channels) * itemsize for s in spec.stages
    )
    height, width = spec.size
    pyramid = height * width * spec.classes * (itemsize + 4 / 3)
    narrow = fp8.stages(spec) if precision == "fp8" else set()
    saved = sum(prod(shape) for name, shape in spec.tensors().items() if _in_fp8(name, narrow))
    plan = spec.bytes(itemsize) - saved + KERNELS * len(spec.stages)
    return plan, int(layouts * (widest + pyramid))


def fp8_stages(spec: CascadeSpec, precision: str) -> str:
    """As `About.fp8_stages`. UsageError if $CRN_FAST_FP8_STAGES names no stage."""
    if precision != "fp8":
        return ""
    return ",".join(map(str, sorted(fp8.stages(spec)))) or "none"


def _in_fp8(tensor: str, narrow: set[int]) -> bool:
    return tensor.endswith("weight") and any(tensor.startswith(f"stages.{i}.") for i in narrow)


def _load_timings(config: Any, path: Path | None) -> Any:
    """A timing cache in use, from a file if there is one; None when none is wanted."""
    if path is None:
        return None
    blob = path.read_bytes() if path.is_file() else b""
    # One that TensorRT refuses, of another version or damaged, is built anew.
    for content in (blob, b""):
        cache = config.create_timing_cache(content)
        if cache is not None and config.set_timing_cache(cache, False):
            return cache
    return None


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """Ctrl-C sets an event: an exception out of a callback would go through TensorRT's C++."""
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = signal.signal(signal.SIGINT, lambda *_: event.set())
    try:
        yield event
    finally:
        signal.signal(signal.SIGINT, before)


def _monitor(trt: Any, progress: Progress | None, interrupted: threading.Event) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            self.steps[name] = steps
            self._tell(name, 0)

        def step_complete(self, name: str, step: int) -> bool:
            self._tell(name, step + 1)
            return not interrupted.is_set()

        def phase_finish(self, name: str) -> None:
            self._tell(name, self.steps.pop(name, 0))

        def _tell(self, name: str, done: int) -> None:
            steps = self.steps.get(name, done)
            if progress is not None:
                progress(name, min(done, steps), steps)

    return Monitor()
