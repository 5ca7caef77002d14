"""Whole pictures of a tiny network: peers are the same network, and what is wrong has no time.

No time is looked at. torch.compile takes a minute, so the gate of the benchmark alone judges it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="the oracle and most peers need torch")

import bench_subjects
from bench_subjects import CEILINGS, InProcess
from crn_fast.bench import frame, origin, ours, peers, table
from crn_fast.bench.inputs import Inputs
from crn_fast.errors import Unavailable
from crn_fast.kernels import cpu
from crn_fast.measure import rows
from crn_fast.measure.gate import Checked

if reason := cpu.available():
    pytest.skip(reason, allow_module_level=True)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return bench_subjects.prepare(tmp_path_factory.mktemp("bench"), batch=2)


@pytest.mark.parametrize(
    "name", ["native", "reference", "eager", "channels_last", "onnxruntime", "openvino"]
)
def test_a_subject_is_the_same_network(name: str, prepared: Inputs) -> None:
    path = prepared.engine if name == "native" else prepared.model
    assert path is not None
    try:
        subject = frame.SUBJECTS[name](path, prepared.labels, 1)
    except Unavailable as error:
        pytest.skip(str(error))
    checked = Checked(subject, np.load(prepared.expected), 0.02, prepared.against)
    assert checked.passed.error.largest < (0.52 if name == "reference" else 0.02)
    assert subject.settings and name == subject.name
    found = np.asarray(subject.run())
    assert found.dtype == np.uint8
    assert found.shape == (2, 2, 16, 32, 3)
    assert (found[0] != found[1]).any()


def test_wrong_and_absent_ones_have_no_time(
    prepared: Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    known = {
        "native": ours.native,
        "shifted": bench_subjects.shifted,
        "absent": bench_subjects.absent,
        "eager": peers.eager,
    }
    monkeypatch.setattr(frame, "SUBJECTS", known)
    monkeypatch.setattr(frame.ceilings, "measure", lambda threads: CEILINGS)
    monkeypatch.setattr(frame, "Child", InProcess)
    monkeypatch.setattr(frame, "PAUSE", 0.0)
    monkeypatch.setattr(frame, "BURST", 0.01)
    found = frame.compare(prepared, [*known], 1, 3, origin.of("test"), lambda message: None)
    by_name = {row.subject: row for row in found}
    assert [*by_name] == [*known]
    assert by_name["shifted"].wrong and by_name["shifted"].time is None
    assert "no time is taken" in str(by_name["shifted"].reason)
    assert by_name["absent"].reason == "absent cannot be imported" and not by_name["absent"].wrong
    row = by_name["native"]
    assert row.time is not None and row.error is not None
    assert list(row.ratios) == ["eager"]
    assert len(row.seconds) == 3
    assert row.gflops == pytest.approx(2 * prepared.spec.flops() / row.time.median / 1e9)
    assert row.case["batch"] == 2
    rows.append(tmp_path / "frame.jsonl", found)
    assert rows.read(tmp_path / "frame.jsonl") == found
    notes = table.notes(found)
    assert "frame: not measured: absent: absent cannot be imported" in notes
    (made,) = table.tables(found)
    assert made.row_count == 4


def test_a_gpu_peer_says_that_there_is_none(
    prepared: Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from crn_fast.bench import gpu_peers

    monkeypatch.setattr(gpu_peers, "sees_gpu", lambda: False)
    for peer in gpu_peers.GPU.values():
        with pytest.raises(Unavailable, match="no NVIDIA GPU"):
            peer(prepared.model, prepared.labels, 1)
