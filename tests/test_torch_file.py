"""Files of torch: what is written is read; what is damaged, swapped or no weights is refused."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="writes what torch.save writes")

from crn_fast import torch_file  # noqa: E402
from crn_fast.errors import BadInput, ResourceError  # noqa: E402
from hostile.pickles import two_directories, unzipped  # noqa: E402

STATE: dict[str, Any] = {
    "model": {"a": torch.arange(6.0).reshape(2, 3), "b": torch.zeros(2, 3), "c": torch.tensor(7)},
    "half": torch.ones(4, dtype=torch.bfloat16),
    "empty": torch.zeros(0, 3),
    "last": torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last),
    "groups": [{"betas": (0.9, 0.999), "lr": 1e-4, "on": True, "none": None, "params": [0, 1]}],
    "state": {0: {"step": torch.tensor(1.0)}, 1: {}},
    "words": "ümläut",
}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.pt"
    with path.open("wb") as stream:
        torch_file.write(STATE, stream)
    return path


def test_round_trip(file: Path) -> None:
    found = torch_file.read(file)
    assert found.keys() == STATE.keys()
    for name in ("a", "b", "c"):
        torch.testing.assert_close(found["model"][name], STATE["model"][name], rtol=0, atol=0)
    assert found["groups"] == STATE["groups"] and found["words"] == STATE["words"]
    assert found["half"].dtype == torch.bfloat16 and found["last"].shape == (2, 3, 4, 5)


def test_what_has_no_seal_is_refused(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "x.pt")
    with pytest.raises(BadInput, match="not a checkpoint that crn_fast train wrote"):
        torch_file.read(tmp_path / "x.pt")
    assert torch_file.read_foreign(tmp_path / "x.pt", "weights")["words"] == STATE["words"]


@pytest.mark.parametrize(
    ("name", "value"), [("words", "other"), ("model.a", torch.ones(2, 3)), ("state.1", {"x": 1})]
)
def test_a_value_that_differs_is_named(
    name: str, value: Any, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        sealed = torch_file._hashes(STATE)
        patch.setattr(torch_file, "_hashes", lambda state: sealed)
        changed = {**STATE, "model": dict(STATE["model"]), "state": dict(STATE["state"])}
        table, _, key = name.rpartition(".")
        (changed[table] if table else changed)[int(key) if key.isdecimal() else key] = value
        with file.open("wb") as stream:
            torch_file.write(changed, stream)
    with pytest.raises(BadInput, match=rf"x\.pt: .*{name}"):
        torch_file.read(file)


def test_swapped_tensors_are_refused_by_name(file: Path) -> None:
    with zipfile.ZipFile(file) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    one, other = (next(n for n in members if n.endswith(f"/data/{i}")) for i in (0, 1))
    members[one], members[other] = members[other], members[one]
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    with pytest.raises(BadInput, match=r"model\.a is damaged"):
        torch_file.read(file)


def test_foreign_weights_are_checked_by_the_archive_s_sums(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    torch.save({"a": torch.full((64,), 3.5)}, path)
    whole = bytearray(path.read_bytes())
    whole[whole.index(torch.full((8,), 3.5).numpy().tobytes()) + 5] ^= 1
    path.write_bytes(whole)
    with pytest.raises(BadInput, match=r"x\.pt: not weights \(Bad CRC-32"):
        torch_file.read_foreign(path, "weights")


def test_the_older_format_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    torch.save({"a": torch.ones(3)}, path, _use_new_zipfile_serialization=False)
    assert torch_file.read_foreign(path, "weights")["a"].sum() == 3
    with pytest.raises(BadInput, match=r"x\.pth: not a whole checkpoint"):
        torch_file.read(path)


def test_a_member_that_is_there_twice(file: Path) -> None:
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(file, "a") as archive:
        archive.writestr(archive.namelist()[0], b"")
    with pytest.raises(BadInput, match="there twice"):
        torch_file.read(file)


def test_what_was_written_before_there_were_hashes_says_so(tmp_path: Path) -> None:
    torch.save({"format": "crn_fast.checkpoint", **STATE}, tmp_path / "x.pt")
    with pytest.raises(BadInput, match=r"before there were any: .*`crn-fast convert .*x\.safetens"):
        torch_file.read(tmp_path / "x.pt")


def test_what_is_shared_is_read_again(tmp_path: Path) -> None:
    weight, betas = torch.ones(3), (0.9, 0.999)
    state = {
        "tied": {str(i): weight for i in range(30)},
        "groups": [{"betas": betas, "params": [i]} for i in range(40)],
    }
    with (tmp_path / "x.pt").open("wb") as stream:
        torch_file.write(state, stream)
    found = torch_file.read(tmp_path / "x.pt")
    assert len(found["tied"]) == 30 and found["groups"] == state["groups"]


def nested(depth: int) -> Any:
    return [nested(depth - 1)] if depth else 1


@pytest.mark.parametrize(
    "state",
    [
        {"x": nested(40)},
        {"x": torch.ones(1).expand(1 << 20)},
        {"k" * 1000: 1},
        {"x": {"y": 1}, "x.y": 2},
    ],
)
def test_what_would_not_be_read_is_not_written(state: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError)):
        torch_file.write(state, io.BytesIO())


def with_pickle(pickled: bytes, name: str = "archive/data.pkl") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for member, data in ((name, pickled), ("archive/version", b"3\n")):
            archive.writestr(member, data)
    return stream.getvalue()


BOMB = b"\x80\x02]q\x00" + b"".join(
    b"](" + 2 * (b"h" + bytes([i])) + b"eq" + bytes([i + 1]) for i in range(60)
)
NONE, DEEP = b"\x80\x02}.", b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s."
OLDER = b"".join(pickle.dumps(value, 2) for value in (0x1950A86A20F9469CFC6C, 1001, {}))


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        (with_pickle(BOMB + b"."), "again and again"),
        (OLDER + BOMB + b"." + with_pickle(NONE), "again and again"),
        (with_pickle(DEEP), "32 deep"),
        (with_pickle(b"\x80\x02})\x85K\x01s."), "a table's keys"),
        (with_pickle(b"\x80\x02]q\x00h\x00a."), "grows after it was said"),
        (with_pickle(NONE, "archive/DATA.PKL"), "DATA.PKL' is no part"),
        (NONE + with_pickle(NONE), "not weights"),
        (with_pickle(b"\x80\x02" + b"h\x07."), "that it never made"),
        (with_pickle(b"\x80\x02" + b"0."), "the opcode POP"),
        (with_pickle(b"\x80\x02" + b"ccollections\nOrderedDict\n)R}X\x05\x00\x00\x00itemsNsb."),
         "BUILD for what takes none"),
    ],
)  # fmt: skip
def test_what_would_crash_or_hang_torch(whole: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(whole)
    with pytest.raises(BadInput, match=rf"x\.pth: not weights.*{told}|x\.pth: {told}"):
        torch_file.read_foreign(tmp_path / "x.pth", "weights")


def test_an_archive_with_two_directories(file: Path) -> None:
    """Python reads the one before its end, torch the one where the end says."""
    members = unzipped(file.read_bytes())
    record = next(name for name in members if name.endswith("/data.pkl"))
    file.write_bytes(two_directories(members, members | {record: BOMB + b"."}))
    with pytest.raises(BadInput, match=r"x\.pt: .*before its first member"):
        torch_file.read(file)


def test_torch_gets_what_was_scanned(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []
    monkeypatch.setattr(torch, "load", lambda stream, **_: given.append(stream) or {})
    with pytest.raises(BadInput):
        torch_file.read(file)
    came, made = unzipped(file.read_bytes()), unzipped(given[0].getvalue())
    assert given[0].getvalue() != file.read_bytes()
    assert made and all(came[name] == data for name, data in made.items())


def test_a_tensor_of_more_values_than_its_bytes(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(1).expand(8192, 8192)}, tmp_path / "x.pth")
    with pytest.raises(BadInput, match="more values than the file holds"):
        torch_file.read_foreign(tmp_path / "x.pth", "weights")


def test_one_tensor_said_very_often(tmp_path: Path) -> None:
    weight = torch.ones(100)
    torch.save({str(i): weight for i in range(100)}, tmp_path / "x.pth")
    with pytest.raises(BadInput, match="more than 64 times"):
        torch_file.read_foreign(tmp_path / "x.pth", "weights")


def test_no_memory_is_not_called_damage(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise MemoryError("1 GB")

    monkeypatch.setattr(torch, "load", full)
    with pytest.raises(ResourceError, match=r"x\.pt: no memory .*1 GB"):
        torch_file.read(file)
