"""Beginning and end: engines that die, servers told to stop, commands that cannot start."""

from __future__ import annotations

import dataclasses
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote, urlsplit

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="needs the extra [serve]")

import tiny
from crn_fast import cli, png
from crn_fast.commands import paint
from crn_fast.commands.serve import MAX_PIXELS
from crn_fast.errors import BadInput, Mismatch, ResourceError
from crn_fast.palette import label_set
from crn_fast.serve import process
from crn_fast.serve.server import Server, listen
from crn_fast.serve.settings import Settings
from crn_fast.serve.worker import Opener
from serving import Answer, layouts, running, until
from stub_engine import Stub, picture

needs_kill = pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")


@needs_kill
def test_a_killed_engine_costs_its_batch_alone() -> None:
    ids = layouts(4)
    # The window is long enough for two to meet in a batch on the busiest machine.
    with running(Stub(0.6), max_batch=2, window=0.5) as server:
        found: dict[int, Answer] = {}

        def work(i: int) -> None:
            found[i] = server.render(ids[i])

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        until(lambda: server.metric("crn_fast_waiting") == 4)
        time.sleep(0.1)
        pid = server.server.process.pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.ask("GET", "/readyz").status == 503)
        for thread in threads:
            thread.join()
        assert sorted(answer.status for answer in found.values()) == [200, 200, 503, 503]
        for i, answer in found.items():
            if answer.status == 200:
                assert answer.body == picture(ids[i]).tobytes()
            else:
                assert b'"engine_died"' in answer.body and answer.headers["retry-after"]
        until(lambda: server.ask("GET", "/readyz").status == 200)
        assert server.render(ids[0]).body == picture(ids[0]).tobytes()
        assert server.metric("crn_fast_engine_restarts_total") == 1


@needs_kill
def test_an_engine_that_dies_idle_is_replaced_unasked() -> None:
    with running() as server:
        pid = server.server.process.pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        until(lambda: server.server.process.pid not in (None, pid))
        assert server.render(layouts()[0]).status == 200


def test_an_engine_that_dies_as_it_starts_is_no_zombie() -> None:
    engine = process.EngineProcess(partial(os._exit, 3), 1, 5.0)
    with pytest.raises(process.Died):
        engine.start()
    assert engine.pid is None  # it has been waited for


def test_draining_finishes_what_was_begun() -> None:
    ids = layouts(3)
    with running(Stub(0.4), max_batch=1) as server:
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda i=i: found.append(server.render(ids[i]).status))
            for i in range(3)
        ]
        for thread in threads:
            thread.start()
        until(lambda: server.metric("crn_fast_waiting") == 3)
        server.server.stop()
        until(lambda: server.ask("GET", "/readyz").status == 503)
        late = server.render(ids[0])
        assert late.status == 503 and b"draining" in late.body and late.headers["retry-after"]
        for thread in threads:
            thread.join()
        assert found == [200] * 3
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_what_cannot_be_opened_is_an_error_at_the_start() -> None:
    settings = Settings()
    with pytest.raises(BadInput, match=r"stub\.crn: is broken"):
        Server(settings, Stub(broken=True), listen(settings))


def test_a_preview_of_other_classes_is_refused(tmp_path: Path) -> None:
    own = str(tiny.save_checkpoint(tmp_path / "own.safetensors"))
    classes = label_set("cityscapes").classes
    spec = dataclasses.replace(tiny.SPEC, classes=classes)
    other = str(tiny.save_checkpoint(tmp_path / "other.safetensors", spec, "cityscapes"))
    says = rf"other\.safetensors: .*cityscapes \({classes} .*own.*camvid \(12 .*the same classes"
    with pytest.raises(Mismatch, match=says):
        Opener((own, other), {})()
    assert len(Opener((own, own), {})()) == 2


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="shared memory is no file here")
def test_too_little_shared_memory_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, start: int, size: int) -> None:
        assert os.fstat(descriptor).st_size >= size >= 8 * 3 * 16 * 24 * 3 and start == 0
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    engine = process.EngineProcess(Stub(), None, 5)
    with pytest.raises(ResourceError, match=r"shared memory: 1 MB .* \d+ MB free; .*--max-batch"):
        engine.start()
    assert not engine.alive and engine._memory is None


@pytest.mark.parametrize("seen", [True, False])
@pytest.mark.parametrize("token", [None, "a+token/of&the=tests"])
def test_paint_opens_the_page_with_its_token(
    token: str | None,
    seen: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    opened: list[str] = []
    pages: list[str] = []
    url = "http://127.0.0.1:8000/"

    def serve(*, started: Callable[[str, str | None], None], **options: object) -> None:
        started(url, token)
        if seen:
            until(lambda: bool(opened))
        if seen and token:
            page = Path(urlsplit(opened[0]).path)
            assert stat.S_IMODE(page.stat().st_mode) == 0o600
            assert stat.S_IMODE(page.parent.stat().st_mode) == 0o700
            if sys.platform == "linux":  # where a browser with a /tmp of its own finds it, too
                assert page.parent.parent == tmp_path and page.parent.name[0] != "."
            pages.append(page.read_text())

    monkeypatch.setattr(paint, "serve", serve)
    monkeypatch.setattr(paint, "has_display", lambda: seen)
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert paint.command.callback
    paint.command.callback(opens=True)
    told = "".join(capfd.readouterr())
    if seen and token:
        # What `ps` shows is a file that its owner alone can read, and that is gone in the end.
        assert opened[0].startswith("file://") and token not in opened[0]
        assert quote(token, safe="") not in opened[0]
        assert f'url={url}#token=a%2Btoken%2Fof%26the%3Dtests"' in pages[0]
        assert not any(tmp_path.iterdir()) and not Path(urlsplit(opened[0]).path).exists()
    else:
        assert opened == ([url] if seen else [])
    assert not token or (token not in told and quote(token, safe="") not in told)
    assert (seen and not token) or (
        f"open {url}{'#token=TOKEN' if token else ''} in a browser" in told
    )


def test_layouts_are_no_larger_than_what_can_be_read() -> None:
    assert MAX_PIXELS == png.MAX_PIXELS


@needs_kill
def test_the_command_serves_and_ends_well(tmp_path: Path) -> None:
    model = tiny.save_checkpoint(tmp_path / "net.safetensors")
    command = [sys.executable, "-P", "-m", "crn_fast", "serve", "-m", str(model), "--port", "0"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    ) as process:
        assert process.stdout and process.stderr
        url = process.stdout.readline().strip()
        assert url.startswith("http://127.0.0.1:"), process.stderr.read()
        from urllib.request import Request, urlopen

        ids = tiny.labels_array()[0]
        raw = {"Content-Type": "application/octet-stream"}
        request = Request(f"{url}v1/render?k=1&format=raw", ids.tobytes(), raw)
        with urlopen(request) as response:
            picture = np.frombuffer(response.read(), np.uint8).reshape(*ids.shape, 3)
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        said = process.stderr.read()
    assert "net.safetensors, backend" in said and "Traceback" not in said
    from crn_fast import Engine

    assert np.array_equal(picture, Engine.open(model).render(ids)[0, 1])


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["-m", "none"], 3, "none: no such file"),
        (["-m", "missing.crn"], 3, "missing.crn"),
        (["--host", "0.0.0.0"], 2, "--token-file"),
        (["--host", "0.0.0.0", "--token-file", "none"], 3, "none: no such file"),
        (["--token-file", "short"], 3, "at least 16"),
        (["--backend", "trt"], 8, "trt"),
        (["--max-pixels", str(MAX_PIXELS + 1)], 2, "--max-pixels"),
        (["--host", "203.0.113.7", "--token-file", "token"], 5, "cannot be listened on"),
    ],
)
@pytest.mark.parametrize("command", ["serve", "paint"])
def test_commands_that_cannot_start(
    command: str,
    options: list[str],
    code: int,
    says: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("short").write_text("abc\n")
    Path("token").write_text("a-token-of-the-tests\n")
    with pytest.raises(SystemExit) as exited:
        cli.main([command, "--port", "0", *options])
    out, err = capfd.readouterr()
    assert exited.value.code == code, err
    assert out == "" and err.count("\n") == 1 and says in err


def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crn_fast.commands.serve._PACKAGES", ("fastapi", "no_such_package"))
    with pytest.raises(SystemExit) as exited:
        cli.main(["serve"])
    assert exited.value.code == 8
    assert "no_such_package: `pip install 'crn-fast[serve]'`" in capfd.readouterr().err
