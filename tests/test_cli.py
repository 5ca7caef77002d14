"""The command line from outside: files in, files and exit codes out, one line for each mistake."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import tiny
from crn_fast import checkpoint, cli, image, layout
from crn_fast.commands import emit
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
    """Nothing on stdout, one line on stderr with all the parts."""
    found, out, err = result
    assert found == code, err
    assert out == ""
    assert err.startswith("crn-fast: ") and err.count("\n") == 1, err
    for part in parts:
        assert part in err


def test_train_build_render_are_one_way(files: Run) -> None:
    code, out, err = files("build-engine", "net.safetensors")
    assert (code, out) == (0, "net.crn\n")
    assert "next: crn-fast render" in err
    code, out, _ = files("render", "--layout", "layout.png", "-m", "net.crn", "--json")
    assert code == 0
    result = json.loads(out)
    assert result["pictures"] == ["layout.render_0.png", "layout.render_1.png"]
    assert (result["backend"], result["precision"]) == ("native", "fp32")
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
    Path("piped.png").write_bytes(done.stdout)
    assert image.read("piped.png").shape == (12, 20, 3)


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
        ("--layout layout.png -o layout.png --images 1 --overwrite", 2, ["the layout itself"]),
        ("--layout layout.png -o no/where.png --images 1", 5, ["no does not exist"]),
        ("--layout layout.png -o a.png --format jpg", 2, ["a.png", "jpg"]),
        ("--layout . -o a.png", 2, ["need a folder"]),
        (f"--layout {'n' * 300}.png -o a.png", 3, ["no such file"]),
        (f"--layout layout.png -m {'n' * 300}", 3, ["no such file"]),
        ("--layout layout.png --threads 0", 2, ["threads"]),
        ("--layout layout.png --threads 99999999999", 2, ["threads"]),
        (f"--layout layout.png --size {'9' * 5000}x1", 2, ["1024x2048"]),
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


def test_every_layout_that_is_named_is_rendered(files: Run) -> None:
    shutil.copy("layout.png", "other.png")
    code, out, _ = files(
        "render", "--layout", "layout.png", "--layout", "other.png", "-m", "net.safetensors",
        "--images", "1", "-o", "pictures",
    )  # fmt: skip
    assert (code, out) == (0, "pictures\n")
    assert sorted(path.name for path in Path("pictures").glob("*.png")) == [
        "layout.png",
        "other.png",
    ]


def test_what_is_read_is_never_replaced(files: Run) -> None:
    failed(files("convert", "net.safetensors", "net.safetensors", "--half", "--force"), 2, "itself")
    mapped = files("labels", "map", "layout.png", "layout.png", "--from", "camvid", "--overwrite")
    failed(mapped, 2, "layout.png", "itself")


def test_a_command_to_paste_has_the_names_of_the_user(files: Run) -> None:
    Path("a b").mkdir()
    shutil.copy("layout.png", "a b/ö.png")
    for given, meant in (
        (["render", "--layout=a b/o.png"], "render '--layout=a b/ö.png'"),
        (["render", "--layout", r"a b\ö.png"], "render --layout 'a b/ö.png'"),
        (["rendr", "--layout", "x"], "render --layout x"),
        (["labels", "show", "CamVid"], "labels show camvid"),
        (
            ["render", "--layout", "layot.png", "-o", "layot.png"],
            "render --layout layout.png -o layot.png",
        ),
        (
            ["render", "-o", "layot.png", "--layout=layot.png"],
            "render -o layot.png --layout=layout.png",
        ),
        (
            ["render", "--layout", "layout.png", "-o", "new"],
            "render --layout layout.png -o new.png",
        ),
        (["eval", "x", "y", "--metrics", "psnr,ssmi"], "eval x y --metrics psnr,ssim"),
    ):
        _, _, err = files(*given)
        assert f"`crn-fast {meant}`" in err


def test_no_output_is_named_as_a_file_that_exists() -> None:
    assert cli._instead(("this", (__file__,)), ["train", "--out", "this"]).startswith("; did you")
    assert "--out that" in cli._instead(("this", ("that",)), ["train", "--out", "this"])


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
    assert (facts["stored as"], facts["note: licence"]) == ("float16", "yours")
    assert facts["weights"] == f"{tiny.SPEC.parameters():,}"


def test_convert_reads_the_authors_checkpoints(run: Run) -> None:
    bundle = Path(__file__).parent / "data" / "tf_tiny"
    code, _, err = run("convert", str(bundle), "net.safetensors", "--labels", "mini.toml")
    assert (code, "mini.toml" in err) == (3, True)
    Path("mini.toml").write_text('classes = [{name = "a"}, {name = "b"}, {name = "c"}]\n')
    code, out, err = run("convert", str(bundle), "net.safetensors", "--labels", "mini.toml")
    assert (code, out) == (0, "net.safetensors\n"), err
    failed(
        run("convert", str(bundle), "other.safetensors", "-q"), 4, "3 classes", "cityscapes has 20"
    )


@pytest.mark.parametrize("path", ["net.safetensors", "net.crn", "layout.png"])
def test_info(files: Run, path: str) -> None:
    files("build-engine", "net.safetensors")
    code, out, _ = files("info", path, "--labels", "camvid", "--json")
    kinds = {"net.safetensors": "checkpoint", "net.crn": "engine", "layout.png": "layout"}
    assert code == 0
    assert json.loads(out)["kind"] == kinds[path]


def test_info_mistakes(run: Run) -> None:
    failed(run("info", "nothing"), 3, "nothing", "no such file")
    failed(run("info", "."), 3, "ckpt.pt", "no such file")
    Path("empty").touch()
    failed(run("info", "empty"), 3, "empty", "neither a checkpoint")
    bundle = Path(__file__).parent / "data" / "tf_tiny"
    index = next(bundle.glob("*.index"))
    failed(run("info", str(index)), 3, "crn-fast convert")


def test_a_file_s_notes_cannot_pose_as_findings(run: Run) -> None:
    made = tiny.make_checkpoint()
    checkpoint.save("x.safetensors", dataclasses.replace(made, notes={"kind": "\x1b[31mred"}))
    code, out, _ = run("info", "x.safetensors")
    assert code == 0
    assert "kind        checkpoint" in out.replace("note: kind", "")
    assert "\x1b" not in out


def test_overflow_in_conversion_is_refused(run: Run) -> None:
    made = tiny.make_checkpoint()
    big = {name: tensor * np.float32(1e6) for name, tensor in made.tensors.items()}
    checkpoint.save("big.safetensors", dataclasses.replace(made, tensors=big))
    failed(run("convert", "big.safetensors", "half.safetensors", "--half"), 3, "no finite numbers")
    assert not Path("half.safetensors").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes and devices")
def test_a_closed_pipe_is_no_error_and_a_full_device_is(run: Run) -> None:
    for command, code, words in (
        ("labels list | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("labels list > /dev/full", 5, "No space left"),
    ):
        line = f"{sys.executable} -m crn_fast {command}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=60)
        assert (done.returncode, words in done.stderr) == (code, True), done.stderr
        assert "Traceback" not in done.stderr


def test_global_options_may_stand_anywhere(files: Run) -> None:
    code, _, err = files("build-engine", "net.safetensors", "-q")
    assert (code, err) == (0, "")
    failed(files("info", "--debug", "--nonsense"), 2, "--nonsense", "crn-fast info --help")


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


NAME = "a\n\x1b[2J\udcff.png"
"""Of a file: two lines, a screen that is wiped, and a byte that is no Unicode."""


def test_names_are_told_in_one_line(run: Run) -> None:
    _, _, err = run("render", "--layout", NAME)
    assert r"a\n\x1b[2J\udcff.png: " in err and err.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="names are those of Unix")
def test_results_are_escaped_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    emit(Path(NAME))
    assert capfdbinary.readouterr().out == os.fsencode(NAME) + b"\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    emit(Path(NAME))
    emit("a table\n  of\ttwo\x07 lines")
    shown = capfdbinary.readouterr().out.decode()
    assert shown == "a\\n\\x1b[2J\\udcff.png\na table\n  of\ttwo\\x07 lines\n"
