"""Memory that runs out: smaller batches of the same pictures, and what is said at the end."""

from __future__ import annotations

import subprocess
import sys
import threading

import numpy as np
import pytest

from crn_fast import memory
from crn_fast.errors import ResourceError

LABELS = np.arange(7 * 2 * 3, dtype=np.uint8).reshape(7, 2, 3)


def pictures(labels: np.ndarray) -> np.ndarray:
    return np.repeat(labels[:, None, ..., None], 3, axis=-1)


@pytest.mark.parametrize(
    ("most", "sizes"), [(7, [7]), (4, [7, 4, 3]), (3, [7, 4, 2, 2, 2, 1]), (1, [7, 4, 2] + [1] * 7)]
)
def test_smaller_batches_of_the_same_pictures(most: int, sizes: list[int]) -> None:
    tried: list[int] = []

    def render(labels: np.ndarray) -> np.ndarray:
        tried.append(len(labels))
        if len(labels) > most:
            raise ResourceError("too many")
        return pictures(labels)

    np.testing.assert_array_equal(memory.in_parts(render, LABELS), pictures(LABELS))
    assert tried == sizes


def test_one_layout_without_room_is_an_error() -> None:
    def render(labels: np.ndarray) -> np.ndarray:
        raise ResourceError("none at all")

    with pytest.raises(ResourceError, match="none at all"):
        memory.in_parts(render, LABELS)


@pytest.mark.parametrize(
    ("words", "needed"),
    [
        ("Unable to allocate 1.50 GiB for an array", "1,610.6 MB more"),
        ("no room for 2000000 bytes of scratch memory", "2.0 MB more"),
        ("can't allocate memory: you tried to allocate 700000 bytes. Error", "0.7 MB more"),
        ("Tried to allocate 2.00 MiB. GPU 0 has", "2.1 MB more"),
        ("", "an unknown amount more"),
    ],
)
def test_needed_and_free_are_named(words: str, needed: str) -> None:
    error = memory.shortage("cpu", MemoryError(words), 3_000_000)
    assert str(error).startswith(f"cpu: out of memory: {needed} needed, 3.0 MB free (")


@pytest.mark.skipif(sys.platform != "linux", reason="needs Linux's /proc")
def test_the_process_s_own_limit_counts() -> None:
    code = """
import resource
from crn_fast import memory
before = memory.free()
pages = int(open("/proc/self/statm").read().split()[0])
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (5 << 20),) * 2)
after = memory.free()
assert 0 <= after <= 5 << 20 < before, (before, after)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_pool_has_all_its_threads_from_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(memory, "require_room_for_thread", lambda: asked.append(len(asked)))
    with memory.thread_pool(3) as pool:
        running = threading.active_count()
        assert list(pool.map(str, range(9))) == [str(i) for i in range(9)]
        assert threading.active_count() == running and asked == [0, 1, 2]


def test_a_pool_without_room_is_an_error_and_leaves_no_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rooms = iter([None, None])

    def room() -> None:
        if next(rooms, "none") == "none":
            raise ResourceError("no room")

    monkeypatch.setattr(memory, "require_room_for_thread", room)
    before = threading.active_count()
    with pytest.raises(ResourceError, match="no room"), memory.thread_pool(3):
        raise AssertionError
    assert threading.active_count() == before


def test_no_thread_leaves_out_a_stack_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource", reason="needs POSIX's limits")
    monkeypatch.setattr(resource, "getrlimit", lambda which: (resource.RLIM_INFINITY,) * 2)
    error = RuntimeError("can't start new thread")
    assert str(memory.no_thread(error)).startswith("can't start new thread: ")
    assert "stack" not in str(memory.no_thread(error))
    monkeypatch.setattr(resource, "getrlimit", lambda which: (8_000_000, 8_000_000))
    assert ": 8.0 MB needed for its stack, " in str(memory.no_thread(error))
    monkeypatch.setitem(sys.modules, "resource", None)  # as on Windows
    told = str(memory.no_thread(error))
    assert "stack" not in told and "an unknown amount free" in told
