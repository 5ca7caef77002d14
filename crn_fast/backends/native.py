"""The cascade through the C++ ops, on a CPU: float32, without torch.

An engine file holds, under the names of `CascadeSpec.tensors`:

- `stages.I.convJ.weight` float32 [C_out / 16, positions, C_in, 16]: transformed for tiles of 1x1
  (9 positions: the kernel itself), 4x4 (36) or 6x6 (64) outputs; C_in is the features, padded to a
  multiple of 16, and then the layout's classes.
- `stages.I.convJ.gamma`, `.beta` [C_out], as they are.
- `head.weight` [3K / 16, C, 16] and `head.bias` [3K], image by image.

and besides them `stages.I.conv1.table` [10, classes, C_out] for the last stage, whose layout comes
as ids: its weights at each tap, and their sum. Its `weight` has the features alone.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from threading import Lock

import numpy as np

from crn_fast import cascade, container
from crn_fast.backends import require_precision, thread_count
from crn_fast.cascade import ConvWeights, HeadWeights
from crn_fast.errors import BadInput, Unavailable, UsageError
from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import TILES, Packed, pack_convolution, pack_head, padded
from crn_fast.kernels.cpu.tuning import Shape, default_tile, fastest_tile
from crn_fast.memory import shortage
from crn_fast.spec import CascadeSpec
from crn_fast.weights import arrange

PRECISIONS = ("fp32",)
OPTIONS = ("tune", "progress")
EXECUTABLE = False
TILE_VARIABLE = "CRN_FAST_TILE"
"""Environment variable that forces the side of the tiles when weights are packed: 1, 4 or 6."""
LEAN_BYTES = 512 << 20
"""Above this, weights that are mapped from an engine file are given back after each use. They stay
in the system's page cache; to map them again costs a few hundredths of the time of a picture."""


def available() -> str | None:
    """None when the compiled ops load, else the way to get them."""
    return cpu.available()


available_to_build = available


def available_to_open() -> str | None:
    """As `available`."""
    return available()


def pack(
    spec: CascadeSpec,
    tensors: Mapping[str, np.ndarray],
    precision: str,
    tune: bool = False,
    progress: Callable[[str, int, int], None] = lambda phase, done, steps: None,
) -> dict[str, np.ndarray]:
    """The tensors that an engine file holds: see the top of this file.

    Args:
        spec: the network's.
        tensors: its weights.
        precision: 'auto' or 'fp32'.
        tune: time the tiles of every convolution on this CPU, and take the fastest, where
            otherwise a rule decides.
        progress: called with what is done, the steps done and their number.

    Raises:
        UsageError: $CRN_FAST_TILE is no side of a tile.
    """
    packed = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    forced, convolutions = _forced_tile(), list(_convolutions(spec))
    for done, (stem, shape) in enumerate(convolutions):
        progress("tune" if tune else "pack", done, len(convolutions))
        tile = forced or (fastest_tile(shape) if tune else default_tile(shape.height, shape.width))
        found = pack_convolution(packed[f"{stem}.weight"], shape.features, tile, shape.ids)
        packed[f"{stem}.weight"] = found.weight
        if found.table is not None:
            packed[f"{stem}.table"] = found.table
    head = pack_head(packed["head.weight"], packed["head.bias"])
    packed["head.weight"], packed["head.bias"] = head
    return packed


prepare = pack


def _convolutions(spec: CascadeSpec) -> Iterator[tuple[str, Shape]]:
    """Each convolution by the stem of its tensors' names."""
    last = len(spec.stages) - 1
    for stage in spec.stages:
        size, stem = (stage.height, stage.width), f"stages.{stage.index}"
        ids = stage.index == last
        yield f"{stem}.conv1", Shape(*size, stage.features, stage.classes, stage.channels, ids)
        yield f"{stem}.conv2", Shape(*size, stage.channels, 0, stage.channels, False)


def _forced_tile() -> int | None:
    forced = os.environ.get(TILE_VARIABLE)
    if forced is not None and forced not in map(str, TILES):
        raise UsageError(
            f"{TILE_VARIABLE} is {forced!r}; expected one of {', '.join(map(str, TILES))}"
        )
    return int(forced) if forced else None


def check(source: str, spec: CascadeSpec, packed: Mapping[str, np.ndarray]) -> None:
    """BadInput unless `packed` is what `pack` gives for this spec, for any choice of tiles.

    Values are not looked at, for that would read gigabytes: those of a checkpoint are finite.
    """
    shapes = _shapes(spec)
    if wrong := sorted(shapes.keys() ^ packed.keys()):
        state = "missing" if wrong[0] in shapes else "unexpected"
        raise BadInput(f"{source}: its tensors do not fit its spec: {state} {wrong[0]}")
    for name, expected in shapes.items():
        found = packed[name]
        if found.dtype != np.float32 or found.shape not in expected:
            shape = " or ".join(map(str, expected))
            raise BadInput(
                f"{source}: tensor {name} is {found.dtype} {found.shape}; its spec says float32 "
                f"{shape}"
            )


def _shapes(spec: CascadeSpec) -> dict[str, list[tuple[int, ...]]]:
    """The shapes that each packed tensor may have."""
    shapes = {name: [shape] for name, shape in spec.tensors().items()}
    last = spec.stages[-1]
    for stage in spec.stages:
        layout = 0 if stage is last else stage.classes
        inputs = {"conv1": padded(stage.features) + layout, "conv2": padded(stage.channels)}
        for conv, channels in inputs.items():
            shapes[f"stages.{stage.index}.{conv}.weight"] = [
                (padded(stage.channels) // 16, (side + 2) ** 2, channels, 16) for side in TILES
            ]
    shapes[f"stages.{last.index}.conv1.table"] = [(10, spec.classes, padded(last.channels))]
    outputs = padded(3 * spec.images) // 16
    shapes["head.weight"] = [(outputs, padded(last.channels), 16)]
    return shapes


def load(
    spec: CascadeSpec,
    packed: Mapping[str, np.ndarray],
    precision: str,
    device: int | None,
    threads: int | None,
) -> NativeRenderer:
    """Make packed weights ready to run.

    Raises:
        Unavailable: a GPU or another precision was asked for.
        UsageError: an unknown precision, `threads` out of range, or $CRN_FAST_ISA is none that
            this CPU runs.
    """
    if device is not None:
        raise Unavailable(
            f"--device {device}: the backend native runs on the CPU; leave it out, or take "
            "`--backend eager`"
        )
    require_precision("native", precision, PRECISIONS)
    usable = cpu.instruction_sets()
    isa = os.environ.get(cpu.ISA_VARIABLE) or usable[0]
    if isa not in usable:
        raise UsageError(
            f"{cpu.ISA_VARIABLE} is {isa!r}; expected one that this CPU runs: {', '.join(usable)}"
        )
    return NativeRenderer(spec, packed, thread_count(threads), isa)


class NativeOps:
    """The op table: the C++ ops with a number of threads and an instruction set.

    Features lie in one of two memories, by turns, which stay: to take fresh memory for each costs
    a tenth of the time of a small network's picture. So one call of `synthesize` at a time.

    Args:
        threads: as for the ops.
        isa: as for the ops.
        floats: of a layout's largest features.
        lean: keep no weights in memory but those in use, where they are mapped from a file.
    """

    def __init__(self, threads: int, isa: str, floats: int, lean: bool) -> None:
        self.threads, self.isa, self.lean = threads, isa, lean
        self.floats = floats
        self.memories: list[np.ndarray] = []

    def label_pyramid(self, labels: np.ndarray, classes: int, stages: int) -> list[np.ndarray]:
        floats = len(labels) * self.floats
        if not self.memories or self.memories[0].size != floats:
            self.memories.clear()
            self.memories += [np.empty(floats, np.float32) for _ in range(2)]
        return [*cpu.label_pyramid(labels, classes, stages - 1, self.threads), labels]

    def refine(
        self,
        features: cpu.Features | None,
        layout: np.ndarray,
        weights: ConvWeights,
        upsampling: str,
    ) -> cpu.Features:
        out = self._other(features)
        found = cpu.refine(features, layout, weights, upsampling, self.threads, self.isa, out)
        self._used(weights)
        return found

    def conv(self, features: cpu.Features, weights: ConvWeights) -> cpu.Features:
        found = cpu.conv(features, weights, self.threads, self.isa, self._other(features))
        self._used(weights)
        return found

    def head(self, features: cpu.Features, weights: HeadWeights) -> np.ndarray:
        return cpu.head(features, weights, self.threads, self.isa)

    def to_uint8(self, rgb: np.ndarray) -> np.ndarray:
        return cpu.to_uint8(rgb, self.threads)

    def _other(self, features: cpu.Features | None) -> np.ndarray:
        first = features is not None and np.may_share_memory(features.raw, self.memories[0])
        return self.memories[first]

    def _used(self, weights: ConvWeights) -> None:
        if self.lean:
            container.release(weights.weight.weight)


class NativeRenderer:
    """The network's packed weights and an op table."""

    def __init__(
        self, spec: CascadeSpec, packed: Mapping[str, np.ndarray], threads: int, isa: str
    ) -> None:
        tensors = {
            name: Packed(tensor, packed.get(name.replace("weight", "table")))
            if name.startswith("stages.") and name.endswith("weight")
            else tensor
            for name, tensor in packed.items()
        }
        self.spec, self.precision = spec, "fp32"
        self.weights = arrange(spec, tensors)
        lean = sum(tensor.nbytes for tensor in packed.values()) > LEAN_BYTES
        floats = max(stage.height * stage.width * padded(stage.channels) for stage in spec.stages)
        self.ops = NativeOps(threads, isa, floats, lean)
        self._one_at_a_time = Lock()
        self.device = f"cpu, {threads} threads, {isa}"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: out of memory; needed and free are named.
        """
        ids = np.ascontiguousarray(labels)
        try:
            with self._one_at_a_time:
                pictures: np.ndarray = cascade.render(self.ops, self.spec, self.weights, ids)
            return pictures
        except MemoryError as error:
            raise shortage(self.device, error) from None
