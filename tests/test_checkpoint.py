"""Checkpoints: both forms hold the same network, and what is damaged or foreign is refused."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="a .pt file needs torch")

from crn_fast import checkpoint, container
from crn_fast.errors import BadInput, Mismatch

FORMS = ["net.safetensors", "net.pt"]


@pytest.mark.parametrize("form", FORMS)
def test_round_trip(form: str, tmp_path: Path) -> None:
    made, loaded = tiny.make_checkpoint(), checkpoint.load(tiny.save_checkpoint(tmp_path / form))
    assert (loaded.spec, loaded.labels, dict(loaded.notes)) == (
        made.spec,
        made.labels,
        dict(made.notes),
    )
    assert loaded.sha256() == made.sha256()
    for name, tensor in made.tensors.items():
        np.testing.assert_array_equal(loaded.tensors[name], tensor)


def test_sha256_depends_on_every_part() -> None:
    made = tiny.make_checkpoint()
    tensors = {name: tensor.copy() for name, tensor in made.tensors.items()}
    tensors["head.bias"][0] = np.nextafter(tensors["head.bias"][0], 9, dtype=np.float32)
    one_weight = checkpoint.Checkpoint(made.spec, made.labels, tensors)
    other = dataclasses.replace(made.spec, upsampling="align_corners")
    one_field = checkpoint.Checkpoint(other, made.labels, made.tensors)
    assert len({c.sha256() for c in (made, one_weight, one_field)}) == 3


def test_a_run_folder_means_its_checkpoint(tmp_path: Path) -> None:
    tiny.save_checkpoint(tmp_path / "ckpt.pt")
    assert checkpoint.load(tmp_path).spec == tiny.SPEC


def test_names_and_shapes_are_checked_against_the_spec() -> None:
    made = tiny.make_checkpoint()

    def changed(**tensors: np.ndarray) -> checkpoint.Checkpoint:
        return checkpoint.Checkpoint(
            made.spec, made.labels, {**made.tensors, **tensors}, source="F"
        )

    without = {n: t for n, t in made.tensors.items() if not n.startswith("stages.1")}
    with pytest.raises(BadInput, match=r"F: .* missing stages.1.conv1.beta, .* and 2 more"):
        checkpoint.Checkpoint(made.spec, made.labels, without, source="F")
    with pytest.raises(BadInput, match="unexpected extra"):
        changed(extra=np.zeros(3, np.float32))
    with pytest.raises(BadInput, match=r"tensor head\.bias has shape \(5,\); its spec says \(6,\)"):
        changed(**{"head.bias": np.zeros(5, np.float32)})


def test_a_label_set_of_another_size_is_a_mismatch() -> None:
    with pytest.raises(Mismatch, match="12 classes, but its label set cityscapes has 20"):
        tiny.make_checkpoint(labels="cityscapes")


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="nothing: no such file"):
        checkpoint.load(tmp_path / "nothing")


def test_a_malicious_pickle_runs_nothing(tmp_path: Path) -> None:
    import torch

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "owned"),)

    as_pt, as_pickle = tmp_path / "evil.pt", tmp_path / "plain.pt"
    torch.save({"model": {"x": Evil()}}, as_pt)
    as_pickle.write_bytes(pickle.dumps(Evil()))
    for path in (as_pt, as_pickle):
        with pytest.raises(BadInput, match=path.name):
            checkpoint.load(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("content", [{}, {"model": 3}, {"model": {"a": 1}}, [1, 2]])
def test_a_torch_file_that_is_no_checkpoint(content: object, tmp_path: Path) -> None:
    import torch

    path = tmp_path / "other.pt"
    torch.save(content, path)
    with pytest.raises(BadInput, match=r"other\.pt: "):
        checkpoint.load(path)


@pytest.mark.parametrize(
    ("field", "value", "named"),
    [
        ("format", "other", "not a checkpoint"),
        ("version", "99", "version 99; this crn_fast reads 1"),
        ("kind", "pix2pix", "kind 'pix2pix'"),
        ("spec", "{}", "widths"),
        ("labels", "[]", "label"),
        ("notes", "{", "header"),
    ],
)
def test_a_foreign_header_is_named(field: str, value: str, named: str, tmp_path: Path) -> None:
    made = tiny.make_checkpoint()
    path = tmp_path / "x.safetensors"
    container.write(path, made.tensors, {**checkpoint.header(made), field: value})
    with pytest.raises(BadInput, match=named):
        checkpoint.load(path)


def test_another_library_s_safetensors_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "theirs.safetensors"
    save_file({"a": np.ones(3, np.float32)}, path, {"format": "pt"})
    with pytest.raises(BadInput, match="not one that crn_fast wrote"):
        checkpoint.load(path)


def test_header_is_plain_text() -> None:
    head = checkpoint.header(tiny.make_checkpoint())
    assert all(isinstance(value, str) for value in head.values())
    assert json.loads(head["notes"])["licence"] == "none"
