"""`crn-fast render` of folders: the same tree whatever happens on the way, and a manifest of it."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
from crn_fast import cli, image, layout
from crn_fast.backends import native
from crn_fast.engine import Engine
from crn_fast.layout import from_array
from crn_fast.palette import label_set
from crn_fast.rendering.compose import compose

pytestmark = pytest.mark.skipif(native.available() is not None, reason="needs the compiled ops")

Run = Callable[..., tuple[int, str, str]]
CAMVID = label_set("camvid")
COUNT = 12
TEMPORARY = re.compile(r"\..{8}\.tmp")
"""What a killed run may leave, hidden."""
MODEL = ("-m", "net.safetensors", "--images", "1")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`crn-fast render` in a folder with net.safetensors and COUNT layouts in the tree `in`."""
    monkeypatch.chdir(tmp_path)
    tiny.save_checkpoint(Path("net.safetensors"))
    write_layouts(COUNT)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(["render", *arguments])
        out, err = capfd.readouterr()
        assert isinstance(exited.value.code, int)
        return exited.value.code, out, err

    return call


def write_layouts(count: int) -> None:
    for i, ids in enumerate(tiny.labels_array(count)):
        path = Path("in", f"d{i % 3}", f"{i:03}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        layout.write(from_array(ids, CAMVID), path)


def pictures(folder: str) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.suffix != ".jsonl" and not TEMPORARY.fullmatch(path.name)
    }


def entries(path: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def spoil(name: str) -> None:
    Path("in", name).write_bytes(b"no png")


def test_the_tree_is_mirrored_and_told(run: Run) -> None:
    code, out, err = run("--layout", "in", *MODEL, "--timing")
    assert (code, out) == (0, f"{Path.cwd() / 'in.render'}\n"), err
    assert "frames/s" in err and "renderer busy" in err
    found = pictures("in.render")
    assert list(found) == sorted(f"d{i % 3}/{i:03}.png" for i in range(COUNT))
    expected = Engine.open("net.safetensors").render(tiny.labels_array(COUNT))[:, 0]
    for i in range(COUNT):
        picture = image.read(f"in.render/d{i % 3}/{i:03}.png")
        np.testing.assert_array_equal(picture, expected[i])
    lines = entries("in.render/manifest.jsonl")
    assert len(lines) == COUNT
    from hashlib import sha256

    for line in lines:
        assert (line["status"], line["backend"], line["precision"]) == ("done", "native", "fp32")
        assert line["error"] is None and isinstance(line["ms"], float)
        assert line["input_sha256"] == sha256(Path(str(line["input"])).read_bytes()).hexdigest()
        (output,) = line["outputs"]  # type: ignore[misc]
        assert output["sha256"] == sha256(found[output["path"]]).hexdigest()


def test_the_same_for_any_batch_and_threads(run: Run) -> None:
    assert run("--layout", "in", *MODEL, "-o", "a")[0] == 0
    for i, options in enumerate((["--batch", "5"], ["--threads", "1"], ["--batch", "50"])):
        assert run("--layout", "in/**/*.png", *MODEL, "-o", f"b{i}", *options)[0] == 0
        assert pictures(f"b{i}") == pictures("a")


def test_several_pictures_and_formats(run: Run) -> None:
    code, out, _ = run("--layout", "in", "-m", "net.safetensors", "--format", "jpg", "--json")
    assert code == 0
    assert [json.loads(line)["status"] for line in out.splitlines()] == ["done"] * COUNT
    assert len(pictures("in.render")) == 2 * COUNT
    assert image.read("in.render/d1/001_1.jpg").shape == (12, 20, 3)


def test_files_one_by_one(run: Run) -> None:
    code, _, _ = run("--layout", "in/d0/000.png", "in/d1/001.png", *MODEL, "-o", "out")
    assert code == 0
    assert list(pictures("out")) == ["d0/000.png", "d1/001.png"]


def test_compose(run: Run) -> None:
    options = ["-m", "net.safetensors", "--compose", "car=1,road=1,sky=0", "--seam", "2"]
    assert run("--layout", "in", *options)[0] == 0
    assert run("--layout", "in/d0/000.png", *options, "-o", "one.png")[0] == 0
    made = Engine.open("net.safetensors").render(tiny.labels_array(COUNT)[0])[0]
    choice = {CAMVID.names.index("car"): 1, CAMVID.names.index("road"): 1}
    expected = compose(made, tiny.labels_array(COUNT)[0], choice, 2)
    for path in ("in.render/d0/000.png", "one.png"):
        np.testing.assert_array_equal(image.read(path), expected)


def test_existing_pictures_are_kept_skipped_or_replaced(run: Run) -> None:
    assert run("--layout", "in", *MODEL)[0] == 0
    before = pictures("in.render")
    code, _, err = run("--layout", "in", *MODEL)
    assert code == 2 and "--skip-existing" in err and "--overwrite" in err
    code, _, err = run("--layout", "in", *MODEL, "--skip-existing")
    assert code == 0 and f"{COUNT} skipped" in err
    # What is missing, changed, or was made with other options is made again.
    Path("in.render/d0/000.png").unlink()
    Path("in.render/d1/001.png").write_bytes(b"changed")
    code, _, err = run("--layout", "in", *MODEL, "--skip-existing")
    assert code == 0 and f"2 layouts rendered, {COUNT - 2} skipped" in err
    assert pictures("in.render") == before
    code, _, err = run("--layout", "in", *MODEL, "--skip-existing", "--fit", "pad")
    assert code == 0 and f"{COUNT} layouts rendered" in err
    code, _, err = run("--layout", "in", *MODEL, "--overwrite")
    assert code == 0 and f"{COUNT} layouts rendered" in err
    assert run("--layout", "in", *MODEL, "--overwrite", "--skip-existing")[0] == 2


def test_the_first_bad_layout_ends_the_run_or_is_told(run: Run) -> None:
    spoil("d1/004.png")
    spoil("d2/005.png")
    code, out, err = run("--layout", "in", *MODEL, "-o", "stopped")
    assert code == 3 and out == "" and "004.png" in err
    failed = [line for line in entries("stopped/manifest.jsonl") if line["status"] == "failed"]
    assert [line["input"] for line in failed] == ["in/d1/004.png"]
    code, _, err = run("--layout", "in", *MODEL, "-o", "all", "--keep-going", "--batch", "3")
    assert code == 6 and "2 of 12" in err
    lines = entries("all/manifest.jsonl")
    assert sum(line["status"] == "done" for line in lines) == COUNT - 2
    errors = {line["input"]: line["error"] for line in lines if line["status"] == "failed"}
    assert set(errors) == {"in/d1/004.png", "in/d2/005.png"}
    assert "not a PNG" in str(errors["in/d1/004.png"])
    # Mended, the rest is done by the next run.
    write_layouts(COUNT)
    assert run("--layout", "in", *MODEL, "-o", "all", "--skip-existing")[0] == 0
    assert len(pictures("all")) == COUNT


def test_shards_are_parts_of_the_whole(run: Run) -> None:
    assert run("--layout", "in", *MODEL, "-o", "whole")[0] == 0
    for i in (1, 2, 3):
        assert run("--layout", "in", *MODEL, "-o", "parts", "--shard", f"{i}/3")[0] == 0
    assert pictures("parts") == pictures("whole")
    lines = [entries(f"parts/manifest.{i}-of-3.jsonl") for i in (1, 2, 3)]
    assert [len(part) for part in lines] == [4, 4, 4]
    # Another number of shards finds what is done all the same.
    _, _, err = run("--layout", "in", *MODEL, "-o", "parts", "--shard", "1/2", "--skip-existing")
    assert "6 skipped" in err


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ("--layout in -o a.png", 2, "need a folder"),
        ("--layout in -o -", 2, "need a folder"),
        ("--layout in -o in", 2, "the layout itself"),
        ("--layout in in/d0/000.png in/d0/000.png -o x", 2, "would both give"),
        ("--layout none/*.png", 3, "matches no file"),
        ("--layout in none.png", 3, "none.png: no such file"),
        ("--layout in --size 24x40", 4, "12x20"),
        ("--layout in --labels cityscapes --encoding train-ids --shard 9/3", 2, "--shard"),
        ("--layout in --compose car=9", 2, "0 to 1"),
        ("--layout in --seam 3", 2, "--compose"),
        ("--layout in --encoding train-ids", 2, "no train ids"),
        ("--layout in/d0/000.png --skip-existing", 2, "one layout"),
        ("--layout in --batch 0", 2, "--batch"),
    ],
)
def test_mistakes_come_before_the_work(arguments: str, code: int, named: str, run: Run) -> None:
    images = [] if "compose" in arguments else ["--images", "1"]
    before = sorted(Path().rglob("*"))
    found, out, err = run(*arguments.split(), "-m", "net.safetensors", *images)
    assert (found, out) == (code, ""), err
    assert named in err
    assert sorted(Path().rglob("*")) == before


def start(*arguments: str, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "crn_fast", "render", *arguments]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )  # type: ignore[call-overload, no-any-return]


def stop_at(lines: int, number: int, folder: str, *options: str) -> subprocess.Popen[str]:
    """Start a run, and send a signal as soon as its manifest has that many lines."""
    process = start("--layout", "in", *MODEL, "-o", folder, *options)
    path = Path(folder, "manifest.jsonl")
    while process.poll() is None:
        if path.exists() and path.read_bytes().count(b"\n") >= lines:
            process.send_signal(number)
            break
        time.sleep(0.001)
    return process


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_run_that_was_killed_goes_on(run: Run) -> None:
    write_layouts(300)
    assert run("--layout", "in", *MODEL, "-o", "whole")[0] == 0
    rng, unfinished = random.Random(8), 0
    for lines in (0, rng.randrange(1, 40), rng.randrange(40, 120)):
        stop_at(lines, signal.SIGKILL, "killed", "--skip-existing").wait(60)
        unfinished += len(entries_that_are_whole("killed")) < 300
    with Path("killed/manifest.jsonl").open("ab") as torn:
        torn.write(b'{"input": "in/d0/0')
    assert unfinished >= 2
    assert pictures("killed").items() <= pictures("whole").items()
    code, _, err = run("--layout", "in", *MODEL, "-o", "killed", "--skip-existing")
    assert code == 0 and "skipped" in err
    assert pictures("killed") == pictures("whole")
    done = {str(line["input"]) for line in entries("killed/manifest.jsonl")}
    assert len(done) == 300


def entries_that_are_whole(folder: str) -> list[str]:
    path = Path(folder, "manifest.jsonl")
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly(number: int, run: Run) -> None:
    write_layouts(600)
    process = stop_at(2, number, "out")
    out, err = process.communicate(timeout=60)
    assert process.returncode == 75, err
    assert out == "" and "--skip-existing" in err and "Traceback" not in err
    lines = entries("out/manifest.jsonl")
    assert 2 <= len(lines) < 600
    assert f"{len(lines)} of 600 layouts done" in err
    assert len(pictures("out")) == len(lines)


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX limits")
def test_a_full_disk_is_exit_5_and_nothing_is_half_written(run: Run) -> None:
    """A limit on the size of files stands for the disk: no picture fits, but the manifest does."""
    import resource

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, 600))

    process = start(
        "--layout", "in", *MODEL, "-o", "out", "--keep-going", preexec_fn=limit
    )  # fmt: skip
    _, err = process.communicate(timeout=60)
    assert process.returncode == 5 and "Traceback" not in err, err
    assert pictures("out") == {}


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write")
def test_a_folder_that_may_not_be_written_is_exit_5(run: Run) -> None:
    Path("out").mkdir(mode=0o500)
    code, _, err = run("--layout", "in", *MODEL, "-o", "out")
    assert code == 5 and "out" in err


def test_a_file_in_the_way_is_exit_5(run: Run) -> None:
    Path("out").write_text("a file")
    code, _, err = run("--layout", "in", *MODEL, "-o", "out")
    assert code == 5 and "out" in err


@pytest.mark.skipif(sys.platform == "win32", reason="such names are refused there")
def test_evil_names_are_rendered_inside(run: Run) -> None:
    source = Path("in/d0/000.png").read_bytes()
    for name in (
        "..png",
        "a\nb.png",
        "$(touch x).png",
        b"\xff.png".decode(errors="surrogateescape"),
    ):
        Path("in/d0", name).write_bytes(source)
    Path("in/d0", "n" * 251 + ".png").write_bytes(source)  # with _0.png too long
    Path("in/loop").symlink_to("..")
    before = set(Path().iterdir())
    code, _, err = run("--layout", "in", "-m", "net.safetensors", "-o", "out", "--keep-going")
    assert code == 6 and "1 of 17" in err
    assert set(Path().iterdir()) - before == {Path("out")}
    failed = [line for line in entries("out/manifest.jsonl") if line["status"] == "failed"]
    assert "too long" in str(failed[0]["error"])
    assert len(pictures("out")) == 2 * 16
