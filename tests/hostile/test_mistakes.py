"""P21: mistakes of newcomers, and random command lines: exit code, one line, hints that work."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from hostile import bad_command_lines, random_commands
from hostile.campaign import Campaigns
from hostile.command_line import Main, Ran, outrage, run
from hostile.mistakes import Mistake, judge, judge_without, read_mistakes, take_next_step
from hostile.newcomer import make_scene
from hostile.worker import verdicts

pytest.importorskip("torch", reason="the scene holds files that torch wrote")

SECONDS = 60.0
"""Of a case: some train a step."""
NEXT = (
    "render --layout layout.png -m ckpt.pt",
    "render --layout layout.png -m net.crn",
    "render --layout 'my scenes/straße 1.png' -m ckpt.pt -o 'my scenes/a b.png'",
    "build-engine net.safetensors -o 'my scenes/a b.crn' --no-verify",
    "convert ckpt.pt 'my scenes/a b.safetensors'",
    "info 'my scenes/große straße.png'",
    "info net.crn",
    "info ckpt.pt",
    "labels list",
    "labels show camvid",
    "labels map drive 'my scenes/drive' --from camvid",
    "train DATA -c my.toml --out 'my run'",
)
"""What is right, and ends with what comes next; the last takes seconds."""
EXTRAS = (
    ("torch", "train", "train DATA -c my.toml"),
    ("torchmetrics", "train", "eval net.safetensors DATA"),
    ("uvicorn", "serve", "serve"),
    ("fastapi uvicorn", "serve", "paint --no-open"),
    ("ray", "cluster", "cluster-render --layout drive -m net.crn -o out"),
    ("av", "video", "render --layout drive -m net.crn -o drive.mp4"),
    ("onnx", "onnx", "export onnx net.safetensors"),
    ("tensorrt tensorrt_rtx", "tensorrt", "build-engine net.safetensors -o t.crn --backend trt"),
    ("triton", "gpu", "build-engine net.safetensors -o t.crn --backend fused"),
)
"""What is not installed, the extra that holds it, and a command that needs it."""


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_scene(tmp_path_factory.mktemp("mistakes") / "scene")


def test_every_mistake_has_an_answer_that_works(campaigns: Campaigns, scene: Path) -> None:
    cases = read_mistakes()
    with campaigns.tried("P21", "mistakes of newcomers, hints pasted") as tally:
        for _, wrong in verdicts(partial(judge, scene), cases, seconds=SECONDS):
            tally.case(wrong)
        tally.figures["hints pasted"] = str(sum(len(case.hints) for case in cases))


@pytest.mark.parametrize(
    "defect",
    [
        bad_command_lines.tracing,
        bad_command_lines.failing,
        bad_command_lines.forgetful,
        bad_command_lines.destructive,
    ],
)
def test_a_bad_command_line_is_noticed(campaigns: Campaigns, scene: Path, defect: Main) -> None:
    wanted = (
        "render --layout half.png",
        "render --layout aachen",
        "render --layout street.png -o photo",
    )
    few = [case for case in read_mistakes() if case.words.startswith(wanted)]
    assert len(few) >= 3
    with campaigns.control("P21", f"{defect.__doc__}".rstrip(".")) as tally:
        for case in few:
            tally.case(judge(scene, case, defect))


def test_what_comes_next_works(campaigns: Campaigns, scene: Path) -> None:
    with campaigns.tried("P21", "the next steps that crn-fast tells of") as tally:
        for words in NEXT[: campaigns.count(commit=len(NEXT) - 1, soak=len(NEXT))]:
            tally.case(take_next_step(scene, words))


def test_a_wrong_next_step_is_noticed(campaigns: Campaigns, scene: Path) -> None:
    with campaigns.control("P21", "next steps without the file that they are about") as tally:
        for words in NEXT[:2]:
            tally.case(take_next_step(scene, words, bad_command_lines.misleading))


def test_random_command_lines(campaigns: Campaigns, scene: Path) -> None:
    lines = random_commands.make(campaigns.rng(21), campaigns.count(commit=150, soak=3_000))
    subject = partial(random_commands.judge, scene)
    with campaigns.tried("P21", "random command lines") as tally:
        for _, wrong in verdicts(subject, lines, seconds=SECONDS):
            tally.case(wrong)


def test_random_command_lines_find_a_bug(campaigns: Campaigns, scene: Path) -> None:
    with campaigns.control("P21", "an exception where a name is not ASCII") as tally:
        for words in random_commands.make(campaigns.rng(22), 100):
            tally.case(random_commands.judge(scene, words, bad_command_lines.buggy))


def test_missing_extras(campaigns: Campaigns, scene: Path) -> None:
    cases = [
        (packages, Mistake(words, 8, (), (f"pip install 'crn-fast[{extra}]'",)))
        for packages, extra, words in EXTRAS
    ]
    with campaigns.tried("P21", "packages that are not installed") as tally:
        for _, wrong in verdicts(partial(judge_without, scene), cases, seconds=SECONDS):
            tally.case(wrong)


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        ("{crn} labels list | head -1; exit ${PIPESTATUS[0]}", 0, ""),
        ("{crn} info net.crn --json | true; exit ${PIPESTATUS[0]}", 0, ""),
        ("{crn} labels list >&-", 0, ""),
        ("{crn} labels list 2>&-", 0, ""),
        ("{crn} labels list > /dev/full", 5, "No space left"),
        ("true | {crn} render --layout - -m net.crn -o -", 3, "is empty"),
        ("{crn} render --layout - -m net.crn <&-", 2, "closed"),
        ("cat cut.png | {crn} render --layout - -m net.crn -o - > out.png", 3, "truncated"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="POSIX pipes and devices")
def test_pipes(scene: Path, line: str, code: int, words: str) -> None:
    command = line.replace("{crn}", f"{sys.executable} -m crn_fast")
    done = subprocess.run(
        ["bash", "-c", command], cwd=scene, capture_output=True, text=True, timeout=60
    )
    ran = Ran(done.returncode, done.stdout, done.stderr)
    assert (ran.code, outrage(ran)) == (code, None), done.stderr
    assert words in ran.message


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_ctrl_c(scene: Path) -> None:
    stream = ["--format-in", "raw", "-o", "-", "--format", "raw", "-m", "net.crn"]
    command = [sys.executable, "-m", "crn_fast", "-q", "render", "--layout", "-", *stream]
    with subprocess.Popen(
        command, cwd=scene, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(bytes(12 * 20))
        process.stdin.flush()
        assert len(process.stdout.read(12 * 20 * 3)) == 12 * 20 * 3
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert process.stderr.read().decode().startswith("crn-fast: interrupted")


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="needs two users")
def test_a_folder_that_may_not_be_written(scene: Path, tmp_path: Path) -> None:
    # Once as who may, for nobody cannot import what lies in the home of another.
    code = (
        "import os, sys\n"
        "from crn_fast.cli import main\n"
        "try:\n    main([*sys.argv[1:], '-o', 'mine.png'])\n"
        "except SystemExit as ended:\n    assert ended.code == 0\n"
        "os.setuid(65534)\n"
        "main([*sys.argv[1:], '-o', 'theirs.png'])\n"
    )
    words = ["render", "--layout", str(scene / "layout.png"), "-m", str(scene / "net.crn")]
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, outrage(Ran(5, "", done.stderr))) == (5, None), done.stderr
    assert "no permission" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["mine.png"]


@pytest.mark.skipif(find_spec("fastapi") is None, reason="needs the extra [serve]")
def test_serving_mistakes(campaigns: Campaigns, scene: Path) -> None:
    with (
        campaigns.tried("P21", "mistakes of those who serve") as tally,
        socket.create_server(("127.0.0.1", 0)) as taken,
    ):
        port = taken.getsockname()[1]
        for words, code, says in (
            (f"serve -m net.crn --port {port}", 5, (f"port {port}", "--port 0")),
            ("serve -m net.crn --host 0.0.0.0", 2, ("--host 0.0.0.0", "--token-file")),
            ("serve -m net.crn --token-file none.txt", 3, ("none.txt", "no such file")),
            ("serve -m net.crn --token-file nothing.png", 3, ("nothing.png", "0 characters")),
            ("serve -m page.crn --port 0", 3, ("page.crn", "web page")),
            ("serve -m street256 --port 0", 2, ("street256", "crn-fast serve -m street-256")),
        ):
            ran = run(words.split(), scene)
            message = ran.message
            wrong = ran.code != code or not all(part in message for part in says)
            tally.case(outrage(ran) or (f"{words}: exit {ran.code}: {message}" if wrong else None))
