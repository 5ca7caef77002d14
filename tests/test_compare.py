"""The judging experiment: a fair plan, a page that gives nothing away, and honest sums."""

from __future__ import annotations

import http.client
import json
import os
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from comparing import comparing
from crn_fast import cli, image
from crn_fast.compare import answers
from crn_fast.compare.server import Experiment, Server
from crn_fast.compare.trials import Source, Trial, picture, plan, scenes
from crn_fast.errors import BadInput, ResourceError, UsageError, one_line

GREY: dict[Source, int] = {"a": 50, "b": 100, "real": 150}
BOTH: list[tuple[Source, Source]] = [("a", "real"), ("b", "real")]


@pytest.fixture
def folders(tmp_path: Path) -> dict[Source, Path]:
    """Six scenes; each source is of one grey, but for a white corner that makes it no constant."""
    suffixes: dict[Source, str] = {"a": ".render.png", "b": ".jpg", "real": "_leftImg8bit.png"}
    for source, grey in GREY.items():
        for i in range(6):
            rgb = np.full((16, 32, 3), grey, np.uint8)
            rgb[:4, :4] = 255
            path = tmp_path / source / f"city{i % 2}" / f"scene{i}{suffixes[source]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            image.write(path, rgb, path.suffix[1:])
    return {source: tmp_path / source for source in GREY}


def test_scenes_are_found_by_name_whatever_their_suffixes(folders: dict[Source, Path]) -> None:
    found = scenes(folders)
    assert [scene.name for scene in found] == sorted(f"city{i % 2}/scene{i}" for i in range(6))
    (folders["b"] / "city0" / "scene0.jpg").unlink()
    assert len(scenes(folders)) == 5


def test_folders_that_share_nothing_are_named(folders: dict[Source, Path], tmp_path: Path) -> None:
    image.write(tmp_path / "lonely.png", np.zeros((16, 32, 3), np.uint8))
    (other := tmp_path / "other").mkdir()
    (tmp_path / "lonely.png").rename(other / "lonely.png")
    with pytest.raises(BadInput, match=r"under one name.*lonely"):
        scenes({"a": folders["a"], "b": other})
    with pytest.raises(BadInput, match="no such folder"):
        scenes({"a": tmp_path / "missing", "b": other})
    (empty := tmp_path / "empty").mkdir()
    with pytest.raises(BadInput, match="no PNG"):
        scenes({"a": empty, "b": other})
    image.write(folders["a"] / "city0" / "scene0.png", np.zeros((16, 32, 3), np.uint8))
    with pytest.raises(BadInput, match="are one scene"):
        scenes(folders)


def test_a_plan_is_even_random_and_repeatable(folders: dict[Source, Path]) -> None:
    found = scenes(folders)
    trials = plan(found, BOTH, (0.125, 8.0), 400, 40, "seed")
    assert trials == plan(found, BOTH, (0.125, 8.0), 400, 40, "seed")
    assert trials != plan(found, BOTH, (0.125, 8.0), 400, 40, "another")
    asked = [trial for trial in trials if not trial.sentinel]
    kinds = Counter((frozenset((t.left, t.right)), t.seconds) for t in asked)
    assert set(kinds.values()) == {100} and len(kinds) == 4
    shown = Counter(trial.scene.name for trial in asked)
    assert max(shown.values()) - min(shown.values()) <= 1
    real_left = sum(trial.left == "real" for trial in asked)
    assert 150 < real_left < 250  # of 400: five deviations around a half
    sentinels = [trial for trial in trials if trial.sentinel]
    assert len(sentinels) == 40
    assert all({t.left, t.right} == {"real", "coarse"} and t.seconds is None for t in sentinels)
    assert trials[:40] != sentinels and trials[-40:] != sentinels  # mixed in
    with pytest.raises(UsageError):
        plan(found, BOTH, (), 4, 0, "seed")


def test_pictures_are_those_of_their_side(folders: dict[Source, Path]) -> None:
    image.write(folders["real"] / "city0" / "scene0_leftImg8bit.png", _halves(32, 64))
    scene = scenes(folders)[0]
    assert (picture(Trial(scene, "a", "b", None), "left")[8:] == 50).all()
    other = picture(Trial(scene, "a", "real", None), "right")
    assert other.shape == (16, 32, 3)  # brought to the size of a
    np.testing.assert_array_equal(other, image.resize(_halves(32, 64), (16, 32)))
    coarse = picture(Trial(scene, "coarse", "real", None), "left")
    assert coarse.shape == other.shape and not np.array_equal(coarse, other)


def _halves(height: int, width: int) -> np.ndarray:
    rgb = np.zeros((height, width, 3), np.uint8)
    rgb[:, ::3] = 255
    return rgb


def wilson_by_search(chosen: int, count: int) -> tuple[float, float]:
    """The shares p that lie QUANTILE of their own deviations from chosen / count, by bisection."""

    def beyond(p: float) -> bool:
        deviation = (p * (1 - p) / count) ** 0.5
        return abs(chosen / count - p) > answers.QUANTILE * deviation

    ends = []
    for outside in (0.0, 1.0):
        inside = chosen / count
        for _ in range(100):
            middle = (outside + inside) / 2
            outside, inside = (middle, inside) if beyond(middle) else (outside, middle)
        ends.append(inside)
    return ends[0], ends[1]


@pytest.mark.parametrize(("chosen", "count"), [(1, 2), (7, 10), (0, 12), (12, 12), (813, 1000)])
def test_intervals_are_wilson_s(chosen: int, count: int) -> None:
    assert answers.wilson(chosen, count) == pytest.approx(wilson_by_search(chosen, count), abs=1e-9)


@pytest.fixture
def server(folders: dict[Source, Path], tmp_path: Path) -> Iterator[Server]:
    with comparing(folders, tmp_path / "answers.csv", trials=10, sentinels=4) as running:
        yield running


def ask(
    server: Server, method: str, path: str, body: str | None = None, **headers: str
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    kind = {"Content-Type": "application/json"} if body is not None else {}
    connection.request(method, path, body, {**kind, **headers})
    reply = connection.getresponse()
    found = reply.status, reply.read()
    connection.close()
    return found


def judge(server: Server, rater: str, prefers: str, limit: int | None = None) -> int:
    """Answer all that is left as someone who sees the pictures: the greyest, or the brightest."""
    named = quote(rater)
    status, text = ask(server, "GET", f"/trials?rater={named}")
    assert status == 200
    left: list[dict[str, Any]] = json.loads(text)
    for entry in left[:limit]:
        seen = {}
        for side in ("left", "right"):
            status, png = ask(
                server, "GET", f"/picture?rater={named}&trial={entry['trial']}&side={side}"
            )
            assert status == 200 and png.startswith(b"\x89PNG")
            seen[side] = png
        coarse = max(seen, key=lambda side: len(seen[side]))  # a soft edge takes more bytes
        trial = server.experiment.trials(rater)[entry["trial"]]
        if trial.sentinel:
            side = next(s for s in seen if (s == coarse) == (prefers == "coarse"))
        else:
            side = "left" if trial.left == prefers else "right"
        body = {
            **{"rater": rater, "trial": entry["trial"], "side": side},
            **{"shown_ms": 0, "answered_ms": 700},
        }
        assert ask(server, "POST", "/answer", json.dumps(body))[0] == 200
        assert ask(server, "POST", "/answer", json.dumps(body))[0] == 200  # counted once
    return len(left)


def test_a_scripted_run_ends_in_the_right_preferences(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    assert judge(server, "anna", "a", limit=5) == 14
    assert judge(server, "anna", "a") == 9  # goes on where she left off
    assert judge(server, "béa", "a") == 14
    assert judge(server, "blind", "coarse") == 14
    out = server.experiment.out
    rows = answers.read(out)
    assert len(rows) == 42 and {row.rater for row in rows} == {"anna", "béa", "blind"}
    found = answers.summarize(rows)
    assert found.left_out == ("blind",) and found.raters == 3
    (only,) = found.preferences
    assert (only.first, only.second, only.seconds) == ("a", "b", "unlimited")
    assert (only.chosen, only.count) == (20, 20) and only.low == pytest.approx(0.839, abs=1e-3)
    with pytest.raises(SystemExit) as exited:
        cli.main(["compare", "--summary", str(out)])
    assert exited.value.code == 0
    text = capfd.readouterr()
    assert text.out == "a preferred to b, unlimited: 100.0 % of 20 (95 %: 83.9 to 100.0)\n"
    assert "blind: missed" in text.err


def test_a_file_of_answers_belongs_to_one_experiment(
    server: Server, folders: dict[Source, Path]
) -> None:
    judge(server, "anna", "a", limit=3)
    experiment, found = server.experiment, scenes(folders)
    assert len(Experiment(experiment.plan, experiment.out).left("anna")) == 11
    for other in (
        lambda rater: plan(found, [("a", "b")], (None,), 10, 4, f"{rater} again"),
        lambda rater: plan(found, [("a", "b")], (1.0,), 10, 4, rater),
        lambda rater: plan(found, BOTH, (None,), 10, 4, rater),
    ):
        with pytest.raises(BadInput, match="answers to other pairs"):
            Experiment(other, experiment.out)


def test_a_row_that_a_crash_left_torn_is_asked_again(server: Server) -> None:
    judge(server, "anna", "a", limit=3)
    experiment = server.experiment
    whole = experiment.out.read_bytes()
    experiment.out.write_bytes(whole[:-5])
    again = Experiment(experiment.plan, experiment.out)
    assert len(again.left("anna")) == 12
    last = next(entry["trial"] for entry in again.left("anna"))
    again.answer("anna", last, "left", 0, 700)
    assert len(answers.read(experiment.out)) == 3


def test_a_full_disk_leaves_whole_rows(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    judge(server, "anna", "a", limit=2)
    experiment = server.experiment
    whole = experiment.out.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space"):
        experiment.answer("anna", experiment.left("anna")[0]["trial"], "left", 0, 700)
    assert experiment.out.read_bytes() == whole


def test_the_browser_is_told_no_more_than_it_needs(server: Server) -> None:
    _, text = ask(server, "GET", "/trials?rater=anna")
    assert all(set(entry) == {"trial", "milliseconds"} for entry in json.loads(text))
    for path in ("/", "/compare.js", "/style.css"):
        status, page = ask(server, "GET", path)
        assert status == 200 and b"http" not in page.replace(b"http-equiv", b"")


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "status"),
    [
        ("GET", "/../trials.py", None, {}, 404),
        ("GET", "/picture?rater=anna&trial=99&side=left", None, {}, 400),
        ("GET", "/picture?rater=anna&trial=-1&side=left", None, {}, 400),
        ("GET", "/picture?rater=anna&trial=0&side=up", None, {}, 400),
        ("GET", "/trials?rater=", None, {}, 400),
        ("GET", "/trials?rater=" + "x" * 61, None, {}, 400),
        ("GET", "/trials?rater=anna", None, {"Host": "evil.example"}, 421),
        ("GET", "/trials?rater=anna", None, {"Origin": "http://evil.example"}, 403),
        ("POST", "/answer", "{", {}, 400),
        ("POST", "/answer", "[]", {}, 400),
        ("POST", "/answer", "[" * 3000, {}, 400),
        ("POST", "/answer", '{"rater": "anna"}', {}, 400),
        ("POST", "/answer", "x" * 5000, {}, 400),
        ("POST", "/answer", "{}", {"Content-Type": "text/plain"}, 400),
        ("POST", "/", "{}", {}, 400),
    ],
)
def test_what_is_no_answer_is_refused(
    server: Server, method: str, path: str, body: str | None, headers: dict[str, str], status: int
) -> None:
    found, text = ask(server, method, path, body, **headers)
    assert found == status and "error" in json.loads(text)
    assert not server.experiment.out.exists()


@pytest.mark.parametrize("name", ["Content-Length", "content-length"])
def test_a_body_is_no_second_request(server: Server, name: str) -> None:
    body = b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.server_port), timeout=20) as connection:
        head = f"GET /x HTTP/1.1\r\nHost: localhost\r\n{name}: {len(body)}\r\n\r\n"
        connection.sendall(head.encode() + body)
        with connection.makefile("rb") as replies, suppress(ConnectionError):
            first = replies.readline()
            rest = b""
            while line := replies.readline():  # whose end may be a reset, for what was not read
                rest += line
    assert first.startswith(b"HTTP/1.1 404") and b"HTTP/1.1" not in rest


def test_a_browser_that_goes_away_is_not_told_of(
    server: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    done = threading.Event()
    shutdown_request = server.shutdown_request

    def shut(request: Any) -> None:
        shutdown_request(request)
        done.set()

    server.shutdown_request = shut  # type: ignore[method-assign]
    connection = socket.create_connection(("127.0.0.1", server.server_port), timeout=20)
    connection.sendall(b"GET /none HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert connection.recv(1 << 16)
    # Closed so, it is reset rather than ended.
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    assert done.wait(20)
    assert "".join(capfd.readouterr()) == ""


def test_files_that_are_no_answers_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "answers.csv"
    header = ",".join(answers.COLUMNS)
    row = "2026-01-01T00:00:00+00:00,anna,0,s,a,b,unlimited,0,700,a"
    path.write_text(f"{header}\n{row}\n")
    assert len(answers.read(path)) == 1
    for text in ("", "a,b\n1,2\n", f"{header}\n{row},\n", f"{header}\n{row[:-2]}\n"):
        path.write_text(text)
        with pytest.raises(BadInput, match="no answers of"):
            answers.read(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(BadInput):
        answers.read(path)


@pytest.mark.parametrize(
    ("arguments", "code", "part"),
    [
        (["compare"], 2, "two folders"),
        (["compare", "A"], 2, "two folders"),
        (["compare", "A", "B", "--against", "real"], 2, "--real"),
        (["compare", "A", "B", "--seconds", "1/0"], 2, "1/0"),
        (["compare", "A", "B", "--seconds", "9"], 2, "1/8 to 8"),
        (["compare", "A", "B"], 3, "A: no such folder"),
        (["compare", "--summary", "none.csv"], 3, "none.csv"),
    ],
)
def test_mistakes_at_the_command(
    arguments: list[str], code: int, part: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        cli.main(arguments)
    assert exited.value.code == code
    message = capfd.readouterr().err
    assert part in message and message.count("\n") == 1


@pytest.mark.skipif(os.name == "nt", reason="names are those of Unix")
@pytest.mark.parametrize("name", ["a\r\nb", "a\rb", "\udcff", '"'])
def test_answers_take_any_name(name: str, tmp_path: Path) -> None:
    for folder in ("a", "b"):
        path = tmp_path / folder / f"{name}.png"
        path.parent.mkdir()
        image.write(path, np.zeros((2, 2, 3), np.uint8))
    found = scenes({"a": tmp_path / "a", "b": tmp_path / "b"})
    out = tmp_path / "answers.csv"
    for number in (0, 1):
        experiment = Experiment(lambda rater: plan(found, [("a", "b")], [None], 2, 0, rater), out)
        experiment.answer("me", number, "left", 0, 1)
    assert [answer.scene for answer in answers.read(out)] == [one_line(name)] * 2
