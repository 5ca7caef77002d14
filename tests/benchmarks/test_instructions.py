"""The guard of instruction counts: counts repeat, and a kernel that takes more is caught."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner

pytest.importorskip("instructions", reason="benchmarks/ is not in the sdist")

import instructions
from crn_fast.errors import CheckFailed, Unavailable
from crn_fast.kernels import cpu

needs_kernels = pytest.mark.skipif(
    cpu.available() is not None, reason="the C++ ops are not compiled"
)


@pytest.mark.slow
@needs_kernels
@pytest.mark.skipif(not shutil.which("valgrind"), reason="valgrind is not installed")
def test_counts_repeat_and_a_slower_kernel_is_caught() -> None:
    quick, slow = "conv_6x6, portable", "conv_1x1, portable"
    first, again, other = instructions.count([quick, quick, slow])
    assert again == pytest.approx(first, rel=1e-3)
    assert first > 1e6
    instructions.compare({quick: again}, {quick: first})
    # The same result by the direct convolution, as if F(6x6) had become so slow.
    with pytest.raises(CheckFailed, match=f"{quick}: {other:,} instructions, .* the {first:,} of"):
        instructions.compare({quick: other}, {quick: first})


def test_the_worst_op_is_named_with_the_way_to_accept() -> None:
    table = {"head, avx2": 1000, "conv_1x1, avx2": 1000}
    instructions.compare({"head, avx2": 1010, "conv_1x1, avx2": 500}, table)
    with pytest.raises(CheckFailed) as caught:
        instructions.compare({"head, avx2": 1011, "conv_1x1, avx2": 1500}, table)
    assert str(caught.value).startswith(
        "conv_1x1, avx2: 1,500 instructions, 50.0% more than the 1,000 of instructions.json "
        "(and 1 more ops); allowed are 1%"
    )
    assert instructions.ACCEPT in str(caught.value) and caught.value.exit_code == 7
    with pytest.raises(CheckFailed, match=r"to_uint8, baseline: not in instructions\.json"):
        instructions.compare({"to_uint8, baseline": 1}, table)


def test_the_table_names_every_op_for_each_compiler() -> None:
    tables = json.loads(instructions.TABLE.read_text())
    names = {f"{op}, {isa}" for op, (_, isas) in instructions.OPS.items() for isa in isas}
    assert tables and all(set(table) <= names for table in tables.values())


@needs_kernels
def test_another_compiler_has_no_table_and_fails_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instructions, "count", lambda names: [1] * len(names))
    monkeypatch.setattr(instructions, "compiler", lambda: "Clang 99.0, mips")
    result = CliRunner().invoke(instructions.main, ["head, portable"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "no table for this compiler (Clang 99.0, mips;" in result.output


@needs_kernels
def test_the_compiler_is_read_from_the_module() -> None:
    assert instructions.compiler().partition(" ")[0] in ("GCC", "Clang")


def test_without_valgrind_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(Unavailable, match="valgrind is not installed"):
        instructions.count(["head, portable"])
