"""Engines that are code: signed by their user or vouched for, or never seen by TensorRT."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import tiny
from crn_fast import backends, cli, container, trust
from crn_fast.backends import trt
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, ResourceError, Unavailable, UsageError
from crn_fast.manifest import Manifest
from crn_fast.trt.build import About

ABOUT = About("tensorrt_rtx", "1.7.1.116", "sm_80 and later", "fp16", (1, 1))
PACKED = {
    "plan": np.random.default_rng(0).integers(0, 256, 700, dtype=np.uint8),
    "about": np.frombuffer(ABOUT.to_bytes(), np.uint8),
}


def metadata() -> dict[str, str]:
    made = tiny.make_checkpoint()
    facts = trt.describe(PACKED)
    manifest = Manifest(
        made.spec, made.labels, "trt", facts["precision"], facts["target"], made.sha256(), {}, {}
    )
    return manifest.to_metadata()


@pytest.fixture(autouse=True)
def nothing_vouched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "_vouched", set())


@pytest.fixture
def engine_file(tmp_path: Path) -> Path:
    path = tmp_path / "net.crn"
    container.write(path, PACKED, metadata(), trust.sign)
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The plans that reached TensorRT's runtime."""
    plans: list[bytes] = []

    def load(spec: Any, packed: Any, *rest: Any) -> Any:
        plans.append(packed["plan"].tobytes())
        return SimpleNamespace(device="stand-in", precision="fp16")

    monkeypatch.setattr(trt, "load", load)
    monkeypatch.setattr(trt, "available", lambda: None)
    return plans


def test_what_was_built_here_opens(engine_file: Path, opened: list[bytes]) -> None:
    Engine.open(engine_file)
    assert opened == [PACKED["plan"].tobytes()]


def test_the_key_is_its_owner_s_alone(engine_file: Path) -> None:
    key = trust.key_path()
    assert len(key.read_bytes()) == trust.KEY_BYTES
    assert list(key.parent.iterdir()) == [key]
    if os.name != "posix":
        return
    assert key.stat().st_mode & 0o777 == 0o600
    key.chmod(0o644)
    with pytest.raises(ResourceError, match="its owner alone"):
        Engine.open(engine_file)


@pytest.mark.parametrize("key", [b"", b"short", b"x" * 33])
def test_a_damaged_key_is_no_key(key: bytes, engine_file: Path) -> None:
    trust.key_path().write_bytes(key)
    with pytest.raises(ResourceError, match=r"engine\.key.*delete it"):
        trust.require_key()


def foreign(path: Path, state: str) -> str:
    """Make an engine file of somebody else; its digest."""
    other = metadata() | ({trust.SIGNATURE: "ab" * 32} if state == "signed by another" else {})
    container.write(path, PACKED, other)
    return trust.digest(container.read_metadata(path))


@pytest.mark.parametrize("state", ["not signed", "signed by another"])
def test_a_foreign_engine_is_refused_until_it_is_vouched_for(
    state: str, engine_file: Path, opened: list[bytes]
) -> None:
    digest = foreign(engine_file, state)
    with pytest.raises(BadInput, match=f"net.crn: {state}.*--trust-engine {digest}"):
        Engine.open(engine_file)
    trust.vouch("0" * 64)
    with pytest.raises(BadInput, match="--trust-engine"):
        Engine.open(engine_file)
    assert not opened
    trust.vouch(digest.upper())
    Engine.open(engine_file)
    assert len(opened) == 1


def test_trust_comes_before_everything_else(engine_file: Path) -> None:
    """Also where the backend could not run anyway: the answer does not depend on the machine."""
    foreign(engine_file, "not signed")
    with pytest.raises(BadInput, match="executable code"):
        Engine.open(engine_file)


def test_the_command_line_vouches(
    engine_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = foreign(engine_file, "not signed")
    out = engine_file.with_name("net.plan")
    command = ["engine", "extract", str(engine_file), "-o", str(out)]
    for arguments, code in (
        (command, 3),
        ([*command, "--trust-engine", "12"], 2),
        ([*command, "--trust-engine", digest], 0),
    ):
        with pytest.raises(SystemExit) as exited:
            cli.main(arguments)
        assert exited.value.code == code, capfd.readouterr().err
        assert out.exists() == (code == 0)
    assert out.read_bytes() == PACKED["plan"].tobytes()
    capfd.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["info", str(engine_file), "--json"])
    assert json.loads(capfd.readouterr().out)["sha256"] == digest


@pytest.mark.parametrize("digest", ["", "12", "g" * 64, "0" * 65])
def test_a_digest_is_64_hex_digits(digest: str) -> None:
    with pytest.raises(UsageError, match="64 hex digits"):
        trust.vouch(digest)


def test_a_file_that_changes_while_it_is_read(engine_file: Path) -> None:
    tensors, found = container.read(engine_file)
    copies = trust.check("x", tensors, found)
    assert copies["plan"].base is None
    with pytest.raises(BadInput, match="changed while it was read"):
        trust.check("x", {**tensors, "plan": tensors["plan"] ^ 1}, found)


def test_opening_a_foreign_engine_makes_no_key(engine_file: Path) -> None:
    trust.key_path().unlink()
    with pytest.raises(BadInput, match="executable code"):
        Engine.open(engine_file)
    assert not trust.key_path().exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="root gives files away")
def test_a_key_of_another_user_is_no_key(engine_file: Path) -> None:
    os.chown(trust.key_path(), 12345, -1)
    with pytest.raises(ResourceError, match=r"another user \(uid 12345\).*set XDG_CONFIG_HOME"):
        Engine.open(engine_file)


def test_only_code_is_signed() -> None:
    assert backends.get("trt").EXECUTABLE
    assert not backends.get("native").EXECUTABLE and not backends.get("eager").EXECUTABLE


def test_without_a_driver_the_engine_is_only_not_available(
    engine_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trt, "available", lambda: "there is no NVIDIA driver here")
    with pytest.raises(Unavailable, match="trt: there is no NVIDIA driver here"):
        Engine.open(engine_file)
