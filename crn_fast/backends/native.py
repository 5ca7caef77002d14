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
from collections.abc import Mapping

import numpy as np

from crn_fast import cascade, container
from crn_fast.backends import thread_count
from crn_fast.cascade import ConvWeights, HeadWeights
from crn_fast.errors import BadInput, ResourceError, Unavailable, UsageError
from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import TILES, Packed, pack_convolution, pack_head, padded
from crn_fast.spec import CascadeSpec, StageSpec
from crn_fast.weights import arrange

PRECISIONS = ("fp32",)
OPTIONS: tuple[str, ...] = ()
EXECUTABLE = False
TILE_VARIABLE = "CRN_FAST_TILE"
"""Environment variable that forces the side of the tiles when weights are packed: 1, 4 or 6."""
DIRECT_PIXELS = 128
"""Up to this size a stage is bound by reading its weights, of which F(4x4) has four times more."""
LEAN_BYTES = 512 << 20
"""Above this, weights that are mapped from an engine file are given back after each use. They stay
in the system's page cache; to map them again costs a few hundredths of the time of a picture."""
LARGE_PIXELS = 64 * 128
"""From this size on, F(6x6) gains more than reading its weights costs, 1.8 times as many."""


def available() -> str | None:
    """None when the compiled ops load, else the way to get them."""
    return cpu.available()


available_to_build = available


def pack(
    spec: CascadeSpec, tensors: Mapping[str, np.ndarray], precision: str
) -> dict[str, np.ndarray]:
    """The tensors that an engine file holds: see the top of this file.

    Raises:
        UsageError: $CRN_FAST_TILE is no side of a tile.
    """
    packed = {name: np.asarray(tensor, np.float32) for name, tensor in tensors.items()}
    last = len(spec.stages) - 1
    for stage in spec.stages:
        side = _tile(stage)
        for conv, features in (("conv1", stage.features), ("conv2", stage.channels)):
            stem = f"stages.{stage.index}.{conv}"
            ids = stage.index == last and conv == "conv1"
            found = pack_convolution(packed[f"{stem}.weight"], features, side, ids)
            packed[f"{stem}.weight"] = found.weight
            if found.table is not None:
                packed[f"{stem}.table"] = found.table
    head = pack_head(packed["head.weight"], packed["head.bias"])
    packed["head.weight"], packed["head.bias"] = head
    return packed


def _tile(stage: StageSpec) -> int:
    forced = os.environ.get(TILE_VARIABLE)
    if forced is None:
        pixels = stage.height * stage.width
        return 1 if pixels <= DIRECT_PIXELS else 4 if pixels < LARGE_PIXELS else 6
    if forced not in map(str, TILES):
        raise UsageError(
            f"{TILE_VARIABLE} is {forced!r}; expected one of {', '.join(map(str, TILES))}"
        )
    return int(forced)


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
        Unavailable: a GPU was asked for.
        UsageError: an unknown precision, `threads` out of range, or $CRN_FAST_ISA is none that
            this CPU runs.
    """
    if device is not None:
        raise Unavailable(
            f"--device {device}: the backend native runs on the CPU; leave it out, or take "
            "--backend eager"
        )
    if precision not in ("auto", *PRECISIONS):
        raise UsageError(f"native: precision is {precision!r}; expected {', '.join(PRECISIONS)}")
    usable = cpu.instruction_sets()
    isa = os.environ.get(cpu.ISA_VARIABLE) or usable[0]
    if isa not in usable:
        raise UsageError(
            f"{cpu.ISA_VARIABLE} is {isa!r}; expected one that this CPU runs: {', '.join(usable)}"
        )
    return NativeRenderer(spec, packed, thread_count(threads), isa)


class NativeOps:
    """The op table: the C++ ops with a number of threads and an instruction set.

    A `lean` one keeps no weights in memory but those in use, where they are mapped from a file.
    """

    def __init__(self, threads: int, isa: str, lean: bool) -> None:
        self.threads, self.isa, self.lean = threads, isa, lean

    def label_pyramid(self, labels: np.ndarray, classes: int, stages: int) -> list[np.ndarray]:
        return [*cpu.label_pyramid(labels, classes, stages - 1, self.threads), labels]

    def refine(
        self,
        features: cpu.Features | None,
        layout: np.ndarray,
        weights: ConvWeights,
        upsampling: str,
    ) -> cpu.Features:
        raw = cpu.refine(features, layout, weights, upsampling, self.threads, self.isa)
        self._used(weights)
        return raw

    def conv(self, features: cpu.Features, weights: ConvWeights) -> cpu.Features:
        raw = cpu.conv(features, weights, self.threads, self.isa)
        self._used(weights)
        return raw

    def head(self, features: cpu.Features, weights: HeadWeights) -> np.ndarray:
        return cpu.head(features, weights, self.threads, self.isa)

    def to_uint8(self, rgb: np.ndarray) -> np.ndarray:
        return cpu.to_uint8(rgb, self.threads)

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
        self.ops = NativeOps(threads, isa, lean)
        self.device = f"cpu, {threads} threads, {isa}"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Labels uint8 [N, H, W], checked -> uint8 RGB [N, K, H, W, 3].

        Raises:
            ResourceError: out of memory.
        """
        try:
            pictures: np.ndarray = cascade.render(
                self.ops, self.spec, self.weights, np.ascontiguousarray(labels)
            )
            return pictures
        except MemoryError as error:
            raise ResourceError(
                f"{self.device}: out of memory ({error}); try fewer layouts"
            ) from None
