"""One module for tensorrt 10.x, tensorrt 11.x and tensorrt_rtx: which is here, and what it can do.

Where they differ, the difference is decided here and nowhere else. TensorRT builds for the GPU that
it finds and needs one; TensorRT-RTX builds for any of the GPUs it names, with none present, has no
plugins, and knows no Hopper and no data-centre Blackwell.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from crn_fast.errors import Unavailable, UsageError
from crn_fast.extras import way_to

NAMES = ("tensorrt", "tensorrt_rtx")
TITLES = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}
WAY = way_to("tensorrt")
OLDEST = 10
"""First TensorRT with strong typing and uint8 inputs."""


@dataclass(frozen=True)
class Flavour:
    """An imported TensorRT."""

    trt: Any
    """The module."""
    name: str
    """'tensorrt' or 'tensorrt_rtx'."""
    version: str
    """Of the package; a plan runs under the version that built it."""

    @property
    def title(self) -> str:
        return f"{TITLES[self.name]} {self.version}"

    @property
    def rtx(self) -> bool:
        return self.name == "tensorrt_rtx"

    @property
    def targets(self) -> tuple[str, ...]:
        """GPUs that it can build for by name: ('sm_75', ...); none for TensorRT."""
        members = getattr(self.trt, "ComputeCapability", None)
        names = [] if members is None else list(members.__members__)
        return tuple(f"sm_{name[2:]}" for name in names if name.startswith("SM"))

    @property
    def has_plugins(self) -> bool:
        return hasattr(self.trt.INetworkDefinition, "add_plugin_v3")

    def check_targets(self, targets: Iterable[str]) -> None:
        """UsageError unless it builds for each of these GPUs by name."""
        for target in targets:
            if target in self.targets:
                continue
            if not self.targets:
                raise UsageError(
                    f"--target {target}: {self.title} builds for the GPU of this machine; leave "
                    "it out, or build with TensorRT-RTX"
                )
            raise UsageError(
                f"--target {target}: {self.title} builds for {', '.join(self.targets)}; other GPUs "
                "need TensorRT itself, or --backend fused"
            )

    def create_network(self, builder: Any) -> Any:
        """An empty, strongly typed network: asked for in 10.x, the only kind since."""
        flags = self.trt.NetworkDefinitionCreationFlag
        strong = getattr(flags, "STRONGLY_TYPED", None)
        return builder.create_network(0 if strong is None else 1 << int(strong))

    def configure(self, config: Any, precision: str, targets: tuple[str, ...]) -> None:
        """Set the precision of float32 products, and the GPUs to build for."""
        change = config.clear_flag if precision == "fp32" else config.set_flag
        change(self.trt.BuilderFlag.TF32)
        if targets:
            config.num_compute_capabilities = len(targets)
            for i, target in enumerate(targets):
                member = self.trt.ComputeCapability.__members__[target.upper().replace("_", "")]
                if config.set_compute_capability(member, i) is False:
                    raise UsageError(f"--target {target}: refused by {self.title}")

    @property
    def has_timing_cache(self) -> bool:
        """TensorRT-RTX times nothing when it builds, and has a deprecated shell of a cache."""
        return not self.rtx

    def create_context(self, engine: Any, runtime_cache: bytes | None) -> tuple[Any, Any]:
        """An execution context, and the runtime cache that it fills (None where there is none).

        TensorRT-RTX compiles its kernels when they first run, which the cache keeps, and makes
        graphs of its own.
        """
        if not self.rtx:
            return engine.create_execution_context(), None
        config = engine.create_runtime_config()
        cache = config.create_runtime_cache()
        if runtime_cache:
            cache.deserialize(runtime_cache)
        config.set_runtime_cache(cache)
        config.cuda_graph_strategy = self.trt.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE
        return engine.create_execution_context(config), cache

    def memory_size(self, engine: Any) -> int:
        """Bytes of device memory that a context of the engine needs for activations."""
        size = getattr(engine, "device_memory_size_v2", None)
        return int(engine.device_memory_size if size is None else size)


def load(names: Iterable[str] = NAMES) -> Flavour:
    """The first of these packages that is here and whole.

    Raises:
        Unavailable: none is; the message says why, for each.
    """
    reasons = []
    for name in names:
        try:
            module = import_module(name)
        except Exception as error:  # a package without its libraries raises what it likes
            reasons.append(f"{name}: {(str(error) or repr(error)).splitlines()[0]}")
            continue
        # PyPI has shells of `tensorrt` that import without their libraries.
        version = getattr(module, "__version__", None)
        if version is None or not hasattr(module, "Builder"):
            reasons.append(f"{name}: the package found here is not TensorRT")
        elif name == "tensorrt" and int(version.split(".")[0]) < OLDEST:
            reasons.append(f"tensorrt: is version {version}, expected {OLDEST} or later")
        else:
            return Flavour(module, name, version)
    raise Unavailable(f"TensorRT cannot be loaded ({'; '.join(reasons)}): {WAY}")


@functools.cache
def logger(trt: Any) -> Any:
    """The process's logger: TensorRT keeps the first that it is given. Its `errors` are text."""

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(" ".join(message.split()))

    return Log()
