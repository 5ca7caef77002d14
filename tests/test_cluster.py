"""Rendering on a cluster: what each worker does, in this process; and a real Ray that loses one."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import tarfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from importlib.resources import files
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest

from crn_fast.cli import main
from crn_fast.cluster import Counts, Options, dataset, render, wire, worker
from crn_fast.cluster.sinks import STAGING
from crn_fast.cluster.sources import FolderUnit, ParquetUnit, TarUnit, Unit
from crn_fast.cluster.wire import Result
from crn_fast.cluster.worker import ATTEMPTS, Renderer
from crn_fast.errors import BadInput, Mismatch, ResourceError, UsageError
from crn_fast.layout import LabelMap, write
from crn_fast.palette import label_set
from crn_fast.rendering import manifest
from crn_fast.rendering.manifest import Entry
from tiny import SPEC, save_checkpoint


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_checkpoint(tmp_path / "tiny.safetensors")


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> None:
    """One worker, in this process and without Ray."""

    def results(ray: Any, plan: Any, units: Any, *_: Any) -> Iterator[Any]:
        renderer = Renderer(plan)
        for number, unit in enumerate(units):
            yield renderer.render(number, unit)

    monkeypatch.setattr(dataset, "_ray", lambda: None)
    monkeypatch.setattr(dataset, "_connected", lambda ray, address: nullcontext())
    monkeypatch.setattr(dataset, "_shares", lambda *_: (1, 1, 0.0))
    monkeypatch.setattr(dataset, "_results", results)


def layouts(folder: Path, count: int = 6) -> Path:
    for number in range(count):
        path = folder / f"part{number % 2}" / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number))
    return folder


def ids(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, SPEC.classes, SPEC.size, dtype=np.uint8)


def png(seed: int) -> bytes:
    path = Path(os.environ["PYTEST_TMP"]) / "layout.png"
    write(LabelMap(ids(seed), label_set("camvid")), path)
    return path.read_bytes()


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TMP", str(tmp_path_factory.mktemp("scratch")))


def plain(source: Path, out: Path, model: Path, *more: str) -> list[Entry]:
    """`crn-fast render` of the same: the lines of its manifest, in order of path."""
    arguments = ["-q", "render", "--layout", str(source), "-m", str(model), "-o", str(out), *more]
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    return sorted(lines(out), key=lambda entry: entry.input)


def pictures(out: Path) -> dict[str, bytes]:
    """All files below a folder but its manifest."""
    return {
        path.relative_to(out).as_posix(): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and path.name != "manifest.jsonl"
    }


def facts(entries: Sequence[Entry]) -> list[tuple[Any, ...]]:
    """What two runs must agree on, in the order of the lines."""
    return [(Path(e.input).name, e.input_sha256, e.outputs, e.status, e.settings) for e in entries]


def lines(out: Path) -> list[Entry]:
    return list(manifest.read(out / "manifest.jsonl"))


def tar(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as archive:
        return {e.name: archive.extractfile(e).read() for e in archive}  # type: ignore[union-attr]


@pytest.mark.usefixtures("here")
class TestFolders:
    def test_makes_what_the_plain_command_makes(self, tmp_path: Path, model: Path) -> None:
        source = layouts(tmp_path / "in")
        expected = plain(source, tmp_path / "plain", model)
        assert render(source, tmp_path / "out", model=model, chunk=4) == Counts(rendered=6)
        assert pictures(tmp_path / "out") == pictures(tmp_path / "plain")
        assert len(pictures(tmp_path / "out")) == 12
        assert facts(lines(tmp_path / "out")) == facts(expected)

    def test_resumes_and_shares_the_manifest_with_the_plain_command(
        self, tmp_path: Path, model: Path
    ) -> None:
        source, out = layouts(tmp_path / "in"), tmp_path / "out"
        plain(source / "part0", out / "part0", model)
        (out / "part0" / "manifest.jsonl").unlink()
        render(source, out, model=model, overwrite=True)
        before = pictures(out)
        (out / "part1" / "003_1.png").write_bytes(b"damaged")
        again = render(source, out, model=model, skip_existing=True)
        assert again == Counts(rendered=1, skipped=5)
        assert pictures(out) == before
        assert len(plain(source, out, model, "--skip-existing")) == 7
        other = render(source, out, model=model, skip_existing=True, how=Options(images=1))
        assert other == Counts(rendered=6)

    def test_keeps_going(self, tmp_path: Path, model: Path) -> None:
        source, out = layouts(tmp_path / "in"), tmp_path / "out"
        (source / "part0" / "002.png").write_bytes(b"no picture")
        with pytest.raises(BadInput, match=r"002\.png"):
            render(source, out, model=model)
        assert [e.status for e in lines(out)] == ["done", "failed"]
        counts = render(source, out, model=model, skip_existing=True, keep_going=True)
        assert counts == Counts(rendered=4, skipped=1, failed=1)
        assert [Path(e.input).name for e in lines(out) if e.error] == ["002.png"] * 2
        assert len(pictures(out)) == 10

    def test_a_unit_that_kills_its_workers_is_given_up(self, tmp_path: Path, model: Path) -> None:
        source, out = layouts(tmp_path / "in"), tmp_path / "out"

        def report(counts: Counts, entries: Sequence[Entry]) -> None:
            for attempt in range(ATTEMPTS):
                (out / STAGING / f"1.{attempt}").touch()

        counts = render(source, out, model=model, chunk=2, keep_going=True, report=report)
        assert counts == Counts(rendered=4, failed=2)
        assert [e.status for e in lines(out)] == ["done"] * 2 + ["failed"] * 2 + ["done"] * 2
        with pytest.raises(ResourceError, match="workers died over it"):
            render(source, out, model=model, chunk=2, overwrite=True, report=report)
        assert not (out / STAGING).exists()

    def test_refuses_before_it_begins(self, tmp_path: Path, model: Path) -> None:
        source = layouts(tmp_path / "in")
        with pytest.raises(UsageError, match="--skip-existing"):
            render(source, source, model=model)
        with pytest.raises(UsageError, match="is the layout itself"):
            render(source, source, model=model, how=Options(images=1), overwrite=True)
        with pytest.raises(UsageError, match="--images 3"):
            render(source, tmp_path / "out", model=model, how=Options(images=3))
        model.write_bytes(b"damaged")
        with pytest.raises(BadInput, match=r"tiny\.safetensors"):
            render(source, tmp_path / "out", model=model)
        assert not (tmp_path / "out").exists()

    def test_what_a_worker_cannot_open_is_told(self, tmp_path: Path, model: Path) -> None:
        with pytest.raises(UsageError, match="no train ids"):
            render(
                layouts(tmp_path / "in"),
                tmp_path / "out",
                model=model,
                how=Options(encoding="train-ids"),
            )

    def test_labels_are_found_from_any_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        Path("my.toml").write_bytes((files("crn_fast") / "labels" / "camvid.toml").read_bytes())
        assert Options(labels="my.toml").absolute() == Options(labels=str(tmp_path / "my.toml"))
        assert Options(labels="camvid").absolute() == Options(labels="camvid")
        with pytest.raises(UsageError, match="'other' is unknown"):
            Options(labels="other").absolute()

    def test_a_full_disk_is_told(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: Any) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        source, out = layouts(tmp_path / "in"), tmp_path / "out"
        monkeypatch.setattr(Path, "write_text", full)
        with pytest.raises(ResourceError, match=r"cannot be written .*No space left"):
            render(source, out, model=model)

    def test_machines_that_differ_are_found(self, tmp_path: Path, model: Path) -> None:
        first, *_ = plain(layouts(tmp_path / "in"), tmp_path / "out", model)
        other = replace(first, backend="fused", precision="fp16", settings="other")
        dataset._check_alike([first])
        with pytest.raises(Mismatch, match="fused fp16"):
            dataset._check_alike([first, other])


@pytest.mark.usefixtures("here")
class TestSets:
    def test_a_webdataset(self, tmp_path: Path, model: Path) -> None:
        layouts(tmp_path / "in", 3)
        expected = plain(tmp_path / "in", tmp_path / "plain", model)
        sets, out = tmp_path / "sets", tmp_path / "out"
        sets.mkdir()
        tar(
            sets / "a.tar",
            {
                "part0/000.json": b"{}",
                "part0/000.png": png(0),
                "part0/002.png": png(2),
                "empty.json": b"{}",
                "../evil.png": png(3),
            },
        )
        tar(sets / "b.tar", {"part1/001.png": ids(1).tobytes()})
        (sets / "c.tar").write_bytes(b"no tar")
        counts = render(sets, out, model=model, to="webdataset", keep_going=True)
        assert counts == Counts(rendered=3, failed=3)
        made = members(out / "a.tar") | members(out / "b.tar")
        assert {n.replace(".0.", "_0.").replace(".1.", "_1."): d for n, d in made.items()} == (
            pictures(tmp_path / "plain")
        )
        assert sorted(pictures(out)) == ["a.tar", "b.tar"]
        assert [e.input_sha256 for e in lines(out) if e.status == "done" and "000" in e.input] == [
            expected[0].input_sha256
        ]
        errors = [e.error or "" for e in lines(out) if e.status == "failed"]
        assert [
            next(w for w in ("holds no layout", "no name for a file", "as a tar") if w in e)
            for e in errors
        ] == ["holds no layout", "no name for a file", "as a tar"]
        before = pictures(out)
        again = render(sets, out, model=model, to="webdataset", keep_going=True, skip_existing=True)
        assert again == Counts(rendered=2, skipped=1, failed=3)  # a.tar is not done
        assert pictures(out) == before

    def test_parquet(self, tmp_path: Path, model: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="pyarrow comes with Ray Data")
        pq = pytest.importorskip("pyarrow.parquet")
        plain(layouts(tmp_path / "in", 3), tmp_path / "plain", model)
        data = [png(0), ids(1).tobytes(), png(2), None, b"x"]
        names = ["part0/000", "part1/001", "part0/002", "none", "short"]
        source, out = tmp_path / "set.parquet", tmp_path / "out"
        pq.write_table(pa.table({"id": names, "layout": data}), source, row_group_size=2)
        how = Options(images=1)
        counts = render(source, out, model=model, how=how, to="parquet", keep_going=True)
        assert counts == Counts(rendered=3, failed=2)
        shards = [f"set-{number:05}.parquet" for number in (0, 1)]
        assert sorted(pictures(out)) == shards
        rows = [row for name in shards for row in pq.read_table(out / name).to_pylist()]
        assert [row["id"] for row in rows] == names[:3]
        expected = pictures(tmp_path / "plain")
        assert [row["picture"] for row in rows] == [expected[f"{n}_0.png"] for n in names[:3]]
        again = render(
            source, out, model=model, how=how, to="parquet", keep_going=True, skip_existing=True
        )
        assert again == Counts(rendered=1, skipped=2, failed=2)

        to_folder = tmp_path / "folder"
        assert render(source, to_folder, model=model, keep_going=True).rendered == 3
        assert pictures(to_folder) == expected
        with pytest.raises(BadInput, match="no column 'image'; it has id, layout"):
            render(source, tmp_path / "other", model=model, layout_column="image")

    def test_an_id_of_two_files_is_found(self, tmp_path: Path, model: Path) -> None:
        sets, out = tmp_path / "sets", tmp_path / "out"
        sets.mkdir()
        for number, name in enumerate("ab"):
            tar(sets / f"{name}.tar", {"000.png": png(number)})
        twice = r"a\.tar:000 and .*b\.tar:000: both give 000_0\.png; ids must differ"
        with pytest.raises(UsageError, match=twice):
            render(sets, out, model=model)
        render(sets / "a.tar", out, model=model, overwrite=True)
        with pytest.raises(UsageError, match=twice):  # Also where one of them is skipped.
            render(sets, out, model=model, skip_existing=True)
        assert render(sets, tmp_path / "shards", model=model, to="webdataset").rendered == 2

    def test_a_whole_shard_is_read_once(
        self, tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        source = tar(tmp_path / "a.tar", {f"{n:03}.png": png(n) for n in range(3)})
        out = tmp_path / "out"
        render(source, out, model=model, to="webdataset")
        read: list[Path] = []
        sha256_of = worker.sha256_of
        monkeypatch.setattr(worker, "sha256_of", lambda path: read.append(path) or sha256_of(path))
        again = render(source, out, model=model, to="webdataset", skip_existing=True)
        assert again == Counts(skipped=3)
        assert read == [out / "a.tar"]

        other = Options(images=1)
        again = render(source, out, model=model, to="webdataset", skip_existing=True, how=other)
        assert again == Counts(rendered=3)
        source.write_bytes(b"damaged")
        again = render(
            source,
            out,
            model=model,
            to="webdataset",
            skip_existing=True,
            how=other,
            keep_going=True,
        )
        assert again == Counts(failed=1)

    def test_parquet_of_other_kinds(self, tmp_path: Path, model: Path) -> None:
        pa = pytest.importorskip("pyarrow", reason="pyarrow comes with Ray Data")
        pq = pytest.importorskip("pyarrow.parquet")
        source, out = tmp_path / "set.parquet", tmp_path / "out"
        for data, kind in ((["a"], "string"), ([[1, 2]], "list<.*int64>")):
            pq.write_table(pa.table({"id": ["a"], "layout": data}), source)
            found = rf"set\.parquet: row 0: column 'layout' is {kind}; expected bytes"
            with pytest.raises(BadInput, match=found):
                render(source, out, model=model, overwrite=True)
        pq.ParquetWriter(source, pa.schema({"id": pa.string(), "layout": pa.binary()})).close()
        with pytest.raises(BadInput, match=r"set\.parquet: holds no layouts"):
            render(source, out, model=model, overwrite=True)


@pytest.mark.parametrize(
    "unit",
    [
        FolderUnit("part-00000", ((Path("in/ä\udcff.png"), PurePosixPath("ä\udcff.png")),)),
        ParquetUnit("set-00001", Path("set.parquet"), 1, 64, ("id", "layout")),
        TarUnit("a/b", Path("a/b.tar"), "seg.png"),
    ],
)
def test_units_travel(unit: Unit) -> None:
    assert wire.read_unit(wire.write_unit(7, unit)) == (7, unit)


@pytest.mark.parametrize(
    ("error", "arrives"),
    [
        (None, None),
        (Mismatch("of\nsize"), Mismatch),
        (worker._Abandoned("died"), ResourceError),
        (KeyError("ours"), RuntimeError),
    ],
)
def test_results_travel(error: Exception | None, arrives: type[Exception] | None) -> None:
    output = manifest.Output("a.png", "00")
    about = dict.fromkeys(("model", "model_sha256", "backend", "precision", "settings"), "x")
    entry = Entry(input="a", input_sha256=None, outputs=(output,), status="done", **about)
    sent = Result(3, [entry], 2, [("a.png", "a")], error)
    found = wire.read_result(wire.write_result(sent))
    assert (found.number, found.entries, found.skipped, found.owners) == (
        *(sent.number, sent.entries, sent.skipped, sent.owners),
    )
    assert (type(found.error), str(found.error)) == (arrives or type(None), str(error))


def test_without_ray(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SystemExit) as ended:
        main(["cluster-render", "--layout", "in", "-m", "street-256", "-o", str(tmp_path / "out")])
    assert ended.value.code == 8
    assert "pip install 'crn-fast[cluster]'" in capsys.readouterr().err


@pytest.fixture
def local_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Ray with processes of its own, and room for two workers."""
    pytest.importorskip("ray", reason="needs Ray: pip install 'crn-fast[cluster]'")
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    # Workers import from the folder that Ray was started in before all others, and the bare
    # crn_fast/ of the repository must not be imported in place of the installed package.
    monkeypatch.chdir(tmp_path)
    ray = dataset._ray()
    options = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init("local", num_cpus=2, object_store_memory=100 << 20, **options)
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_killed_worker_changes_nothing(tmp_path: Path, model: Path) -> None:
    source, out = layouts(tmp_path / "in", 96), tmp_path / "out"
    expected = plain(source, tmp_path / "plain", model)
    killed: list[int] = []
    killer = threading.Thread(target=_kill_one, args=(out / STAGING, killed))
    killer.start()
    counts = render(source, out, model=model, chunk=12, cpus_per_actor=1)
    killer.join()
    assert killed, "no worker was killed while it rendered"
    assert counts == Counts(rendered=96)
    assert pictures(out) == pictures(tmp_path / "plain")
    assert facts(lines(out)) == facts(expected)
    assert not [path for path in out.rglob("*") if path.name.startswith(".")]


def _kill_one(staging: Path, killed: list[int]) -> None:
    """Kill the process of a unit that has been begun, which so never ends its attempt."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for mark in staging.glob("[1-9].*"):
            try:
                pid = int(mark.read_text().split()[-1])
                os.kill(pid, signal.SIGSTOP)
                unfinished = mark.exists()
                os.kill(pid, signal.SIGKILL)
            except (OSError, IndexError, ValueError):
                continue
            if unfinished:
                killed.append(pid)
                return
        time.sleep(0.001)


def test_a_tar_that_says_its_layout_is_endless(tmp_path: Path) -> None:
    entry = tarfile.TarInfo("a.png")
    entry.size = 1 << 40
    (tmp_path / "x.tar").write_bytes(entry.tobuf() + bytes(1 << 16))
    with pytest.raises(BadInput, match=r"'a\.png' would be 1099511627776 bytes"):
        list(TarUnit("x", tmp_path / "x.tar", "png").jobs())
