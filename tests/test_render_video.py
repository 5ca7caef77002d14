"""`crn-fast render` of frames: videos and raw pipes, in and out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import tiny
from crn_fast import cli, layout
from crn_fast.backends import native
from crn_fast.engine import Engine
from crn_fast.errors import BadInput
from crn_fast.layout import from_array
from crn_fast.palette import label_set
from crn_fast.rendering import raw

pytestmark = pytest.mark.skipif(native.available() is not None, reason="needs the compiled ops")

Run = Callable[..., tuple[int, str, str]]
CAMVID = label_set("camvid")
MODEL = ("-m", "net.safetensors", "--images", "1")
FRAMES = tiny.labels_array(11)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """`crn-fast render` in a folder with net.safetensors and numbered layouts in `in`."""
    monkeypatch.chdir(tmp_path)
    tiny.save_checkpoint(Path("net.safetensors"))
    Path("in").mkdir()
    for i, ids in enumerate(FRAMES):
        layout.write(from_array(ids, CAMVID), f"in/frame{i}.png")  # frame10 after frame9

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as exited:
            cli.main(["render", *arguments])
        out, err = capfd.readouterr()
        assert isinstance(exited.value.code, int)
        return exited.value.code, out, err

    return call


def rendered() -> np.ndarray:
    pictures: np.ndarray = Engine.open("net.safetensors").render(FRAMES)[:, 0]
    return pictures


def write_video(
    path: str, codec: str, layout: str, frames: np.ndarray, gop: int = 1, **more: dict[str, str]
) -> None:
    import av

    with av.open(path, "w") as container:
        track = container.add_stream(codec, rate=25)
        track.height, track.width, track.pix_fmt = *frames.shape[1:3], layout
        track.codec_context.gop_size, track.options = gop, more.get("options", {})
        kind = "gray" if frames.ndim == 3 else "rgb24"
        for frame in frames:
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format=kind)))
        container.mux(track.encode(None))


@pytest.fixture
def av() -> Iterator[None]:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    return


@pytest.mark.usefixtures("av")
def test_numbered_layouts_become_a_video(run: Run) -> None:
    import av

    code, out, err = run("--layout", "in", *MODEL, "-o", "out.mp4", "--fps", "30000/1001")
    assert (code, out) == (0, "out.mp4\n"), err
    with av.open("out.mp4") as container:
        track = container.streams.video[0]
        assert (track.codec_context.name, track.height, track.width) == ("h264", 12, 20)
        assert track.average_rate is not None and abs(track.average_rate - 29.97) < 0.01
        found = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(track)])
    assert len(found) == len(FRAMES)
    # Colours are subsampled, so only the mean of each frame is near; frames are noise, so it also
    # says that they are in order.
    means, expected = (a.astype(float).mean((1, 2)) for a in (found, rendered()))
    assert np.abs(means - expected).max() < 12
    assert np.corrcoef(means[:, 1], expected[:, 1])[0, 1] > 0.8
    assert run("--layout", "in", *MODEL, "-o", "out.mp4")[0] == 2
    assert sorted(p.name for p in Path().iterdir()) == ["in", "net.safetensors", "out.mp4"]


@pytest.mark.usefixtures("av")
@pytest.mark.parametrize(
    ("name", "codec", "pixels", "kind"),
    [
        ("ids.mkv", "ffv1", "gray", "ids"),
        ("ids.avi", "png", "gray", "ids"),
        ("colours.mkv", "ffv1", "bgr0", "color"),
        ("colours.mov", "png", "rgb24", "color"),
    ],
)
def test_videos_of_labels_without_loss(
    name: str, codec: str, pixels: str, kind: str, run: Run
) -> None:
    colors = np.array(CAMVID.colors, np.uint8)
    write_video(name, codec, pixels, FRAMES if kind == "ids" else colors[FRAMES])
    code, out, err = run("--layout", name, *MODEL, "-o", "out.raw")
    assert (code, out) == (0, "out.raw\n"), err
    assert Path("out.raw").read_bytes() == rendered().tobytes()


@pytest.mark.usefixtures("av")
@pytest.mark.parametrize(
    ("codec", "pixels", "gop", "named"),
    [
        ("libx264", "yuv420p", 1, "its codec is h264"),
        ("rawvideo", "gray", 1, "its codec is rawvideo"),
        ("ffv1", "yuv420p", 1, "its pixels are yuv420p"),
        ("ffv1", "gray", 12, "frame 1: is told by the frames before it"),
    ],
)
@pytest.mark.usefixtures("av")
def test_videos_that_lose_labels_are_refused(
    codec: str, pixels: str, gop: int, named: str, run: Run
) -> None:
    write_video("labels.avi", codec, pixels, FRAMES, gop)
    code, out, err = run("--layout", "labels.avi", *MODEL, "-o", "out.mp4")
    assert (code, out) == (3, "") and named in err and err.count("\n") <= 2
    assert not Path("out.mp4").exists()


@pytest.mark.usefixtures("av")
def test_frames_without_checksums_are_refused(run: Run) -> None:
    write_video("labels.mkv", "ffv1", "gray", FRAMES, options={"slicecrc": "0"})
    code, _, err = run("--layout", "labels.mkv", *MODEL, "-o", "out.mp4")
    assert code == 3 and "frame 0: damaged, or saved without checksums" in err


@pytest.mark.usefixtures("av")
def test_damaged_videos_are_refused(run: Run) -> None:
    write_video("labels.mkv", "ffv1", "gray", FRAMES)
    whole = Path("labels.mkv").read_bytes()
    Path("empty.mkv").write_bytes(b"")
    Path("list.mkv").write_text("#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:9/x.ts\n")
    Path("text.avi").write_text("no video")
    Path("short.mkv").write_bytes(whole[:300])
    for name in ("empty.mkv", "list.mkv", "text.avi", "short.mkv", "none.mkv"):
        code, _, err = run("--layout", name, *MODEL, "-o", "out.raw")
        assert code == 3 and name in err, err
    assert not Path("out.raw").exists()


def test_a_bad_frame_leaves_no_file(run: Run) -> None:
    Path("in/frame7.png").write_bytes(b"no png")
    for name in ("out.raw", "out.mp4"):
        if name == "out.mp4":
            pytest.importorskip("av", reason="the extra [video] is not installed")
        code, _, err = run("--layout", "in", *MODEL, "-o", name)
        assert code == 3 and "frame7.png" in err
        assert sorted(p.name for p in Path().iterdir()) == ["in", "net.safetensors"]


def test_raw_frames_go_through_pipes(run: Run) -> None:
    command = [sys.executable, "-m", "crn_fast", "render", "--layout", "-", "--format-in", "raw"]
    torn = FRAMES.tobytes() + b"\0" * 17
    for given, code in ((FRAMES.tobytes(), 0), (torn, 3), (b"", 0)):
        done = subprocess.run(
            [*command, *MODEL, "-o", "-", "--format", "raw"],
            input=given,
            capture_output=True,
            timeout=60,
        )
        assert done.returncode == code, done.stderr
        assert done.stdout == (rendered().tobytes() if given else b"")
    assert (
        b"stdin: ends within frame 11"
        in subprocess.run(
            [*command, *MODEL, "-o", "-", "--format", "raw"], input=torn, capture_output=True
        ).stderr
    )


def test_a_simulator_may_wait_for_each_picture(run: Run) -> None:
    command = [sys.executable, "-m", "crn_fast", "render", "--layout", "-", "--format-in", "raw"]
    command += [*MODEL, "-o", "-", "--format", "raw", "-q"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin and process.stdout
        for ids, expected in zip(FRAMES, rendered(), strict=True):
            process.stdin.write(ids.tobytes())
            process.stdin.flush()
            assert process.stdout.read(expected.nbytes) == expected.tobytes()
        process.stdin.close()
        assert process.wait(20) == 0


def test_raw_reads_what_comes_in_pieces() -> None:
    class Slow(BytesIO):
        def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
            return super().readinto(buffer[:5])

    found = list(raw.read(Slow(FRAMES.tobytes()), (12, 20)))
    np.testing.assert_array_equal(found, FRAMES)
    with pytest.raises(BadInput, match="x: ends within frame 0, after 239 of its 240 bytes"):
        list(raw.read(BytesIO(bytes(239)), (12, 20), "x"))


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        ("--layout in -o x.mp4 --keep-going", 2, "--keep-going is for folders"),
        ("--layout in -o x.mp4 --shard 1/2", 2, "--shard is for folders"),
        ("--layout in -o x.mp4 --fps 0", 2, "--fps"),
        ("--layout in -o x.mp4 --fps a", 2, "--fps"),
        ("--layout in --format mp4", 2, "name the file with -o"),
        ("--layout in --format mp4 -o -", 2, "cannot be written to a pipe"),
        ("--layout in --format raw --fps 5 -o x.raw", 2, "--fps is for videos"),
        ("--layout in --format-in raw -o folder", 2, "OUT.mp4"),
        ("--layout none --format-in raw -o x.raw", 3, "none: no such file"),
        ("--layout none.mkv -o x.raw", 3, "none.mkv: no such file"),
        ("--layout in -o no/x.raw --format raw", 5, "does not exist"),
        ("--layout in -o x.raw --format raw --images 2", 2, "--compose"),
    ],
)
def test_mistakes_are_named(arguments: str, code: int, named: str, run: Run) -> None:
    if "mp4" in arguments or "mkv" in arguments:
        pytest.importorskip("av", reason="the extra [video] is not installed")
    images = () if "--images" in arguments else ("--images", "1")
    found, out, err = run(*arguments.split(), "-m", "net.safetensors", *images)
    assert (found, out) == (code, ""), err
    assert named in err and "Traceback" not in err
    assert sorted(p.name for p in Path().iterdir()) == ["in", "net.safetensors"]


def test_a_video_without_pyav_says_how_to_get_it(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    code, _, err = run("--layout", "in", *MODEL, "-o", "x.mp4", "--json")
    assert code == 8 and "crn-fast[video]" in err
    json.dumps(err)
