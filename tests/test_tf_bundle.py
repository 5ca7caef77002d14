"""Oracle: a checkpoint that TensorFlow wrote (data/make_tf_tiny.py), and RFC 3720's checksums."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from crn_fast import tf_bundle
from crn_fast.errors import BadInput
from crn_fast.tf_bundle import Bundle, crc32c

TINY = Path(__file__).parent / "data" / "tf_tiny"
DATA = "model.ckpt.data-00000-of-00001"
MAGIC = bytes.fromhex("57fb808b247547db")
Values = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def values() -> Values:
    with np.load(TINY / "values.npz") as file:
        return dict(file)


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A copy of the fixture, to be damaged."""
    return Path(shutil.copytree(TINY, tmp_path / "tiny"))


def read_all(path: Path) -> Values:
    bundle = Bundle(path)
    return {name: bundle.read(name) for name in bundle.variables}


def assert_same(found: Values, expected: Values) -> None:
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert found[name].dtype == value.dtype and found[name].shape == value.shape, name
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_values_are_what_tensorflow_saved(values: Values) -> None:
    assert_same(read_all(TINY), values)


def test_variables_tell_dtype_and_shape_without_the_data(tiny: Path, values: Values) -> None:
    (tiny / DATA).unlink()
    found = {name: (v.dtype, v.shape) for name, v in Bundle(tiny).variables.items()}
    assert found == {name: ("float32", value.shape) for name, value in values.items()}


@pytest.mark.parametrize("name", ["", "model.ckpt", "model.ckpt.index", DATA, "model.ckpt.meta"])
def test_every_way_to_name_a_checkpoint(name: str) -> None:
    assert Bundle(TINY / name).prefix == str(TINY / "model.ckpt")
    assert Bundle(str(TINY / name)).prefix == str(TINY / "model.ckpt")


def test_a_copied_folder_is_found_though_its_checkpoint_file_names_another(tiny: Path) -> None:
    (tiny / "checkpoint").write_text('model_checkpoint_path: "/gone/model.ckpt"\n')
    assert Bundle(tiny).prefix == str(tiny / "model.ckpt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no file 'checkpoint'"),
        ("", "names no model_checkpoint_path"),
        ('model_checkpoint_path: "other.ckpt"', "other.ckpt.index: no such file"),
        (f'model_checkpoint_path: "{"x" * 5000}"', "no such file"),
        ('model_checkpoint_path: "v1.ckpt"', "V1 TensorFlow checkpoint"),
    ],
)
def test_wrong_folder(tiny: Path, text: str | None, message: str) -> None:
    (tiny / "checkpoint").unlink()
    if text is not None:
        (tiny / "checkpoint").write_text(text)
    with pytest.raises(BadInput, match=message):
        Bundle(tiny)


def test_v1_checkpoint_is_named_as_such() -> None:
    with pytest.raises(BadInput, match=r"v1\.ckpt: a V1 TensorFlow checkpoint .* save it with"):
        Bundle(TINY / "v1.ckpt")


@pytest.mark.parametrize("name", ["values.npz", "checkpoint"])
def test_another_kind_of_file(name: str) -> None:
    with pytest.raises(BadInput, match="not a TensorFlow checkpoint"):
        Bundle(TINY / name)


@pytest.mark.parametrize("path", ["gone", "gone.index", ".index", "no\0name", "x" * 5000])
def test_no_such_file(path: str) -> None:
    with pytest.raises(BadInput, match="no such file"):
        Bundle(path)


def test_unreadable_content_of_an_index(tmp_path: Path) -> None:
    for content in (b"", b"x" * 47, b"x" * 4096):
        (tmp_path / "m.index").write_bytes(content)
        with pytest.raises(BadInput, match=r"m\.index: not the index"):
            Bundle(tmp_path / "m")
    (tmp_path / "m.index").write_bytes(bytes(1 << 21) + MAGIC)
    with pytest.raises(BadInput, match="expected at most"):
        Bundle(tmp_path / "m")


def test_no_such_variable() -> None:
    with pytest.raises(BadInput, match="holds no variable 'g_4_conv3/weights'"):
        Bundle(TINY).read("g_4_conv3/weights")


def test_missing_shard(tiny: Path) -> None:
    (tiny / DATA).rename(tiny / "elsewhere")
    with pytest.raises(BadInput, match=f"{DATA}: no such file, but 'beta1_power'"):
        Bundle(tiny).read("beta1_power")


def test_truncated_data(tiny: Path, values: Values) -> None:
    bundle = Bundle(tiny)
    whole = (tiny / DATA).read_bytes()
    for size in (len(whole) - 1, len(whole) // 2, 3, 0):
        (tiny / DATA).write_bytes(whole[:size])
        for name, variable in bundle.variables.items():
            if variable.offset + variable.size <= size:
                np.testing.assert_array_equal(bundle.read(name), values[name])
                continue
            with pytest.raises(BadInput, match=f"{DATA}: '{name}': cut off"):
                bundle.read(name)


def test_truncated_index(tiny: Path) -> None:
    index = tiny / "model.ckpt.index"
    whole = index.read_bytes()
    for size in range(0, len(whole), 7):
        index.write_bytes(whole[:size])
        with pytest.raises(BadInput, match=r"model\.ckpt\.index: not the index"):
            Bundle(tiny)


@pytest.mark.parametrize("name", ["model.ckpt.index", DATA])
def test_a_damaged_byte_is_refused_or_harmless(tiny: Path, values: Values, name: str) -> None:
    rng = np.random.default_rng(7)
    whole = (tiny / name).read_bytes()
    refused = 0
    for position in rng.permutation(len(whole))[:250]:
        damaged = bytearray(whole)
        damaged[position] ^= int(rng.integers(1, 256))
        (tiny / name).write_bytes(damaged)
        try:
            found = read_all(tiny)
        except BadInput as error:
            assert str(error).startswith(str(tiny)) and "\n" not in str(error)
            refused += 1
        else:
            assert_same(found, values)
    assert refused > 200


def test_damaged_data_names_the_variable(tiny: Path) -> None:
    bundle = Bundle(tiny)
    damaged = bytearray((tiny / DATA).read_bytes())
    damaged[bundle.variables["g_8_conv1/weights"].offset + 5] ^= 1
    (tiny / DATA).write_bytes(damaged)
    bundle.read("g_8_conv2/weights")
    with pytest.raises(BadInput, match=f"{DATA}: 'g_8_conv1/weights': the checksum does not match"):
        bundle.read("g_8_conv1/weights")


@pytest.mark.parametrize(
    ("data", "crc"),
    [
        (b"", 0),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(reversed(range(32))), 0x113FDB5C),
        (b"123456789", 0xE3069283),
    ],
)
def test_crc32c_vectors(data: bytes, crc: int) -> None:
    assert crc32c(data) == crc
    assert crc32c(np.frombuffer(data, np.uint8)) == crc


@pytest.mark.parametrize("size", [1, 3, 4, 5684, 5685, 5686, 5689, 100_003, 181_920, 181_921])
def test_crc32c_folds_as_bit_by_bit(size: int) -> None:
    data = np.random.default_rng(size).bytes(size)
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    assert crc32c(data) == crc ^ 0xFFFFFFFF


def test_crc32c_leaves_its_input_alone() -> None:
    data = np.arange(500_000, dtype=np.uint32).view(np.uint8)
    data.flags.writeable = False
    assert crc32c(data) == crc32c(data.tobytes())


# A writer of the index, from the format's description, for files that TensorFlow does not write.

Entry = tuple[bytes, bytes]


def varint(value: int) -> bytes:
    data = bytearray()
    while value > 0x7F:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*data, value))


def masked(data: bytes) -> bytes:
    crc = crc32c(data)
    return ((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def block(entries: Sequence[Entry], compression: int = 0) -> bytes:
    """A block whose keys share nothing, with its trailer."""
    data = bytearray()
    for key, value in entries:
        data += b"\0" + varint(len(key)) + varint(len(value)) + key + value
    data += bytes(4) + (1).to_bytes(4, "little") + bytes([compression])
    return bytes(data) + masked(bytes(data))


def table(blocks: Sequence[bytes], order: Sequence[int] | None = None) -> bytes:
    """An SSTable of these blocks; `order` names them in the index block."""
    handles, offset = [], 0
    for data in blocks:
        handles.append(varint(offset) + varint(len(data) - 5))
        offset += len(data)
    names = range(len(blocks)) if order is None else order
    index = block([(b"k%d" % i, handles[name]) for i, name in enumerate(names)])
    footer = bytes(2) + varint(offset) + varint(len(index) - 5)
    return b"".join(blocks) + index + footer.ljust(40, b"\0") + MAGIC


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def message(field: int, value: bytes) -> bytes:
    return varint(field << 3 | 2) + varint(len(value)) + value


def entry(data: bytes, dtype: int, shape: Sequence[int], shard: int = 0, offset: int = 0) -> bytes:
    dims = b"".join(message(2, number(1, dim)) for dim in shape)
    where = number(3, shard) + number(4, offset) + number(5, len(data))
    crc = varint(6 << 3 | 5) + masked(data)
    return number(1, dtype) + message(2, dims) + where + crc


HEADER: Entry = (b"", number(1, 1))
RAW = np.arange(6, dtype="<f4").tobytes()
GOOD: Entry = (b"v", entry(RAW, 1, (2, 3)))


def write(folder: Path, index: bytes, *shards: bytes) -> Path:
    (folder / "m.index").write_bytes(index)
    for i, shard in enumerate(shards):
        (folder / f"m.data-{i:05d}-of-{len(shards):05d}").write_bytes(shard)
    return folder / "m"


@pytest.mark.parametrize(
    ("number_", "dtype"), [(1, "f4"), (2, "f8"), (3, "i4"), (9, "i8"), (19, "f2")]
)
def test_several_blocks_shards_and_dtypes(tmp_path: Path, number_: int, dtype: str) -> None:
    a, b = np.arange(6, dtype=f"<{dtype}"), np.array(7, f"<{dtype}")
    first = block([(b"", number(1, 2)), (b"a", entry(a.tobytes(), number_, (2, 3), 1, 4))])
    second = block([(b"b", entry(b.tobytes(), number_, ()))])
    empty = block([(b"c", entry(b"", number_, (0, 4)))])
    path = write(tmp_path, table([first, second, empty]), b.tobytes(), b"----" + a.tobytes())
    expected = {"a": a.reshape(2, 3), "b": b, "c": np.empty((0, 4), a.dtype)}
    assert_same(read_all(path), expected)


@pytest.mark.parametrize(
    ("entries", "found"),
    [
        ((b"v", entry(b"text", 7, ())), "DT_7"),
        ((b"v", entry(RAW, 1, (2, 3)) + message(7, b"")), "float32, partitioned"),
    ],
)
def test_variables_that_are_not_read(tmp_path: Path, entries: Entry, found: str) -> None:
    path = write(tmp_path, table([block([HEADER, entries])]), RAW)
    assert list(Bundle(path).variables) == ["v"]
    with pytest.raises(BadInput, match=f"'v' is {found}; expected a whole variable of float32"):
        Bundle(path).read("v")


BIG = 1 << 62


@pytest.mark.parametrize(
    ("index", "fault"),
    [
        (lambda: table([block([HEADER, GOOD], compression=1)]), "compressed .snappy."),
        (lambda: table([block([GOOD])]), "data file 0 of 0"),
        (lambda: table([]), "holds no header"),
        (lambda: table([block([(b"", number(1, 0))])]), "names 0 data files"),
        (lambda: table([block([(b"", number(1, 1) + number(2, 1))])]), "big-endian"),
        (lambda: table([block([HEADER, GOOD, GOOD])]), "out of order"),
        (lambda: table([block([HEADER, GOOD]), block([(b"u", GOOD[1])])]), "out of order"),
        (lambda: table([block([HEADER]), block([GOOD])], order=[0, 1, 0]), "overlap"),
        (lambda: table([block([HEADER]), block([])], order=[0, 1, 1]), "overlap"),
        (lambda: table([block([HEADER, (b"x" * 513, GOOD[1])])]), "key or value runs past"),
        (lambda: table([block([HEADER, (b"v", entry(RAW, 1, (2, 2)))])]), "24 bytes; float32"),
        (lambda: table([block([HEADER, (b"v", entry(RAW, 1, (BIG,)))])]), "impossible shape"),
        (lambda: table([block([HEADER, (b"v", entry(b"", 1, (0, BIG, BIG)))])]), "impossible"),
        (lambda: table([block([HEADER, (b"v", entry(RAW, 1, (1,) * 33))])]), "impossible shape"),
        (lambda: table([block([HEADER, (b"v", entry(RAW, 1, (2, 3), 9))])]), "data file 9 of 1"),
        (lambda: table([block([HEADER, (b"v", b"\x0b")])]), "wire type 3"),
        (lambda: table([block([HEADER, (b"v", b"\x12\x7f")])]), "field is cut off"),
        (lambda: table([block([HEADER, (b"v", b"\x08" + b"\xff" * 10)])]), "cut off or too long"),
        (lambda: bytes(22) + varint(BIG) + bytes(29) + MAGIC, "runs past the end"),
    ],
)
def test_malformed_index_with_sound_checksums(
    tmp_path: Path, index: Callable[[], bytes], fault: str
) -> None:
    path = write(tmp_path, index(), RAW)
    with pytest.raises(BadInput, match=rf"m\.index: .*({fault})"):
        Bundle(path)


@pytest.mark.parametrize("size", [BIG, 1 << 40])
def test_a_huge_size_is_refused_before_memory_is_taken(tmp_path: Path, size: int) -> None:
    value = number(1, 1) + message(2, message(2, number(1, 1 << 38))) + number(5, 1 << 40)
    path = write(tmp_path, table([block([HEADER, (b"v", value + number(4, size))])]), RAW)
    with pytest.raises(BadInput, match=r"m\.data-00000-of-00001: 'v': cut off"):
        Bundle(path).read("v")


def test_hostile_index_with_sound_checksums(tiny: Path) -> None:
    index = tiny / "model.ckpt.index"
    whole = index.read_bytes()
    size = tf_bundle._parse_handle(whole[-48:], 0)[0] - 5  # the data block ends at the meta index
    assert masked(whole[: size + 1]) == whole[size + 1 : size + 5]
    rng = np.random.default_rng(11)
    for _ in range(500):
        damaged = bytearray(whole)
        for position in rng.integers(0, size, rng.integers(1, 4)):
            damaged[position] = rng.integers(0, 256)
        damaged[size + 1 : size + 5] = masked(bytes(damaged[: size + 1]))
        index.write_bytes(damaged)
        try:
            read_all(tiny)
        except BadInput as error:
            assert "\n" not in str(error)


def test_tensorflow_reads_the_same(values: Values) -> None:
    tf = pytest.importorskip("tensorflow", reason="needs TensorFlow, the real library")
    reader = tf.train.load_checkpoint(str(TINY / "model.ckpt"))
    shapes = {name: tuple(shape) for name, shape in reader.get_variable_to_shape_map().items()}
    bundle = Bundle(TINY)
    assert {name: variable.shape for name, variable in bundle.variables.items()} == shapes
    for name in shapes:
        np.testing.assert_array_equal(bundle.read(name), reader.get_tensor(name))
