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


def test_the_library_reads_what_is_written(file: Path) -> None:
    from safetensors.numpy import load_file

    tensors = load_file(file)
    assert tensors.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert tensors[name].dtype == tensor.dtype
        assert tensors[name].shape == tensor.shape
        np.testing.assert_array_equal(tensors[name], tensor)


def test_whole_cache_lines_begin_at_cache_lines(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    sizes = {"a": 3, "b": 64, "c": 1, "d": 160, "e": 16}
    container.write(path, {n: np.ones(size, np.float32) for n, size in sizes.items()}, METADATA)
    tensors, _ = container.read(path)
    for name in "bde":
        assert tensors[name].ctypes.data % container.LINE == 0


def test_every_number_is_aligned(file: Path) -> None:
    for tensor in container.read(file)[0].values():
        assert tensor.flags.aligned


def test_what_is_read_may_be_changed_and_the_file_stays(file: Path, tmp_path: Path) -> None:
    many_pages = np.zeros(1 << 18, np.uint8)
    container.write(file, {"half": TENSORS["half"], "large": many_pages}, METADATA)
    tensors, _ = container.read(file)
    tensors["half"][0] = 9
    tensors["large"][:] = 9
    container.write(tmp_path / "changed", tensors, METADATA)
    changed, _ = container.read(tmp_path / "changed")
    again, _ = container.read(file)
    assert tensors["half"][0] == changed["half"][0] == 9 and again["half"][0] == 0
    assert (tensors["large"] == 9).all() and (changed["large"] == 9).all()
    assert not again["large"].any()


@pytest.mark.skipif(not Path("/proc/self/smaps").exists(), reason="needs Linux's /proc")
def test_released_memory_goes_back_and_is_read_again(tmp_path: Path) -> None:
    def resident() -> int:
        status = Path("/proc/self/status").read_text()
        return int(status.split("RssFile:")[1].split()[0]) * 1024

    path = tmp_path / "x.safetensors"
    large = np.random.default_rng(0).normal(size=(1 << 22)).astype(np.float32)
    container.write(path, {"before": large[:5], "large": large, "small": large[:16]}, METADATA)
    tensors, _ = container.read(path)
    unread = resident()
    np.testing.assert_array_equal(tensors["large"], large)
    touched = resident()
    container.release(tensors["large"])
    assert touched - unread > 0.9 * large.nbytes
    assert resident() - unread < 0.1 * large.nbytes
    for name, values in {"before": large[:5], "large": large, "small": large[:16]}.items():
        np.testing.assert_array_equal(tensors[name], values)
    container.release(large)  # Not mapped: nothing happens.
    np.testing.assert_array_equal(tensors["large"], large)


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


def test_what_the_system_does_not_map_is_not_called_damaged(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr("mmap.mmap", no_room)
    with pytest.raises(ResourceError, match=r"x\.safetensors: .*Cannot allocate memory"):
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
