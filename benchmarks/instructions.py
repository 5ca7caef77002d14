"""Counts the instructions of each native op under callgrind, against a committed table.

    python benchmarks/instructions.py             # `make instructions`
    python benchmarks/instructions.py --accept    # writes this compiler's table anew

Machines differ in time and share this count, so it guards a kernel where no clock can. It says
nothing of caches or of how many instructions a CPU does at once. Valgrind knows no AVX-512: counted
are the other instruction sets, which the same sources are compiled for.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import numpy as np

from crn_fast.errors import CheckFailed, CrnError, Unavailable
from crn_fast.files import write_bytes
from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import pack_convolution, pack_head

TABLE = Path(__file__).with_suffix(".json")
LIMIT = 0.01
"""Share by which a count may exceed the table's."""
ACCEPT = "make instructions ACCEPT=1"
MARKER = "getpgid"
"""A C function that nothing else calls here: before each call callgrind writes its count and starts
at zero."""
CLASSES, CHANNELS, HEIGHT, WIDTH = 12, 32, 46, 50

Run = Callable[[], object]


def label_pyramid(isa: str) -> Run:
    labels = _rng().integers(0, CLASSES, (1, 128, 256), dtype=np.uint8)
    return lambda: cpu.label_pyramid(labels, CLASSES, 5, threads=1)


def refine_layout(isa: str) -> Run:
    """Below full size, where the layout is concatenated; tiles of 4 x 4."""
    layout = _rng().random((1, CLASSES, HEIGHT, WIDTH), dtype=np.float32)
    return _refine(layout, 4, isa)


def refine_ids(isa: str) -> Run:
    """At full size, where the layout is looked up; tiles of 6 x 6."""
    ids = _rng().integers(0, CLASSES, (1, HEIGHT, WIDTH), dtype=np.uint8)
    ids[:, :, WIDTH // 2 :] = 3  # as in layouts, whole windows of one class
    return _refine(ids, 6, isa)


def conv_1x1(isa: str) -> Run:
    return _conv(1, isa)


def conv_4x4(isa: str) -> Run:
    return _conv(4, isa)


def conv_6x6(isa: str) -> Run:
    return _conv(6, isa)


def head(isa: str) -> Run:
    rng, features = _rng(), _features(HEIGHT, WIDTH)
    packed = pack_head(rng.random((27, CHANNELS), np.float32), rng.random(27, np.float32))
    weights = SimpleNamespace(weight=packed[0], bias=packed[1])
    return lambda: cpu.head(features, weights, 1, isa)


def to_uint8(isa: str) -> Run:
    rgb = _rng().random((1, 1, 128, 256, 3), np.float32) * 300 - 20
    return lambda: cpu.to_uint8(rgb, 1)


ISAS = ("avx2", "portable")
BASELINE = "baseline"
"""What is compiled once, for the oldest CPU."""
OPS: dict[str, tuple[Callable[[str], Run], Sequence[str]]] = {
    make.__name__: (make, isas)
    for make, isas in (
        (label_pyramid, (BASELINE,)),
        (refine_layout, ISAS),
        (refine_ids, ISAS),
        (conv_1x1, ISAS),
        (conv_4x4, ISAS),
        (conv_6x6, ISAS),
        (head, ISAS),
        (to_uint8, (BASELINE,)),
    )
}
"""Name -> what makes a call of it with small fixed inputs, and the instruction sets it has."""


def count(names: Sequence[str]) -> list[int]:
    """Instructions of one call of each: what two calls take more than one.

    Args:
        names: 'conv_4x4, avx2': of `OPS`, and of its instruction sets.

    Raises:
        Unavailable: no valgrind here, or no compiled module, or it fails.
    """
    valgrind = shutil.which("valgrind")
    if not valgrind:
        raise Unavailable("valgrind is not installed; `apt-get install valgrind` brings it")
    if reason := cpu.available():
        raise Unavailable(reason)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "count"
        command = [
            *(valgrind, "--tool=callgrind", f"--dump-before={MARKER}"),
            *(f"--callgrind-out-file={out}", sys.executable, __file__, "--child", *names),
        ]
        environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"}
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode:
            raise Unavailable(f"valgrind: exit {result.returncode}: {result.stderr[-300:]}")
        dumps = [_total(Path(f"{out}.{index + 1}")) for index in range(3 * len(names))]
    return [dumps[at + 2] - dumps[at + 1] for at in range(0, len(dumps), 3)]


def compare(found: Mapping[str, int], table: Mapping[str, int]) -> None:
    """Check counts against a table.

    Raises:
        CheckFailed: an op takes more than the table's count and `LIMIT`, or is not in the table.
    """
    if missing := sorted(found.keys() - table.keys()):
        raise CheckFailed(f"{missing[0]}: not in {TABLE.name}; put it there with `{ACCEPT}`")
    worse = {
        name: n / table[name] - 1 for name, n in found.items() if n > table[name] * (1 + LIMIT)
    }
    if worse:
        name, more = max(worse.items(), key=lambda item: item[1])
        others = f" (and {len(worse) - 1} more ops)" if len(worse) > 1 else ""
        raise CheckFailed(
            f"{name}: {found[name]:,} instructions, {more:.1%} more than the {table[name]:,} of "
            f"{TABLE.name}{others}; allowed are {LIMIT:.0%}: find what slowed it, or accept "
            f"the new counts with `{ACCEPT}`"
        )


def compiler() -> str:
    """What compiled the module, as it says itself, and for which CPUs: 'GCC 12.2.0, x86_64'."""
    module = Path(str(cpu.load().__file__)).read_bytes()
    for name, mark in (("Clang", rb"clang version ([\d.]+)"), ("GCC", rb"GCC: \(.*?\) ([\d.]+)")):
        if match := re.search(mark, module):
            return f"{name} {match[1].decode()}, {platform.machine()}"
    return f"unknown, {platform.machine()}"


def supported() -> list[str]:
    """Names of all ops with each instruction set that valgrind and the compiled module have."""
    known = {BASELINE, *cpu.instruction_sets()}
    return [f"{op}, {isa}" for op, (_, isas) in OPS.items() for isa in isas if isa in known]


def _child(names: Sequence[str]) -> None:
    """Under callgrind: each op once, so that all is loaded, then once and twice between marks."""
    gc.disable()
    for name in names:
        op, _, isa = name.partition(", ")
        run = OPS[op][0](isa)
        run()
        os.getpgid(0)
        run()
        os.getpgid(0)
        run()
        run()
        os.getpgid(0)


def _total(path: Path) -> int:
    try:
        match = re.search(r"^totals: (\d+)$", path.read_text(), re.MULTILINE)
    except OSError as error:
        raise Unavailable(f"callgrind wrote no {path.name} ({error.strerror})") from None
    assert match
    return int(match[1])


def _rng() -> np.random.Generator:
    return np.random.default_rng(0)


def _features(height: int, width: int) -> cpu.Features:
    rng = _rng()
    scale, shift = (rng.random((1, CHANNELS), np.float32) - 0.4 for _ in range(2))
    return cpu.Features(rng.random((1, height, width, CHANNELS), np.float32), scale, shift)


def _weights(classes: int, tile: int, ids: bool) -> Any:
    rng = _rng()
    plain = rng.random((CHANNELS, CHANNELS + classes, 3, 3), np.float32) - 0.5
    packed = pack_convolution(plain, CHANNELS, tile, ids, 1)
    return SimpleNamespace(
        weight=packed, gamma=rng.random(CHANNELS, np.float32), beta=rng.random(CHANNELS, np.float32)
    )


def _refine(layout: np.ndarray, tile: int, isa: str) -> Run:
    features = _features(HEIGHT // 2, WIDTH // 2)
    weights = _weights(CLASSES, tile, layout.dtype == np.uint8)
    return lambda: cpu.refine(features, layout, weights, "align_corners", 1, isa)


def _conv(tile: int, isa: str) -> Run:
    features, weights = _features(HEIGHT, WIDTH), _weights(0, tile, False)
    return lambda: cpu.conv(features, weights, 1, isa)


@click.command()
@click.option("--accept", is_flag=True, help="Write this compiler's table anew.")
@click.option("--child", is_flag=True, hidden=True)
@click.argument("names", nargs=-1)
def main(accept: bool, child: bool, names: tuple[str, ...]) -> None:
    """Count instructions; exit 7 where an op takes more than the table says."""
    if child:
        return _child(names)
    chosen = list(names) or supported()
    found = dict(zip(chosen, count(chosen), strict=True))
    tables = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    table = tables.get(compiler(), {})
    for name, counted in found.items():
        change = f"{counted / table[name] - 1:+.2%}" if name in table else "new"
        click.echo(f"{name:24} {counted:12,} {change}")
    if accept:
        tables[compiler()] = {**table, **found}
        text = json.dumps(tables, indent=2) + "\n"
        write_bytes(TABLE, text.encode())
        click.echo(f"{TABLE.name}: accepted for {compiler()}")
    elif not table:
        known = ", ".join(tables) or "none"
        click.echo(f"no table for this compiler ({compiler()}; there are: {known}): not compared")
    else:
        compare(found, table)


if __name__ == "__main__":
    try:
        main()
    except CrnError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
