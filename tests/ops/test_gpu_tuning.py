"""The choice of tiles: pure arithmetic, for every preset on every architecture."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from crn_fast.kernels.gpu.tuning import (
    BYTES,
    SHARED_MEMORY,
    Shape,
    Tile,
    choose,
    format_table,
    parse_table,
    read_table,
    shared_bytes,
    table_path,
)
from crn_fast.spec import PRESETS

GOOD = Tile("apply", rows=1, wide=128, outputs=64, depth=32, warps=4, stages=3)


def shapes(preset: str, precision: str, upsampling: str) -> list[Shape]:
    found = []
    for stage in PRESETS[preset].stages:
        size = (precision, stage.height, stage.width)
        first = upsampling if stage.features else "none"
        found.append(Shape(*size, stage.features, stage.classes, stage.channels, first))
        found.append(Shape(*size, stage.channels, 0, stage.channels))
    return found


@pytest.mark.parametrize(
    ("preset", "precision", "upsampling"),
    list(itertools.product(PRESETS, BYTES, ["align_corners", "half_pixel"])),
)
def test_every_tile_fits(preset: str, precision: str, upsampling: str) -> None:
    for arch in (*SHARED_MEMORY, 87, 103, 121):
        for shape in shapes(preset, precision, upsampling):
            tile = choose(shape, arch)
            limit = SHARED_MEMORY[max(known for known in SHARED_MEMORY if known <= arch)]
            assert shared_bytes(tile, precision) <= limit * 2 // 3 or tile.stages == 2
            assert tile.tma == (arch >= 90) and not tile.specialised
            assert tile.form in (("apply",) if upsampling != "half_pixel" else ("apply", "fold"))
            assert precision != "fp8" or tile.form == "apply"
            assert tile.splits <= max(1, 9 * shape.inputs // tile.depth)


def test_small_maps_are_split_and_large_ones_are_not() -> None:
    assert choose(Shape("fp16", 8, 16, 1024, 0, 1024), 90).splits >= 8
    assert choose(Shape("fp16", 256, 512, 512, 0, 512), 90).splits == 1


def test_an_old_gpu_is_refused() -> None:
    with pytest.raises(ValueError, match="sm_75; expected sm_80 or newer"):
        choose(Shape("fp16", 8, 16, 64, 0, 64), 75)


def test_a_table_wins_and_survives_its_file(tmp_path: Path) -> None:
    shape = Shape("fp16", 256, 512, 512, 20, 512, "align_corners")
    assert shape.key == "fp16 256x512 512+20->512 align_corners"
    table = parse_table(format_table({shape.key: GOOD}), "x")
    assert table == {shape.key: GOOD}
    assert choose(shape, 90, table) == GOOD
    assert choose(dataclasses.replace(shape, outputs=511), 90, table) != GOOD
    assert read_table(tmp_path / "none.json") == {}
    assert table_path("NVIDIA H200 (SXM)").name == "nvidia-h200-sxm.json"


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', '{"a": {"form": "apply"}}'])
def test_a_damaged_table_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"h200\.json: not a table of tiles"):
        parse_table(text, "h200.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"wide": 100}, "powers of two"),
        ({"outputs": 8}, "16 or more"),
        ({"form": "magic"}, "form must be"),
        ({"stages": 0}, "1 or more"),
        ({"form": "fold", "splits": 2}, "only the form apply"),
        ({"specialised": True}, "specialised means the form apply, TMA"),
        ({"specialised": True, "tma": True, "splits": 2}, "no splits"),
        ({"specialised": True, "tma": True, "wide": 32}, "four warps for each 64 pixels"),
    ],
)
def test_impossible_tiles_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(GOOD, **change)  # type: ignore[arg-type]
