"""The report says what rows say: on made-up rows, and on those of benchmarks/results."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("report", reason="benchmarks/ is not in the sdist")

import report
from crn_fast.errors import BadInput
from crn_fast.measure.gate import Error
from crn_fast.measure.machine import Machine
from crn_fast.measure.rows import Row, append
from crn_fast.measure.timer import Spread
from curves import curves
from history import History, read
from page import page, summary
from plots import plots
from tables import duration, durations

ROOT = Path(__file__).parents[2]
CPU = Machine("Some CPU", 2, "avx2", 8 << 30, "Linux 6, x86_64", 2500.0)
GPU = dataclasses.replace(CPU, gpu="Some GPU")
CASE = {"network": "tiny", "height": 64, "width": 128, "batch": 1, "threads": 2}


def spread(median: float, wide: float = 0.02, n: int = 5) -> Spread:
    return Spread(median, median * (1 - wide), median * (1 + wide), n)


def row(subject: str, seconds: float | None, **fields: Any) -> Row:
    """A row of the suite `frame`, unless told otherwise; without seconds, one not measured."""
    machine, run = fields.pop("machine", CPU), fields.pop("run", "2026-01-02T03:04:05+00:00 7")
    case = {**CASE, "precision": "fp32", **fields.pop("case", {})}
    origin = report.history.rows.Origin(run, "pytest --some", machine, {"python": "3.11"}, "abc123")
    if seconds is not None:
        fields |= {"time": spread(seconds), "error": Error(2e-4, 1e-6, 130.0, "float64")}
    return Row(fields.pop("suite", "frame"), case, subject, "set", origin, **fields)


def line_of(text: str, start: str) -> str:
    return next(line for line in text.splitlines() if line.startswith(f"| {start} |"))


def test_a_frame_has_its_figures_and_its_ratio_from_the_row_of_ours() -> None:
    ours = row("native", 0.5, ratios={"eager": Spread(3.5, 3.4, 3.7, 5)}, gflops=123.4)
    text = page(History([ours, row("eager", 2.0, ratios={"native": spread(0.3)})]))
    assert "| 500 ms | 490 to 510 ms | 5 |" in line_of(text, "ours: `native`")
    assert "| 123 |" in line_of(text, "ours: `native`")
    eager = line_of(text, "PyTorch, eager")
    assert "| 3.50 (3.40 to 3.70) |" in eager and "| 0.0002 | 130 |" in eager
    assert "Some CPU: 2 CPUs at 2500 MHz, avx2, 8 GiB" in text
    assert "commit abc123" in text and "`pytest --some`" in text and "python 3.11" in text


def test_what_is_wrong_or_missing_has_no_time_and_a_reason() -> None:
    found = [
        row("native", 0.5, ratios={}),
        row("eager", None, reason="eager: pixel 3 is 9 off", wrong=True),
        row("openvino", None, reason="openvino cannot be imported"),
    ]
    text = page(History(found))
    assert line_of(text, "PyTorch, eager").split("|")[2].strip() == "wrong, so no time"
    assert "PyTorch, eager: wrong, so no time: eager: pixel 3 is 9 off." in text
    assert line_of(text, "OpenVINO").split("|")[2].strip() == "not measured"
    assert "OpenVINO: not measured: openvino cannot be imported." in text
    assert line_of(text, "ONNX Runtime").split("|")[2].strip() == "not measured"
    assert "Not measured, in no run: PyTorch, channels last;" in text
    assert text.count("\nNot measured.\n") == len(report.SUITES) - 1


def test_noise_is_marked_where_it_is() -> None:
    ratios = {"eager": spread(3.0, wide=0.2), "openvino": spread(2.0)}
    found = [row("native", 0.5, ratios=ratios), row("eager", 1.5), row("openvino", 1.0)]
    found[1] = dataclasses.replace(found[1], time=spread(1.5, n=2))
    known = History(found)
    assert "| time and ratio |" in line_of(page(known), "PyTorch, eager")
    assert "time" not in line_of(page(known), "OpenVINO")
    assert "| ~3.00 (2.40 to 3.60) | 2.00 (1.96 to 2.04) |" in summary(known)


def test_the_newest_row_of_a_case_is_shown() -> None:
    old, new = row("native", 9.0, run="2026-01-01"), row("native", 0.5, run="2026-01-02")
    text = page(History([old, new]))
    assert "9.00 s" not in text and "500 ms" in text


def test_a_peer_of_an_older_run_keeps_the_ratio_of_its_run() -> None:
    old = row("native", 0.5, run="2026-01-01", ratios={"eager": spread(3.0)})
    new = row("native", 0.25, run="2026-01-02")
    text = page(History([old, row("eager", 1.5, run="2026-01-01"), new]))
    assert "3.00 (2.94 to 3.06)" in line_of(text, "PyTorch, eager")
    assert "250 ms" in line_of(text, "ours: `native`")
    assert text.count("- Taken ") == 2


def test_backends_without_a_row_of_a_gpu_are_named_in_words() -> None:
    known = [row("native", 0.5)]
    assert "No figure of a GPU: backends `fused` and `trt` have never run on a GPU" in page(
        History(known)
    )
    known.append(row("fused", 0.01, machine=GPU, case={"precision": "fp16"}))
    assert "No figure of a GPU: backend `trt` has never run on a GPU" in page(History(known))
    known.append(row("trt", None, machine=GPU, reason="no engine"))
    assert "backend `trt` has never" in page(History(known))
    known.append(row("trt", 0.01, machine=GPU, case={"precision": "fp16"}))
    assert "No figure of a GPU" not in page(History(known))


def test_ops_of_rows_old_and_new_share_a_table() -> None:
    fields = {"gflops": 80.0, "gbs": 4.0, "shares": {"effective": 0.8, "multiplied": 0.4}}
    fields["ceilings"] = {"numpy": 100.0, "copy": 20.0}
    ops = [
        row("native", 0.3, suite="stages", case={"op": "stage 0 conv", "shape": "a"}, **fields),
        row("native", 0.1, suite="ops", case={"op": "to_uint8", "shape": "b"}, gbs=3.0),
    ]
    text = page(History(ops))
    found = line_of(text, "stage 0 conv | a | 300 ms | 294 to 306 ms | 5 | 75.0% | 80 | 80% | 40%")
    assert "| 4 |" in found and "1.0e-06" in found
    assert "Best sgemm 100 GFLOP/s, copy 20 GB/s." in text


def scaled(axis: str, value: float, seconds: float, **fields: Any) -> Row:
    case = {"axis": axis, "value": value, **fields.pop("case", {})}
    return row("native", seconds, suite="scaling", case=case, **fields)


def test_exponents_are_the_rows_own_or_fitted() -> None:
    of_size = [scaled("size", x, 0.1 * x, gflops=10.0, gbs=1.0) for x in (1.0, 4.0)]
    one, two = curves(History(of_size).groups("scaling"))
    assert (one.quantity, two.quantity) == ("operations", "bytes")
    assert one.exponent == pytest.approx(1) and one.points[0][0] == pytest.approx(1.0)
    threads = [
        scaled("threads", n, 0.4 / n, case={"threads": n}, exponents={"threads": -0.77})
        for n in (1, 2)
    ]
    (line,) = curves(History(threads).groups("scaling"))
    assert line.exponent == -0.77
    old = [row("native", 0.4 / n**0.5, suite="threads", case={"threads": n}) for n in (1, 2, 4)]
    (line,) = curves(History(old).groups("scaling"))
    assert line.exponent == pytest.approx(-0.5)
    assert "time grows as threads to the power of -0.50, fitted over 3 points." in page(
        History(old)
    )


def test_other_networks_are_compared_with_ours_at_their_size() -> None:
    ours = row(
        "native tiny", 0.5, suite="alternatives", gflops=100.0, ratios={"spade eager": spread(8.0)}
    )
    spade = row("spade eager", 4.0, suite="alternatives", case={"network": "spade"}, gflops=50.0)
    text = page(History([spade, ours]))
    assert "### 64x128, Some CPU" in text
    found = line_of(text, "spade eager")
    assert "| 8.00 (7.84 to 8.16) |" in found and "| 200 | 50 |" in found


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (12.34, "12.3 s"),
        (1.0, "1.00 s"),
        (0.9996, "1000 ms"),
        (0.0364, "36.4 ms"),
        (5e-4, "500 µs"),
    ],
)
def test_durations_have_three_digits(seconds: float, expected: str) -> None:
    assert duration(seconds) == expected


def test_percentiles_name_each_unit_once() -> None:
    assert durations(Spread(1.0, 0.9, 1.1, 3)) == "900 ms to 1.10 s"
    assert durations(Spread(1.0, 1.0, 1.1, 3)) == "1.00 to 1.10 s"


def test_a_readme_without_markers_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("nothing here")
    with pytest.raises(BadInput, match="written by `make report`"):
        report.write(History([]), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]


def test_the_committed_texts_are_what_the_rows_give() -> None:
    for path, text in report.texts(read(report.RESULTS), ROOT).items():
        assert path.read_text("utf-8") == text, f"{path.name}: run `make report`"


def test_the_committed_page_shows_pictures_that_are_there() -> None:
    known = read(report.RESULTS)
    named = {plot.name for suite in report.SUITES for plot in plots(known, suite)}
    assert named == {path.name for path in (ROOT / "docs" / "benchmarks").iterdir()}


def test_all_is_written_and_drawn_and_old_plots_go(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    results, docs = tmp_path / "results", tmp_path / "docs" / "benchmarks"
    results.mkdir()
    docs.mkdir(parents=True)
    (docs / "old.png").write_bytes(b"")
    (tmp_path / "README.md").write_text(f"before\n{report.START}\nold\n{report.END}\nafter")
    ratios = {"eager": spread(3.0, wide=0.2)}
    append(results / "frame.jsonl", [row("native", 0.5, ratios=ratios), row("eager", 1.5)])
    append(
        results / "threads.jsonl",
        [row("native", 0.4 / n, suite="threads", case={"threads": n}) for n in (1, 2)],
    )
    made = report.write(read(results), tmp_path)
    assert [path.name for path in made[2:]] == ["ratios.png", "scaling.png"]
    assert sorted(docs.iterdir()) == made[2:]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in made[2:])
    readme = (tmp_path / "README.md").read_text()
    assert readme.startswith("before\n") and readme.endswith("\nafter") and "old" not in readme
    assert "| `tiny`, 64x128 | 500 ms |" in readme
