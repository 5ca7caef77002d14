"""The C++ conv against the reference in float64, on every path that this CPU has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("torch", reason="the reference ops need torch")

from crn_fast.kernels import cpu, reference
from crn_fast.kernels.cpu.packing import TILES
from ops import native_ops
from ops.native_ops import ISAS, Made, assert_features, assert_same_bits, poisoned_memory


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", TILES)
@pytest.mark.parametrize(
    ("n", "inputs", "outputs", "height", "width"),
    [(1, 1, 3, 1, 1), (2, 7, 9, 5, 3), (1, 40, 33, 13, 17), (3, 16, 65, 6, 8), (1, 24, 16, 1, 50)],
)
def test_matches_the_reference(
    n: int, inputs: int, outputs: int, height: int, width: int, tile: int, isa: str
) -> None:
    made = Made()
    features, plain = made.features(n, inputs, height, width)
    packed, weights = made.weights(inputs, 0, outputs, tile)
    with poisoned_memory() as asked:
        found = cpu.conv(features, packed, 2, isa)
    assert asked == [array.shape for array in found], "the memory was not all poisoned"
    assert_features(found, reference.conv(plain, weights), tile)


@settings(deadline=None)
@given(
    n=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    size=st.tuples(st.integers(1, 30), st.integers(1, 30)),
    tile=st.sampled_from(TILES),
    isa=st.sampled_from(ISAS or [""]),
    threads=st.integers(0, 4),
    seed=st.integers(0, 2**32 - 1),
)
def test_matches_the_reference_anywhere(
    n: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    tile: int,
    isa: str,
    threads: int,
    seed: int,
) -> None:
    if n * channels[1] * size[0] * size[1] < 3:
        size = (3, 3)
    made = Made(seed)
    features, plain = made.features(n, channels[0], *size)
    packed, weights = made.weights(channels[0], 0, channels[1], tile)
    found = cpu.conv(features, packed, threads, isa)
    assert_features(found, reference.conv(plain, weights), tile)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    ("inputs", "outputs", "size", "tile"),
    [
        (32, 16, (150, 130), 4),
        (256, 200, (40, 44), 4),
        (256, 300, (40, 44), 6),
        (64, 80, (9, 9), 1),
    ],
)
def test_the_same_bits_for_any_number_of_threads(
    inputs: int, outputs: int, size: tuple[int, int], tile: int, isa: str
) -> None:
    """Several blocks, both where threads share a block and where each has its own."""
    made = Made()
    features, plain = made.features(2, inputs, *size)
    packed, weights = made.weights(inputs, 0, outputs, tile)
    one = cpu.conv(features, packed, 1, isa)
    assert_features(one, reference.conv(plain, weights), tile)
    for threads in (1, 2, 3, 5, 64):
        assert_same_bits(cpu.conv(features, packed, threads, isa), one)


def test_a_large_mean_does_not_spoil_the_variance() -> None:
    """E[x^2] - E[x]^2 in float32 would lose all digits here."""
    made = Made()
    features, plain = made.features(1, 16, 40, 40)
    features.shift[...] = 1000
    plain = native_ops.as_reference(features, 16)
    packed, weights = made.weights(16, 0, 1, 1)
    interior_only = np.zeros((1, 16, 3, 3), np.float32)
    interior_only[0, :, 1, 1] = 1
    packed.weight = native_ops.pack_convolution(interior_only, 16, 1, False)
    weights.weight = native_ops.torch.from_numpy(interior_only).double()
    found, oracle = cpu.conv(features, packed), reference.conv(plain, weights)
    np.testing.assert_allclose(found.scale[:, :1], oracle.scale, rtol=1e-4)


def test_the_output_may_lie_in_given_memory() -> None:
    made = Made()
    features, _ = made.features(2, 24, 9, 7)
    packed, _ = made.weights(24, 0, 20, 4)
    expected = cpu.conv(features, packed)
    memory = np.full(expected.raw.size + 5, np.nan, np.float32)
    found = cpu.conv(features, packed, out=memory)
    assert_same_bits(found, expected)
    assert np.shares_memory(found.raw, memory)
    assert np.isnan(memory[expected.raw.size :]).all()
    with pytest.raises(ValueError, match=f"out has 9 floats; expected at least {found.raw.size}"):
        cpu.conv(features, packed, out=memory[:9])
    with pytest.raises(ValueError, match=r"expected at least .* that may be written"):
        cpu.conv(features, packed, out=np.frombuffer(memory.tobytes(), np.float32))
    with pytest.raises(ValueError, match="out has a stride of 2"):
        cpu.conv(features, packed, out=np.zeros(2 * memory.size, np.float32)[::2])
    inside = np.zeros(memory.size + features.raw.size, np.float32)
    raw = inside[: features.raw.size].reshape(features.raw.shape)
    with pytest.raises(ValueError, match="conv: out overlaps raw"):
        cpu.conv(features._replace(raw=raw), packed, out=inside[features.raw.size - 1 :])
    beside = np.zeros(found.raw.size + 20, np.float32)
    packed.beta = beside[-20:]
    cpu.conv(features, packed, out=beside)
    packed.beta = beside[-21:-1]
    with pytest.raises(ValueError, match="conv: out overlaps beta"):
        cpu.conv(features, packed, out=beside)


def test_two_python_threads_at_once() -> None:
    made = Made()
    features, _ = made.features(1, 48, 60, 60)
    packed, _ = made.weights(48, 0, 48, 4)
    expected = cpu.conv(features, packed, 1)
    found: list[cpu.Features] = []
    workers = [
        threading.Thread(target=lambda: found.append(cpu.conv(features, packed, 2)))
        for _ in range(4)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 4
    for each in found:
        assert_same_bits(each, expected)


def misaligned(array: np.ndarray) -> np.ndarray:
    memory = np.zeros(array.nbytes + 1, np.uint8)
    view: np.ndarray = memory[1:].view(array.dtype).reshape(array.shape)
    view[...] = array
    return view


GOOD, _ = Made().features(2, 16, 5, 6)
WEIGHTS, _ = Made().weights(16, 0, 20, 4)


def with_weight(**changes: Any) -> SimpleNamespace:
    packed = WEIGHTS.weight._replace(**changes)
    return SimpleNamespace(weight=packed, gamma=WEIGHTS.gamma, beta=WEIGHTS.beta)


@pytest.mark.parametrize(
    ("features", "message"),
    [
        (GOOD._replace(raw=GOOD.raw.astype(np.float64)), "raw has dtype float64; expected float32"),
        (GOOD._replace(raw=GOOD.raw.tolist()), "raw is a <class 'list'>; expected a numpy array"),
        (GOOD._replace(raw=GOOD.raw[0]), r"raw has shape \(5, 6, 16\); expected \[N, H, W, C\]"),
        (GOOD._replace(raw=GOOD.raw[:0]), r"raw has shape \(0, 5, 6, 16\); .*each at least 1"),
        (
            GOOD._replace(raw=GOOD.raw[..., :15].copy()),
            "raw has 15 channels; expected a multiple",
        ),
        (GOOD._replace(raw=GOOD.raw[:, ::2]), "raw has a stride of 192 on axis 1; expected 96"),
        (GOOD._replace(raw=misaligned(GOOD.raw)), "raw does not begin at a multiple of 4 bytes"),
        (None, "raw is a <class 'NoneType'>; expected a numpy array"),
        (GOOD._replace(scale=GOOD.scale[:1]), r"scale has shape \(1, 16\); .* = \[2, 16\]"),
        (GOOD._replace(shift=GOOD.shift[:, :8]), r"shift has shape \(2, 8\); .* = \[2, 16\]"),
        (GOOD._replace(shift=None), "shift is a <class 'NoneType'>; expected a numpy array"),
    ],
)
def test_wrong_features_are_refused(features: cpu.Features, message: str) -> None:
    with pytest.raises(ValueError, match=f"conv: {message}"):
        cpu.conv(features, WEIGHTS)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (with_weight(weight=WEIGHTS.weight.weight[:1]), r"has shape .* = \[2, any, 16, 16\]"),
        (with_weight(weight=WEIGHTS.weight.weight[:, :16].copy()), "16 positions; expected 9"),
        (with_weight(weight=WEIGHTS.weight.weight.astype(np.float16)), "dtype float16; expected"),
        (with_weight(weight=WEIGHTS.weight.weight[:, :9]), "weight has a stride of"),
        (
            SimpleNamespace(weight=WEIGHTS.weight, gamma=WEIGHTS.gamma, beta=WEIGHTS.beta[:7]),
            r"beta has shape \(7,\); expected \[C_out\] = \[20\]",
        ),
    ],
)
def test_wrong_weights_are_refused(weights: SimpleNamespace, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cpu.conv(GOOD, weights)


def test_wrong_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="threads is -1; expected 0 to"):
        cpu.conv(GOOD, WEIGHTS, -1)
    with pytest.raises(ValueError, match="isa is 'sse9'; expected one that this CPU runs, of "):
        cpu.conv(GOOD, WEIGHTS, isa="sse9")


def test_the_instruction_set_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(cpu.ISA_VARIABLE, "portable")
    forced = cpu.conv(GOOD, WEIGHTS)
    monkeypatch.delenv(cpu.ISA_VARIABLE)
    assert_same_bits(forced, cpu.conv(GOOD, WEIGHTS, isa="portable"))


NO_ROOM = """
import resource, sys
import numpy as np
from types import SimpleNamespace
from crn_fast.kernels import cpu
from crn_fast.kernels.cpu.packing import pack_convolution

side, threads = map(int, sys.argv[1:])
features = cpu.Features(
    np.zeros((1, side, side, 16), np.float32), *np.zeros((2, 1, 16), np.float32)
)
packed = pack_convolution(np.ones((16, 16, 3, 3), np.float32), 16, 4, False)
ones = np.ones(16, np.float32)
weights = SimpleNamespace(weight=packed, gamma=ones, beta=ones)
cpu.conv(cpu.Features(features.raw[:, :2, :2].copy(), *features[1:]), weights, 1)
pages = int(open("/proc/self/statm").read().split()[0])
limit = pages * resource.getpagesize() + (40 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
try:
    cpu.conv(features, weights, threads)
except MemoryError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits memory as Linux does")
@pytest.mark.parametrize(
    ("side", "threads", "message"),
    [(1000, 1, "Unable to allocate 61.0 MiB"), (400, 64, "no room for [0-9]+ bytes of scratch")],
)
def test_no_room_is_a_memory_error(side: int, threads: int, message: str, tmp_path: Path) -> None:
    if re.search("lib[at]san", os.environ.get("LD_PRELOAD", "")):
        pytest.skip("the sanitizers take more address space than any limit")
    command = [sys.executable, "-c", NO_ROOM, str(side), str(threads)]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert re.search(message, ran.stdout)
