"""Engines: built, opened, rendered; and every mismatch is explained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="the eager backend needs torch")

import torch

from crn_fast import backends, container, layout
from crn_fast.engine import Engine, build_engine
from crn_fast.errors import BadInput, Mismatch, Unavailable, UsageError
from crn_fast.manifest import Manifest, rebuild
from crn_fast.palette import label_set


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    build_engine(tiny.make_checkpoint(), tmp_path / "net.crn", backend="eager", precision="fp32")
    return tmp_path / "net.crn"


def test_renders_what_the_oracle_says(engine_file: Path) -> None:
    labels = tiny.labels_array(3)
    pictures = Engine.open(engine_file).render(labels)
    assert pictures.dtype == np.uint8
    assert pictures.shape == (3, 2, 12, 20, 3)
    expected = tiny.oracle(tiny.make_checkpoint(), labels).clip(0, 255)
    assert expected.std() > 10
    # Half a step of rounding, and a little for float32.
    assert np.abs(pictures - expected).max() < 0.51


def test_a_checkpoint_opens_as_an_engine(engine_file: Path, tmp_path: Path) -> None:
    labels = tiny.labels_array(2)
    expected = Engine.open(engine_file).render(labels)
    for form in ("net.pt", "net.safetensors"):
        path = tiny.save_checkpoint(tmp_path / form)
        engine = Engine.open(path, backend="eager", precision="fp32")
        np.testing.assert_array_equal(engine.render(labels), expected)


def test_takes_label_maps_and_arrays(engine_file: Path) -> None:
    engine, labels = Engine.open(engine_file), tiny.labels_array(2)
    maps = [layout.from_array(ids, engine.labels) for ids in labels]
    expected = engine.render(labels)
    np.testing.assert_array_equal(engine.render(maps), expected)
    np.testing.assert_array_equal(engine.render(maps[1]), expected[1:])
    np.testing.assert_array_equal(engine.render(labels[0]), expected[:1])


@pytest.mark.parametrize(
    ("labels", "error", "named"),
    [
        (np.full((12, 20), 12, np.uint8), BadInput, "12"),
        (np.zeros((12, 21), np.uint8), Mismatch, "12x21.*12x20"),
        (np.zeros((12, 20), np.float32), BadInput, "float32"),
        (np.zeros(20, np.uint8), BadInput, r"shape \(20,\)"),
        (np.zeros((0, 12, 20), np.uint8), BadInput, "no layouts"),
    ],
)
def test_bad_labels_are_named(
    labels: np.ndarray, error: type[Exception], named: str, engine_file: Path
) -> None:
    with pytest.raises(error, match=named):
        Engine.open(engine_file).render(labels)


def test_another_label_set_is_a_mismatch(engine_file: Path) -> None:
    other = layout.from_array(np.zeros((12, 20), np.uint8), label_set("cityscapes"))
    with pytest.raises(Mismatch, match=r"cityscapes.*camvid"):
        Engine.open(engine_file).render(other)


def test_the_manifest_says_what_it_was_built_from(engine_file: Path) -> None:
    manifest = Manifest.from_metadata("x", container.read_metadata(engine_file))
    assert manifest.spec == tiny.SPEC
    assert manifest.checkpoint_sha256 == tiny.make_checkpoint().sha256()
    assert (manifest.backend, manifest.precision, manifest.target) == ("eager", "fp32", "any")
    assert manifest.notes["licence"] == "none"


def test_damage_is_noticed(engine_file: Path) -> None:
    whole = engine_file.read_bytes()
    for i in range(8, len(whole), len(whole) // 60):
        damaged = bytearray(whole)
        damaged[i] ^= 4
        engine_file.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"net\.crn"):
            Engine.open(engine_file)


def test_another_version_says_how_to_rebuild(engine_file: Path) -> None:
    tensors, metadata = container.read(engine_file)
    container.write(engine_file, tensors, {**metadata, "version": "99"})
    with pytest.raises(Mismatch, match=r"engine version 99; .*build-engine"):
        Engine.open(engine_file)


@pytest.mark.parametrize("batch", ["", "1; rm -rf ~", "1 to", "-1", "1-8"])
def test_a_batch_is_numbers(engine_file: Path, batch: str) -> None:
    tensors, metadata = container.read(engine_file)
    built_with = json.dumps({**json.loads(metadata["built_with"]), "batch": batch})
    container.write(engine_file, tensors, {**metadata, "built_with": built_with})
    with pytest.raises(BadInput, match=r"its manifest cannot be read .*batch"):
        Engine.open(engine_file)


def test_what_rebuilds_an_engine_can_be_pasted() -> None:
    told = rebuild("a b.crn", target="sm_90; rm -rf ~")
    assert "-o 'a b.crn' --force --target 'sm_90; rm -rf ~'`" in told


def test_a_checkpoint_is_no_engine_file(tmp_path: Path) -> None:
    path = tmp_path / "renamed.crn"
    tiny.save_checkpoint(tmp_path / "net.safetensors").rename(path)
    with pytest.raises(BadInput, match="not an engine"):
        Engine.open(path)


def test_another_size_is_a_mismatch(tmp_path: Path) -> None:
    with pytest.raises(Mismatch, match="12x20, not 24x40"):
        build_engine(tiny.make_checkpoint(), tmp_path / "net.crn", size=(24, 40))
    assert not list(tmp_path.iterdir())


def test_what_cannot_run_here_is_never_replaced(
    engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="'fusion' is unknown; there are native, eager"):
        backends.choose("fusion")
    monkeypatch.setattr("crn_fast.backends.eager.available", lambda: "torch is not installed")
    for asked in ("auto", "eager"):
        with pytest.raises(Unavailable, match="eager: torch is not installed"):
            Engine.open(engine_file, backend=asked)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_half_precision_without_a_gpu_is_refused(engine_file: Path) -> None:
    with pytest.raises(Unavailable, match="eager: has no fp16 here; it has fp32: take"):
        Engine.open(engine_file, precision="fp16")


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_a_precision_means_the_same_to_every_backend(backend: str, tmp_path: Path) -> None:
    if reason := backends.get(backend).available():
        pytest.skip(reason)
    made = tiny.make_checkpoint()
    with pytest.raises(UsageError, match="precision is 'fp12'; expected one of auto, fp32"):
        build_engine(made, tmp_path / "net.crn", backend=backend, precision="fp12")
    with pytest.raises(Unavailable, match=f"{backend}: has no fp8 here; it has fp32"):
        build_engine(made, tmp_path / "net.crn", backend=backend, precision="fp8")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("precision", "allowed"), [("fp32", 0.51), ("tf32", 1.5), ("fp16", 1.5), ("bf16", 8)]
)
def test_precisions_on_a_gpu(precision: str, allowed: float, engine_file: Path) -> None:
    labels = tiny.labels_array(2)
    pictures = Engine.open(engine_file, precision=precision).render(labels)
    expected = tiny.oracle(tiny.make_checkpoint(), labels).clip(0, 255)
    assert np.abs(pictures - expected).max() < allowed


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_a_stream_is_what_render_makes(batch: int, engine_file: Path) -> None:
    labels = tiny.labels_array(5)
    with Engine.open(engine_file) as engine:
        expected = engine.render(labels)
        found = list(engine.stream(iter(labels), batch=batch))
    np.testing.assert_array_equal(found, expected)


def test_a_stream_raises_what_goes_wrong_in_its_turn(engine_file: Path) -> None:
    engine, good = Engine.open(engine_file), tiny.labels_array(3)
    pictures = engine.stream([*good, np.full((12, 20), 99)])
    for _ in good:
        next(pictures)
    with pytest.raises(BadInput, match="99"):
        next(pictures)
    with pytest.raises(UsageError, match="batch is 0"):
        engine.stream(good, batch=0)


def test_a_closed_engine_says_so(engine_file: Path) -> None:
    with Engine.open(engine_file) as engine:
        engine.render(tiny.labels_array())
    engine.close()
    for use in (engine.render, engine.stream):
        with pytest.raises(UsageError, match=r"net\.crn: this engine was closed; open it again"):
            use(tiny.labels_array())
    assert engine.precision == "fp32"


@pytest.mark.parametrize("backend", ["native", "eager"])
def test_threads_may_share_an_engine(backend: str, tmp_path: Path) -> None:
    if reason := backends.get(backend).available():
        pytest.skip(reason)
    labels = tiny.labels_array(8)
    with Engine.open(tiny.save_checkpoint(tmp_path / "net.pt"), backend=backend) as engine:
        expected = [engine.render(ids) for ids in labels]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(5):
                np.testing.assert_array_equal(list(pool.map(engine.render, labels)), expected)


class OnDevice:
    """A renderer that overlaps batches, and takes labels where they are on a GPU."""

    device, precision = "nowhere", "fp32"

    def __init__(self) -> None:
        self.calls: list[str] = []

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        self.calls.append("call")
        return np.repeat(labels[:, None, ..., None], 3, 4)

    def stream(self, batches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for labels in batches:
            yield self(labels)
            self.calls.append("stream")

    def render_device(self, labels: OnGpu) -> np.ndarray:
        self.calls.append(f"device {labels.ndim}")
        return np.zeros((1, 1, 12, 20, 3), np.uint8)


class OnGpu:
    ndim, __cuda_array_interface__ = 2, {"version": 3}

    def __getitem__(self, _: None) -> OnGpu:
        found = OnGpu()
        found.ndim = 3
        return found


def test_what_a_renderer_can_do_besides_is_used(engine_file: Path) -> None:
    renderer = OnDevice()
    engine = Engine(Engine.open(engine_file).manifest, renderer, "x")
    labels = tiny.labels_array(3)
    found = np.stack(list(engine.stream(labels, batch=2)))
    np.testing.assert_array_equal(found[:, 0, ..., 0], labels)
    assert renderer.calls == ["call", "stream"] * 2
    engine.render(OnGpu())  # type: ignore[arg-type]
    assert renderer.calls[-1] == "device 3"
