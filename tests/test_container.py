"""The container: what is written is read, and every flipped bit is noticed."""

from pathlib import Path

import numpy as np
import pytest

from crn_fast import container
from crn_fast.errors import BadInput, ResourceError

TENSORS = {
    "stages.0.weight": np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32),
    "empty": np.zeros((0, 4), np.float32),
    "half": np.arange(5, dtype=np.float16),
    "scalar": np.array(7, np.uint8),
}
METADATA = {"format": "test", "words": 'quotes " and ümläuts'}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "x.safetensors"
    container.write(path, TENSORS, METADATA)
    return path


def test_round_trip(file: Path) -> None:
    tensors, metadata = container.read(file)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(tensors[name], tensor)
    assert METADATA.items() <= metadata.items()


def test_every_flipped_bit_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for i in range(len(whole)):
        damaged = bytearray(whole)
        damaged[i] ^= 1 << (i % 8)
        file.write_bytes(damaged)
        with pytest.raises(BadInput, match=r"x\.safetensors: "):
            container.read(file)


def test_every_truncation_is_refused(file: Path) -> None:
    whole = file.read_bytes()
    for length in range(0, len(whole), 7):
        file.write_bytes(whole[:length])
        with pytest.raises(BadInput, match=r"x\.safetensors: "):
            container.read(file)


def test_swapped_tensors_are_refused_by_name(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    path = tmp_path / "swapped.safetensors"
    pair = {"a": np.ones(3, np.float32), "b": np.zeros(3, np.float32)}
    container.write(path, pair, METADATA)
    metadata = container.read_metadata(path)
    save_file({"a": pair["b"], "b": pair["a"]}, path, metadata)
    with pytest.raises(BadInput, match="tensor a is damaged"):
        container.read(path)


def test_a_failed_write_leaves_the_old_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = file.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(ResourceError, match="No space left"):
        container.write(file, TENSORS, {"format": "new"})
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ResourceError, match="nowhere does not exist"):
        container.write(tmp_path / "nowhere" / "x", TENSORS, METADATA)
