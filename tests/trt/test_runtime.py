"""Plans rendered on a stand-in for the driver, through both packages, and on a GPU where one is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import cuda_stand_in
import tiny
from crn_fast.cuda import driver, pipeline
from crn_fast.errors import Mismatch, Outdated, ResourceError, Unavailable
from crn_fast.trt.build import About
from crn_fast.trt.runtime import PlanRenderer

SIZE = tiny.SPEC.size


@pytest.fixture(params=["pycuda.driver", "cuda.core"])
def machine(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> cuda_stand_in.Machine:
    made = cuda_stand_in.Machine()
    cuda_stand_in.install(monkeypatch, made, request.param)
    return made


def renderer(
    machine: cuda_stand_in.Machine,
    batch: tuple[int, int],
    *,
    rtx: bool = False,
    plan: bytes = b"plan",
) -> PlanRenderer:
    layouts = batch[0] if batch[0] == batch[1] else -1
    shapes = {"labels": (layouts, *SIZE), "pictures": (layouts, tiny.SPEC.images, *SIZE, 3)}
    flavour = cuda_stand_in.tensorrt(machine, shapes, rtx)
    about = About(flavour.name, flavour.version, "sm_89", "fp16", batch)
    return PlanRenderer(flavour, plan, about, tiny.SPEC, driver.make(0))


@pytest.mark.parametrize("rtx", [False, True])
@pytest.mark.parametrize("batch", [(1, 1), (3, 3), (1, 4), (2, 4)])
def test_pictures_come_back_in_order(
    batch: tuple[int, int], rtx: bool, machine: cuda_stand_in.Machine
) -> None:
    render = renderer(machine, batch, rtx=rtx)
    for n in (1, 2, 9, 9, 4):
        labels = tiny.labels_array(n)
        expected = cuda_stand_in.pictures_of(labels, tiny.SPEC.images)
        np.testing.assert_array_equal(render(labels), expected)
    assert ("graph" in machine.log) != rtx, "TensorRT-RTX makes its own graphs"
    assert not any(stream.queue for stream in machine.streams)


def test_the_parts_are_timed_one_after_another(
    machine: cuda_stand_in.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    render, labels = renderer(machine, (1, 1)), tiny.labels_array(1)
    slot = render._pipeline._slots[0]
    pictures = cuda_stand_in.pictures_of(labels, tiny.SPEC.images)
    looks: list[tuple[bool, bool, bool]] = []

    def clock() -> float:
        """One second more at each look; notes which parts are done."""
        assert not any(stream.queue for stream in machine.streams), "something is not waited for"
        uploaded = np.array_equal(machine.memory[slot.upload.address], labels.reshape(-1))
        computed = np.array_equal(machine.memory[slot.download.address], pictures.reshape(-1))
        downloaded = np.array_equal(slot.download.host, pictures.reshape(-1))
        looks.append((uploaded, computed, downloaded))
        return float(len(looks))

    monkeypatch.setattr(pipeline, "perf_counter", clock)
    found = render.timings(labels)
    assert list(found.items()) == [("upload", 1.0), ("compute", 1.0), ("download", 1.0)]
    assert looks[:4] == [(i > 0, i > 1, i > 2) for i in range(4)]
    assert "graph" in machine.log, "what is timed is not what frames run as"
    assert set(render.timings(tiny.labels_array(3)).values()) == {3.0}


@pytest.mark.parametrize("forgetful", ["host", "compute", "download"])
def test_a_forgotten_wait_gives_wrong_pictures(
    forgetful: str, machine: cuda_stand_in.Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    render = renderer(machine, (1, 1))
    right, streams = render._driver.wait, render._driver.streams
    names = {None: "host", streams.compute: "compute", streams.download: "download"}

    def wait(event: Any, stream: driver.Stream | None = None) -> None:
        if names[stream] != forgetful:
            right(event, stream)

    monkeypatch.setattr(render._driver, "wait", wait)
    labels = tiny.labels_array(9)
    expected = cuda_stand_in.pictures_of(labels, tiny.SPEC.images)
    assert not np.array_equal(render(labels), expected)


def test_a_graph_is_captured_once_for_each_slot_and_size(machine: cuda_stand_in.Machine) -> None:
    render = renderer(machine, (1, 1))
    render(tiny.labels_array(10))
    # Two slots: each runs once plainly, once into its graph, and then only the graph.
    assert (machine.log.count("execute"), machine.log.count("graph")) == (4, 8)


def test_compiled_kernels_are_kept_for_the_next_process(machine: cuda_stand_in.Machine) -> None:
    renderer(machine, (1, 1), rtx=True)(tiny.labels_array())
    assert "cache compiled" not in machine.log
    renderer(machine, (1, 1), rtx=True)
    assert "cache compiled" in machine.log
    renderer(machine, (1, 1), rtx=True, plan=b"plan of another")
    assert machine.log.count("cache compiled") == 1


def test_what_tensorrt_refuses_is_a_mismatch(machine: cuda_stand_in.Machine) -> None:
    with pytest.raises(Outdated, match="stand-in"):
        renderer(machine, (1, 1), plan=b"no plan")


def test_another_network_s_plan_is_a_mismatch(machine: cuda_stand_in.Machine) -> None:
    shapes = {"labels": (1, 6, 10), "pictures": (1, 2, 6, 10, 3)}
    flavour = cuda_stand_in.tensorrt(machine, shapes, rtx=False)
    about = About(flavour.name, flavour.version, "sm_89", "fp16", (1, 1))
    with pytest.raises(Mismatch, match=r"6, 10.*12, 20"):
        PlanRenderer(flavour, b"plan", about, tiny.SPEC, driver.make(0))


def test_out_of_memory_says_how_much(machine: cuda_stand_in.Machine) -> None:
    machine.capacity = 4000
    with pytest.raises(ResourceError, match=r"out of GPU memory: 0\.0 MB more"):
        renderer(machine, (8, 8))


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def none(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(driver.ctypes, "CDLL", none)
    with pytest.raises(Unavailable, match=r"no NVIDIA driver here \(libcuda\.so\.1"):
        driver.make(0)
    assert driver.capability() is None
    monkeypatch.undo()
    machine = cuda_stand_in.Machine()
    cuda_stand_in.install(monkeypatch, machine, "cuda.core")
    monkeypatch.setattr(driver, "IMPLEMENTATIONS", {"pycuda.driver": driver.PyCuda})
    with pytest.raises(Unavailable, match=r"pycuda\.driver: No module.*make pycuda-wheel"):
        driver.make(0)


def test_a_gpu_that_is_not_there(machine: cuda_stand_in.Machine) -> None:
    with pytest.raises(Unavailable, match="--device 3: the driver has 1 GPUs"):
        driver.make(3)
    assert driver.capability(0) == (8, 9)
    assert driver.capability(3) is None


@pytest.mark.gpu
@pytest.mark.parametrize("package", list(driver.IMPLEMENTATIONS))
def test_a_real_driver_copies_and_replays(package: str, tmp_path: Path) -> None:
    pytest.importorskip(package)
    made = driver.IMPLEMENTATIONS[package](0)
    with made:
        buffers = [made.allocate(1 << 20) for _ in range(2)]
        upload, compute, download = made.streams
        for buffer in buffers:
            buffer.host[:] = np.random.default_rng(0).integers(0, 256, buffer.host.size)
        expected = buffers[0].host.copy()
        made.copy(buffers[0], upload, up=True)
        made.wait(made.record(upload), compute)
        replay = made.capture(compute, lambda: made.copy(buffers[1], compute, up=True))
        replay()
        made.wait(made.record(compute), download)
        buffers[0].host[:] = 0
        made.copy(buffers[0], download, up=False)
        made.wait(made.record(download))
        np.testing.assert_array_equal(buffers[0].host, expected)
