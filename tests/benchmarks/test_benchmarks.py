"""The CPU benchmark on a tiny network: its peers are the same network, its tables what was found.

No time is looked at. torch.compile takes a minute, so the gate of the benchmark alone judges it.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tiny

pytest.importorskip("torch", reason="the oracle and most peers need torch")
pytest.importorskip("frame", reason="benchmarks/ is not in the sdist")

import endtoend
import frame
import inputs
import peers
import report
import stages
from crn_fast.checkpoint import Checkpoint
from crn_fast.errors import CheckFailed, Unavailable, UsageError
from crn_fast.kernels import cpu
from crn_fast.measure import rows
from crn_fast.measure.gate import Checked, Subject
from crn_fast.measure.machine import describe
from crn_fast.measure.rows import Origin, Row
from crn_fast.spec import PRESETS, CascadeSpec

if reason := cpu.available():
    pytest.skip(reason, allow_module_level=True)

SPEC = CascadeSpec(widths=(24, 20, 18), base=(4, 8), classes=12, images=2)
ORIGIN = Origin("2026-01-01 1", "python bench.py", describe(), {"python": "3"}, "abc")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> inputs.Inputs:
    patch = pytest.MonkeyPatch()
    patch.setattr(inputs, "NETWORKS", ("tiny",))
    patch.setattr(inputs, "_checkpoint", lambda network: network_of(SPEC))
    try:
        return inputs.prepare("tiny", tmp_path_factory.mktemp("work"), None)
    finally:
        patch.undo()


def network_of(spec: CascadeSpec) -> Checkpoint:
    made = tiny.make_checkpoint(spec)
    tensors = dict(made.tensors)
    tensors["head.weight"] = tensors["head.weight"] * np.float32(0.3)
    return Checkpoint(made.spec, made.labels, tensors, made.notes)


@pytest.mark.parametrize("name", ["native", "eager", "channels_last", "onnxruntime", "openvino"])
def test_a_peer_is_the_same_network(name: str, prepared: inputs.Inputs) -> None:
    ours = name == "native"
    peer, model = (peers.native, prepared.engine) if ours else (peers.PEERS[name], prepared.model)
    try:
        subject = peer(model, prepared.labels, 1)
    except Unavailable as error:
        pytest.skip(str(error))
    expected = np.load(prepared.expected)
    checked = Checked(subject, expected, 0.02, prepared.against)
    assert checked.passed.error.largest < 0.02
    assert subject.settings
    assert np.asarray(subject.run()).dtype == np.uint8


def wrong(model: Path, labels: Path, threads: int) -> Subject:
    subject = peers.native(model, labels, threads)
    return Subject("wrong", lambda: np.roll(subject.run(), 1, axis=3))


def absent(model: Path, labels: Path, threads: int) -> Subject:
    raise Unavailable("absent cannot be imported")


def test_a_wrong_and_an_absent_peer_have_no_time(
    prepared: inputs.Inputs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(peers, "PEERS", {"wrong": wrong, "absent": absent, "eager": peers.eager})
    monkeypatch.setattr(frame.ceilings, "measure", lambda threads: CEILINGS)
    monkeypatch.setattr(frame, "Child", InProcess)
    monkeypatch.setattr(frame, "PAUSE", 0.0)
    found = frame.compare(prepared, [*peers.PEERS], 1, 3, ORIGIN, lambda message: None)
    by_name = {row.subject: row for row in found}
    assert by_name["wrong"].time is None
    assert "no time is taken" in str(by_name["wrong"].reason)
    assert by_name["absent"].reason == "absent cannot be imported"
    ours = by_name["native"]
    assert ours.time is not None and ours.error is not None
    assert list(ours.ratios) == ["eager"]
    path = tmp_path / "frame.jsonl"
    rows.append(path, found)
    text = report.tables(report.newest(rows.read(path)))
    assert "| wrong | not measured: wrong: " in text
    assert "| native | " in text


CEILINGS = frame.Ceilings({"numpy": 100.0}, 10.0, 1)


class InProcess(Checked):
    """A `Child` that is none: starting Python for each takes seconds."""

    memory: dict[str, Any] = {}  # noqa: RUF012

    def __init__(
        self, make: partial[Subject], expected: Path, limit: float, against: str, **_: Any
    ) -> None:
        super().__init__(make(), np.load(expected), limit, against)

    def __enter__(self) -> InProcess:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def test_every_op_is_judged_and_timed(
    prepared: inputs.Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages.ceilings, "measure", lambda threads: CEILINGS)
    found = stages.measure(prepared, 1, 3, "float64", ORIGIN, lambda message: None)
    ops = [row.case["op"] for row in found]
    assert ops[:3] == ["label_pyramid", "stage 0 refine", "stage 0 conv"]
    assert ops[-2:] == ["head", "to_uint8"]
    assert len(ops) == 3 + 2 * len(SPEC.stages)
    features = [row.error.relative for row in found if row.error and "stage" in str(row.case["op"])]
    assert all(0 < error < 1e-5 for error in features)
    direct = sum(row.gflops * row.time.median * 1e9 for row in found if row.gflops and row.time)
    assert direct == pytest.approx(SPEC.flops())
    assert "| stage 2 conv | 18 to 18, 16x32 |" in report.tables(found)


@pytest.mark.parametrize("op", ["refine", "conv", "head", "to_uint8"])
def test_one_wrong_element_of_one_op_is_found(
    op: str, prepared: inputs.Inputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = getattr(cpu, op)

    def damaged(*arguments: Any) -> Any:
        result = right(*arguments)
        array = result.raw if isinstance(result, cpu.Features) else result
        array.reshape(-1)[37] += 3
        return result

    monkeypatch.setattr(cpu, op, damaged)
    monkeypatch.setattr(stages.ceilings, "measure", lambda threads: CEILINGS)
    with pytest.raises(CheckFailed, match=op):
        stages.measure(prepared, 1, 1, "float64", ORIGIN, lambda message: None)


def test_the_whole_command_is_judged_by_its_picture(
    prepared: inputs.Inputs, tmp_path: Path
) -> None:
    (row,) = endtoend.measure(prepared, ["native"], 1, 1, tmp_path, ORIGIN, lambda message: None)
    assert row.time is not None
    assert {"start", "open", "read", "render", "write"} <= row.parts.keys()
    assert sum(part.median for part in row.parts.values()) == pytest.approx(row.time.median)
    assert "street" not in report.tables([row])


def test_a_preset_has_sane_random_weights() -> None:
    made = inputs.random_checkpoint("256p-small")
    again = inputs.random_checkpoint("256p-small")
    assert all((made.tensors[name] == again.tensors[name]).all() for name in made.tensors)
    assert made.spec == PRESETS["256p-small"]
    assert made.labels.name == "cityscapes"


def test_an_unknown_network_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--network none"):
        inputs.prepare("none", tmp_path, None)


def test_the_newest_row_of_a_case_counts(tmp_path: Path) -> None:
    old = Row("frame", {"network": "a"}, "x", "", ORIGIN, reason="old")
    new = Row("frame", {"network": "a"}, "x", "", ORIGIN, reason="new")
    other = Row("frame", {"network": "b"}, "x", "", ORIGIN, reason="other")
    assert report.newest([old, other, new]) == [new, other]


def test_the_plot_is_a_picture(prepared: inputs.Inputs, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the plot")
    row = rows.Row.from_json(THREADS.to_json())
    report.plot([row], tmp_path / "threads.png")
    assert (tmp_path / "threads.png").stat().st_size > 5000


THREADS = Row(
    "threads",
    {"network": "tiny", "threads": 1},
    "native",
    "",
    ORIGIN,
    time=rows.Spread(1.0, 0.9, 1.1, 3),
    error=rows.Error(0.1, 0.1, 60.0, "float64"),
)
