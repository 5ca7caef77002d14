"""Which form and tile each convolution takes: a pure function of its shape and the architecture.

No GPU is asked and nothing is imported but the table's reader. A table of measured choices for one
kind of GPU lies in tuned/<gpu>.json, by `Shape.key`; shapes that are not in it, and GPUs without a
table, take the rule below, which was reasoned from the limits of each architecture and has not been
measured.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal

Form = Literal["apply", "fold", "on_load"]

SHARED_MEMORY = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Bytes of shared memory that one program may have; CUDA C++ programming guide, table of limits."""
PROCESSORS = {80: 108, 86: 84, 89: 142, 90: 132, 100: 148, 120: 188}
"""Multiprocessors of each architecture's large GPU, to decide how far small maps are split."""
BYTES = {"fp16": 2, "bf16": 2, "fp8": 1, "tf32": 4, "fp32": 4}
FOLD_PIXELS = 64 * 128
"""From this size of result on, half-pixel upsampling is folded."""


@dataclass(frozen=True)
class Shape:
    """One convolution, for one layout."""

    precision: str
    """Of its weights: one of BYTES."""
    height: int
    """Of the result."""
    width: int
    inputs: int
    """Channels of features; 0 for the layout alone."""
    classes: int
    """Channels of the layout; 0 for `conv`."""
    outputs: int
    upsampling: str = "none"
    """'none' for `conv` and the first stage."""

    @property
    def key(self) -> str:
        """As tables name it."""
        return (
            f"{self.precision} {self.height}x{self.width} {self.inputs}+{self.classes}"
            f"->{self.outputs} {self.upsampling}"
        )


@dataclass(frozen=True)
class Tile:
    """How one convolution is computed.

    Raises:
        ValueError: a size is no power of two, or out of range.
    """

    form: Form
    """'apply': activated first, then `convolve`; 'fold': `convolve` on the small map; 'on_load'."""
    rows: int
    """Box of pixels of one program."""
    wide: int
    outputs: int
    """Columns of one program."""
    depth: int
    """Channels of one product."""
    warps: int
    stages: int
    """Boxes that are on their way at once."""
    splits: int = 1
    """Programs that share one box's depth."""
    tma: bool = False
    """Boxes come through TMA descriptors."""
    specialised: bool = False
    """A warp of its own loads: `convolve_specialised`. The rule never says so, only tables do."""

    def __post_init__(self) -> None:
        sizes = (self.rows, self.wide, self.outputs, self.depth, self.warps)
        if any(size < 1 or size & (size - 1) for size in sizes):
            raise ValueError(f"tile {self}: sizes must be powers of two")
        if self.form not in ("apply", "fold", "on_load"):
            raise ValueError(f"tile {self}: form must be apply, fold or on_load")
        if min(self.rows * self.wide, self.outputs, self.depth) < 16:
            raise ValueError(f"tile {self}: pixels, outputs and depth must be 16 or more")
        if self.splits < 1 or self.stages < 1:
            raise ValueError(f"tile {self}: splits and stages must be 1 or more")
        if self.splits > 1 and self.form != "apply":
            raise ValueError(f"tile {self}: only the form apply can be split")
        if not self.specialised:
            return
        if self.form != "apply" or not self.tma or self.splits > 1:
            raise ValueError(f"tile {self}: specialised means the form apply, TMA and no splits")
        if self.warps % 4 or self.rows * self.wide % (16 * self.warps):
            raise ValueError(f"tile {self}: specialised means four warps for each 64 pixels")


def choose(shape: Shape, arch: int, table: Mapping[str, Tile] | None = None) -> Tile:
    """The tile for a convolution on sm_`arch`: the table's, else by rule.

    Raises:
        ValueError: the architecture is older than sm_80.
    """
    if table and shape.key in table:
        return table[shape.key]
    known = max((a for a in SHARED_MEMORY if a <= arch), default=None)
    if known is None:
        raise ValueError(f"the GPU is sm_{arch}; expected sm_80 or newer")
    fold = shape.upsampling == "half_pixel" and shape.precision != "fp8"
    fold = fold and shape.height * shape.width >= FOLD_PIXELS
    columns = shape.outputs * (4 if fold else 1)
    height, width = (shape.height // 2, shape.width // 2) if fold else (shape.height, shape.width)
    wide_word = shape.precision in ("fp32", "tf32")

    # 128x256 would spill with the two accumulators of fp8, and with the scattered stores of a fold.
    large = known in (90, 100) and shape.precision != "fp8" and not fold
    pixels = min(64 if wide_word else 128, max(64, power_of_two(height * width)))
    outputs = min(power_of_two(columns), 64 if wide_word else 256 if large else 128)
    outputs = outputs if shape.inputs else min(outputs, 64)  # for the layout alone
    depth = 32 if wide_word else 64 if known in (90, 100) or shape.precision == "fp8" else 32
    depth = min(depth * 2 if shape.precision == "fp8" and known in (90, 100) else depth, 128)
    depth = max(min(depth, power_of_two(shape.inputs)), 32 if shape.precision == "fp8" else 16)
    stage = (pixels + outputs) * depth * BYTES[shape.precision]
    # A third is left for the layout's boxes and for turning the result round.
    stages = max(2, min(4, SHARED_MEMORY[known] * 2 // 3 // stage))
    if known < 90 and shape.inputs <= depth:
        stages = min(stages, 2 if wide_word else 3)  # with a product a tap, more spill
    if known == 120:
        # With more, its assembler spills, as it stops at 128 registers.
        stages = 2 if shape.inputs else 1
    wide = min(power_of_two(width), pixels)
    tiles = -(-height // (pixels // wide)) * -(-width // wide) * -(-columns // outputs)
    steps = 9 * -(-shape.inputs // depth)
    splits = 1
    while not fold and tiles * splits * 2 <= PROCESSORS[known] and steps // (splits * 2) >= 8:
        splits *= 2
    return Tile(
        form="fold" if fold else "apply",
        rows=pixels // wide,
        wide=wide,
        outputs=outputs,
        depth=depth,
        warps=8 if pixels * outputs >= 128 * 128 else 4,
        stages=stages,
        splits=splits,
        tma=known >= 90,
    )


def power_of_two(value: int) -> int:
    """The next power of two, 16 at least."""
    return max(16, 1 << max(value - 1, 0).bit_length())


def table_path(gpu: str) -> Path:
    """Where the choices for a GPU lie, by the name that its driver gives it."""
    stem = re.sub(r"[^a-z0-9]+", "-", gpu.lower()).strip("-")
    return Path(__file__).parent / "tuned" / f"{stem}.json"


def read_table(path: Path) -> dict[str, Tile]:
    """Measured choices by `Shape.key`; none where there is no such file.

    Raises:
        ValueError: the file is no such table.
    """
    if not path.exists():
        return {}
    return parse_table(path.read_text("utf-8"), str(path))


def parse_table(text: str, source: str) -> dict[str, Tile]:
    """As `read_table`, from its text; `source` is named in errors."""
    try:
        entries: Any = json.loads(text)
        return {key: Tile(**fields) for key, fields in entries.items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{source}: not a table of tiles ({error})") from None


def format_table(table: Mapping[str, Tile]) -> str:
    """The text that `parse_table` reads."""
    return json.dumps({key: asdict(tile) for key, tile in sorted(table.items())}, indent=1)


def shared_bytes(tile: Tile, precision: str) -> int:
    """Shared memory that the boxes on their way take, in bytes."""
    return prod((tile.rows * tile.wide + tile.outputs, tile.depth, tile.stages)) * BYTES[precision]
