"""The command line from outside: files in, files and exit codes out, one line for each mistake."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
from crn_fast import cli, image, layout
from crn_fast.layout import from_array
from crn_fast.palette import label_set

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """Call crn-fast in an empty folder: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(list(arguments))
        out, err = capfd.readouterr()
        code = exited.value.code
        assert isinstance(code, int)
        return code, out, err

    return call


@pytest.fixture
def files(run: Run) -> Run:
    """`run`, in a folder with net.safetensors and layout.png for it."""
    pytest.importorskip("torch", reason="rendering needs torch")
    tiny.save_checkpoint(Path("net.safetensors"))
    layout.write(from_array(tiny.labels_array()[0], label_set("camvid")), "layout.png")
    return run


def failed(result: tuple[int, str, str], code: int, *parts: str) -> None:
    found, out, err = result
    assert found == code, err
    assert out == ""
    line = err.strip().splitlines()[-1]
    assert "Traceback" not in err
    for part in parts:
        assert part in line


def test_train_build_render_are_one_way(files: Run) -> None:
    code, out, err = files("build-engine", "net.safetensors")
    assert (code, out) == (0, "net.crn\n")
    assert "next: crn-fast render" in err
    code, out, _ = files("render", "--layout", "layout.png", "-m", "net.crn", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["pictures"] == ["layout.render_0.png", "layout.render_1.png"]
    assert (result["backend"], result["precision"]) == ("eager", "fp32")
    pictures = [image.read(path) for path in result["pictures"]]
    from crn_fast.engine import Engine

    expected = Engine.open("net.crn").render(tiny.labels_array())[0]
    np.testing.assert_array_equal(pictures, expected)


def test_render_writes_to_a_pipe(files: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-m", "crn_fast", "render", "--layout", "-", "-o", "-"]
    done = subprocess.run(
        [*command, "-m", "net.safetensors", "--images", "1"],
        input=Path("layout.png").read_bytes(),
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert image.read(io.BytesIO(done.stdout)).shape == (12, 20, 3)


def test_render_formats(files: Run) -> None:
    for name in ("a.jpg", "a.webp", "a.png"):
        code, out, _ = files(
            "render", "--layout", "layout.png", "-m", "net.safetensors", "--images=1", "-o", name
        )
        assert (code, out) == (0, f"{name}\n")
        assert image.read(name).shape == (12, 20, 3)


def test_render_maps_between_label_sets(files: Run) -> None:
    road = from_array(np.zeros((12, 20), np.uint8), label_set("cityscapes"))
    layout.write(road, "road_labelTrainIds.png")
    code, _, err = files(
        "render", "--layout", "road_labelTrainIds.png", "--labels", "cityscapes", "--encoding",
        "train-ids", "-m", "net.safetensors", "--images", "1", "-o", "a.png",
    )  # fmt: skip
    assert code == 0
    assert "mapped from cityscapes to camvid" in err
    camvid = from_array(np.full((12, 20), 3, np.uint8), label_set("camvid"))
    layout.write(camvid, "camvid.png")
    files("render", "--layout", "camvid.png", "-m", "net.safetensors", "--images=1", "-o", "b.png")
    np.testing.assert_array_equal(image.read("a.png"), image.read("b.png"))


@pytest.mark.parametrize(
    ("arguments", "code", "parts"),
    [
        ("--layout none.png", 3, ["none.png", "no such file"]),
        ("--layout net.safetensors", 3, ["net.safetensors", "PNG"]),
        ("--layout layout.png -m none.crn", 3, ["none.crn", "no such file"]),
        ("--layout layout.png --labels nope", 2, ["nope", "cityscapes"]),
        ("--layout layout.png --size 24x40", 4, ["12x20", "24x40"]),
        ("--layout layout.png --size 24", 2, ["24", "1024x2048"]),
        ("--layout layout.png --images 3", 2, ["--images 3", "makes 2"]),
        ("--layout layout.png -o a.gif", 2, ["a.gif", "png"]),
        ("--layout layout.png -o -", 2, ["--images 1"]),
        ("--layout layout.png -o layout.png --images 1", 2, ["exists", "--overwrite"]),
        ("--layout layout.png -o no/where.png --images 1", 5, ["no does not exist"]),
        ("--layout layout.png --device 7", 8, ["--device 7"]),
        ("--layout layout.png --backend warp", 2, ["warp"]),
        ("--layout small.png", 4, ["6x10", "12x20", "--fit"]),
        ("--layout layout.png --no-such-option", 2, ["--no-such-option"]),
    ],
)
def test_render_mistakes(files: Run, arguments: str, code: int, parts: list[str]) -> None:
    layout.write(from_array(np.zeros((6, 10), np.uint8), label_set("camvid")), "small.png")
    before = sorted(Path().iterdir())
    model = [] if "-m" in arguments.split() else ["-m", "net.safetensors"]
    failed(files("render", *arguments.split(), *model), code, *parts)
    assert sorted(Path().iterdir()) == before


def test_build_engine_mistakes(files: Run) -> None:
    Path("truncated.safetensors").write_bytes(Path("net.safetensors").read_bytes()[:-9])
    failed(files("build-engine", "truncated.safetensors"), 3, "truncated.safetensors")
    failed(files("build-engine", "net.safetensors", "-o", "x.engine"), 2, ".crn")
    failed(files("build-engine", "net.safetensors", "--size", "1x1"), 4, "12x20")
    assert files("build-engine", "net.safetensors", "--dry-run")[0] == 0
    assert not Path("net.crn").exists()
    assert files("build-engine", "net.safetensors")[0] == 0
    failed(files("build-engine", "net.safetensors"), 2, "net.crn", "--force")
    assert files("build-engine", "net.safetensors", "--force")[0] == 0


def test_convert_halves_and_keeps_the_network(files: Run) -> None:
    code, out, _ = files(
        "convert", "net.safetensors", "half.safetensors", "--half", "--licence", "yours"
    )
    assert (code, out) == (0, "half.safetensors\n")
    code, out, _ = files("info", "half.safetensors", "--json")
    facts = json.loads(out)
    assert (facts["stored as"], facts["licence"]) == ("float16", "yours")
    assert facts["weights"] == f"{tiny.SPEC.parameters():,}"


def test_convert_reads_the_authors_checkpoints(run: Run) -> None:
    bundle = Path(__file__).parent / "data" / "tf_tiny"
    code, _, err = run("convert", str(bundle), "net.safetensors", "--labels", "mini.toml")
    assert (code, "mini.toml" in err) == (3, True)
    Path("mini.toml").write_text('classes = [{name = "a"}, {name = "b"}, {name = "c"}]\n')
    code, out, err = run("convert", str(bundle), "net.safetensors", "--labels", "mini.toml")
    assert (code, out) == (0, "net.safetensors\n"), err
    failed(run("convert", str(bundle), "other.safetensors"), 4, "3 classes", "cityscapes has 20")


@pytest.mark.parametrize("path", ["net.safetensors", "net.crn", "layout.png"])
def test_info(files: Run, path: str) -> None:
    files("build-engine", "net.safetensors")
    code, out, _ = files("info", path, "--labels", "camvid", "--json")
    kinds = {"net.safetensors": "checkpoint", "net.crn": "engine", "layout.png": "layout"}
    assert code == 0
    assert json.loads(out)["kind"] == kinds[path]


def test_info_mistakes(run: Run) -> None:
    failed(run("info", "nothing"), 3, "nothing", "no such file")


def test_doctor_reports(run: Run) -> None:
    code, out, _ = run("doctor", "--json")
    facts = json.loads(out)
    assert code == (0 if facts["backend eager"] == "ready" else 7)
    assert {"python", "torch", "compiled kernels", "model street-1024"} <= facts.keys()


def test_a_bug_is_one_line_and_exit_1(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("oh")

    monkeypatch.setattr("crn_fast.models.resolve", broken)
    failed(run("info", "x"), 1, "KeyError", "--debug")
    monkeypatch.undo()
    monkeypatch.setattr("crn_fast.models.resolve", broken)
    with pytest.raises(KeyError):
        cli.main(["--debug", "info", "x"])


def test_ctrl_c_is_130(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crn_fast.models.resolve", interrupt)
    failed(run("info", "x"), 130, "interrupted")


@pytest.mark.parametrize("name", [[], *([name] for name in cli.COMMANDS)])
def test_every_help_ends_with_examples(run: Run, name: list[str]) -> None:
    code, out, _ = run(*name, "--help")
    assert code == 0
    tail = out[-700:]
    assert "crn-fast " in tail
    assert "Examples:" in tail or "First steps:" in out


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys, crn_fast.cli as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('torch', 'numpy', 'PIL', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"
