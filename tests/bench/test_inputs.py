"""What networks are fed: the same at every call, and made again where it must be."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle needs torch")

import bench_subjects
import tiny
from crn_fast import checkpoint
from crn_fast.bench import inputs
from crn_fast.errors import UsageError
from crn_fast.spec import PRESETS


def test_a_file_is_measured_under_its_name(tmp_path: Path) -> None:
    made = bench_subjects.prepare(tmp_path, batch=3)
    assert (made.network, made.batch) == ("tiny", 3)
    labels, expected = np.load(made.labels), np.load(made.expected)
    assert labels.shape == (3, 16, 32) and expected.shape == (3, 2, 16, 32, 3)
    assert expected.dtype == np.float64
    assert (labels[1] == np.roll(labels[0], 10, axis=1)).all()
    before = made.expected.stat().st_mtime_ns
    again = bench_subjects.prepare(tmp_path, batch=3)
    assert again == made and again.expected.stat().st_mtime_ns == before


def test_other_weights_of_the_same_name_have_another_oracle(tmp_path: Path) -> None:
    first = bench_subjects.prepare(tmp_path)
    other = tiny.calm_checkpoint(bench_subjects.SPEC)
    other.tensors["head.bias"][:] += 0.1
    checkpoint.save(tmp_path / "tiny.safetensors", other)
    second = inputs.prepare(str(tmp_path / "tiny.safetensors"), tmp_path / "work")
    assert second.expected != first.expected
    assert checkpoint.load(second.model).sha256() == other.sha256()


def test_the_same_weights_make_other_sizes(tmp_path: Path) -> None:
    made = bench_subjects.prepare(tmp_path, base=(2, 3))
    assert made.spec.size == (8, 12)
    assert made.model.name == "tiny.8x12.safetensors"


def test_a_label_set_of_ones_own_has_a_layout(tmp_path: Path) -> None:
    path = tiny.save_checkpoint(tmp_path / "nyu.safetensors", SMALL, "nyu40")
    made = inputs.prepare(str(path), tmp_path)
    assert np.load(made.labels).max() < SMALL.classes


SMALL = inputs.CascadeSpec(widths=(4, 4), base=(4, 8), classes=41)


def test_a_preset_has_sane_random_weights(tmp_path: Path) -> None:
    name, made = inputs.load("256p-small", tmp_path)
    again = inputs.random_checkpoint("256p-small")
    assert name == "256p-small"
    assert all((made.tensors[name] == again.tensors[name]).all() for name in made.tensors)
    assert made.spec == PRESETS["256p-small"]
    assert made.labels.name == "cityscapes"


def test_widths_are_multiplied(tmp_path: Path) -> None:
    name, made = inputs.load("256p-small:0.5", tmp_path)
    assert name == "256p-small-width-0.5"
    assert made.spec.widths == tuple(width // 2 for width in PRESETS["256p-small"].widths)


def test_an_unknown_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="model 'none' is neither a file"):
        inputs.prepare("none", tmp_path)
