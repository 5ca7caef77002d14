"""Files of ours and of others' kinds that are not what they say: containers, TOML, TensorFlow's."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

import tiny
from crn_fast import checkpoint, container

BIG = 1 << 63
ENTRY = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}


def safetensors(header: Any, data: bytes = bytes(16), length: int | None = None) -> bytes:
    """The bytes of a safetensors file; the header as JSON unless it is bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def written(
    tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], name: str = "net.safetensors"
) -> bytes:
    """What `container.write` writes: every hash is right."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        container.write(path, tensors, metadata)
        return path.read_bytes()


def headers() -> dict[str, bytes]:
    """Safetensors files whose header is a trick."""

    def one(**changes: Any) -> bytes:
        return safetensors({"a": ENTRY | changes})

    metadata = {"format": "crn_fast.checkpoint", "tensors_sha256": "{}"}
    sealed = {**metadata, "metadata_sha256": container.metadata_sha256(metadata)}
    nested = b"[" * 100_000 + b"]" * 100_000
    two = {"a": ENTRY, "b": ENTRY | {"data_offsets": [8, 24]}}
    return {
        "a header of 2^63 bytes": safetensors({"a": ENTRY}, length=BIG),
        "a header of 2^64 - 1 bytes": safetensors({"a": ENTRY}, length=2 * BIG - 1),
        "a header of 100 MB": safetensors({}, bytes(1000), length=100_000_000),
        "a header of 100 MB that is there": safetensors(b"{" + b" " * 100_000_000 + b"}"),
        "a million names": safetensors({f"t{i}": 0 for i in range(400_000)}),
        "overlapping": safetensors(two, bytes(24)),
        "a hole": safetensors({"a": ENTRY, "b": ENTRY | {"data_offsets": [20, 36]}}, bytes(36)),
        "bytes left over": safetensors({"a": ENTRY}, bytes(17)),
        "offsets of less than nothing": one(data_offsets=[-16, 0]),
        "offsets in the wrong order": one(data_offsets=[16, 0]),
        "offsets of 2^63": one(data_offsets=[BIG, BIG + 16]),
        "an offset too many": one(data_offsets=[0, 16, 16]),
        "offsets of text": one(data_offsets=["0", "16"]),
        "sides of less than nothing": one(shape=[-4]),
        "sides whose product overflows": one(shape=[1 << 32, 1 << 32]),
        "sides of nothing, without end": one(shape=[0, BIG, BIG], data_offsets=[0, 0]),
        "sides of 4000 digits": safetensors(
            b'{"a":{"dtype":"F32","shape":[' + b"9" * 4000 + b'],"data_offsets":[0,16]}}'
        ),
        "a side of a fraction": one(shape=[4.0]),
        "a side of truth": one(shape=[True, 4]),
        "a hundred thousand sides": one(shape=[1] * 100_000 + [4]),
        "a dtype that is none": one(dtype="F33"),
        "a dtype of Python": one(dtype="O"),
        "a dtype that is a list": one(dtype=["F32"]),
        "a dtype that torch has": one(dtype="BF16", shape=[8]),
        "a field too many": one(evil="x"),
        "a name twice": safetensors(
            b'{"a":' + json.dumps(ENTRY).encode() + b',"a":' + json.dumps(ENTRY).encode() + b"}"
        ),
        "metadata twice": safetensors(b'{"__metadata__":{},"__metadata__":{"a":"b"}}'),
        "metadata of numbers": safetensors({"__metadata__": {"format": 1}}, b""),
        "metadata that is a list": safetensors({"__metadata__": ["format"]}, b""),
        "metadata of nothing": safetensors({"__metadata__": None}, b""),
        "lists in lists": safetensors(nested),
        "lists in lists in metadata": safetensors(
            {"__metadata__": sealed | {"tensors_sha256": nested.decode()}}, b""
        ),
        "a list": safetensors([ENTRY], b""),
        "no number": safetensors(b'{"a":{"dtype":"F32","shape":[NaN],"data_offsets":[0,16]}}'),
        "no UTF-8": safetensors(b'{"\xff":0}'),
        "UTF-16": safetensors(json.dumps({"a": ENTRY}).encode("utf-16")),
        "half a character": safetensors(b'{"\\ud800":' + json.dumps(ENTRY).encode() + b"}"),
        "a name that clears the screen": safetensors({"\x1b[2J\n\r": ENTRY}),
        "a name of a megabyte": safetensors({"a" * 1_000_000: ENTRY}),
        "a tensor without a hash": safetensors({"a": ENTRY, "__metadata__": sealed}),
        "no bytes": b"",
        "seven bytes": bytes(7),
        "a header of nothing": bytes(8),
    }


def checkpoints() -> dict[str, bytes]:
    """Containers with right hashes whose contents are tricks."""
    made = tiny.make_checkpoint()
    head = checkpoint.header(made)
    spec = json.loads(head["spec"])

    def spec_of(**changes: Any) -> bytes:
        return written(made.tensors, head | {"spec": json.dumps(spec | changes)})

    def other(**changes: str) -> bytes:
        return written(made.tensors, head | changes)

    labels = json.loads(head["labels"])
    unet = {"kind": "unet", "size": [16384, 16384], "classes": 12, "width": 1024}
    return {
        "a million stages": spec_of(widths=[1] * 1_000_000),
        "a stage of 10^6 channels": spec_of(widths=[10**6, 6, 4]),
        "stages of 4096 channels": spec_of(widths=[4096] * 12),
        "a picture of 2^21 pixels a side": spec_of(base=[1024, 1024], widths=[4] * 12),
        "a base of less than nothing": spec_of(base=[-3, 5]),
        "a base of 10^30": spec_of(base=[10**30, 5]),
        "a width of truth": spec_of(widths=[True, 6, 4]),
        "a width of no number": other(spec=head["spec"].replace("[7,", "[NaN,")),
        "a spec of lists in lists": other(spec="[" * 100_000),
        "a spec of 4301 digits": other(spec=head["spec"].replace("[7,", f"[{'7' * 4301},")),
        "a spec with a field of Python": spec_of(__class__="os.system"),
        "a spec that is a number": other(spec="7"),
        "a U-Net of 16384 pixels a side": other(kind="unet", spec=json.dumps(unet)),
        "a kind that is none": other(kind="os.system"),
        "labels without end": other(labels=json.dumps(labels | {"classes": [1] * 300_000})),
        "labels of lists in lists": other(labels="[" * 100_000),
        "labels that clear the screen": other(labels=json.dumps(labels | {"name": "\x1b[2J"})),
        "notes of numbers": other(notes="[1, 2]"),
        "a version of 10^6 digits": other(version="9" * 1_000_000),
        "a format that clears the screen": other(format="\x1b[2J\nformat"),
        "a tensor too many": written(made.tensors | {"x": np.ones(3, np.float32)}, head),
        "bytes for weights": written(
            {n: t.astype(np.uint8) for n, t in made.tensors.items()}, head
        ),
        "weights that are no numbers": written(
            {n: np.full_like(t, np.nan) for n, t in made.tensors.items()}, head
        ),
    }


def engines() -> dict[str, bytes]:
    """Engine files with right hashes whose manifests are tricks."""
    from crn_fast.backends import native
    from crn_fast.manifest import Manifest

    made = tiny.make_checkpoint()
    packed = native.pack(made.spec, made.tensors, "auto")
    manifest = Manifest(made.spec, made.labels, "native", "auto", "any", made.sha256(), {}, {})
    plain = manifest.to_metadata()

    def other(**changes: str) -> bytes:
        return written(packed, plain | changes, "net.crn")

    return {
        "a backend that is a path": other(backend="../../evil"),
        "a backend that is a module": other(backend="os"),
        "a backend that is another": other(backend="eager"),
        "a backend that is code": other(backend="trt"),
        "code that says it is none": other(backend="fused"),
        "a version to come": other(version="2"),
        "built with lists": other(built_with="[]"),
        "a precision that is none": other(precision="evil"),
        "a target that clears the screen": other(target="\x1b[2J\n"),
        "built with what clears the screen": other(built_with='{"a": "\\u001b[2J"}'),
        "a checkpoint": other(format="crn_fast.checkpoint"),
        "a spec of another size": other(spec=json.dumps({"widths": [7, 6, 5], "classes": 12})),
        "no spec": written(packed, {k: v for k, v in plain.items() if k != "spec"}, "net.crn"),
        "labels of another number": other(labels='{"name":"x","classes":[{"name":"a"}]}'),
    }


def tomls() -> dict[str, bytes]:
    """Recipes and label sets that are tricks; each is read as either."""
    deep = 100_000
    return {
        "an integer of 5000 digits": b"x = " + b"9" * 5000,
        "lists in lists": b"x = " + b"[" * deep + b"]" * deep,
        "tables in tables": b"x = " + b"{a=" * 5000 + b"1" + b"}" * 5000,
        "dotted keys without end": b"a." * 100_000 + b"a = 1",
        "a key twice": b"name = 'a'\nname = 'b'",
        "a table twice": b"[network]\n[network]",
        "a date for a name": b"name = 1979-05-27T07:32:00Z\nlabel_set = 1979-05-27",
        "10 MB of text": b"name = '" + b"x" * 10_000_000 + b"'",
        "a name of 1 MB": b"name = '" + b"x" * 1_000_000 + b"'",
        "a line that never ends": b"x" * 1_048_576,
        "NUL": b"name = '\x00'",
        "NUL, written": b'name = "\\u0000"\nlabel_set = "\\u0000"',
        "no UTF-8": b"name = '\xff\xfe'",
        "UTF-16": "name = 'a'".encode("utf-16"),
        "half a character": b'name = "\\ud800"',
        "a name that clears the screen": b'"\\u001b[2J" = 1',
        "a label set that clears the screen": b'label_set = "\\u001b[2J.toml"\nclasses = []',
        "not a number": b"x = nan\n[training]\nlearning_rate = nan\n[network]\nwidths = [nan]",
        "infinity": b"[training]\nlearning_rate = inf\n[network]\nwidths=[4]",
        "no table": b"network = 3\nclasses = 3",
        "a table of Python": b"[__class__]\n__init__ = 'x'",
        "photos of the system": b'label_set = "camvid"\n[[data]]\nphotos = "/etc"\n'
        b"[network]\nwidths = [4]\nclasses = 12\n[loss]\nkind = 'image'\ncalibrate_at = 0",
        "photos outside": b'label_set = "camvid"\n[[data]]\nphotos = "../../../etc"\n'
        b"[network]\nwidths = [4]\nclasses = 12\n[loss]\nkind = 'image'",
        "weights of the system": b'label_set = "camvid"\n[network]\nwidths = [4]\nclasses = 12\n'
        b'[loss]\nweights = "/etc/passwd"',
        "weights that never end": b'label_set = "camvid"\n[network]\nwidths = [4]\nclasses = 12\n'
        b'[loss]\nweights = "/dev/zero"',
        "labels of the system": b'label_set = "/etc/passwd"\n[network]\nwidths = [4]',
        "labels that never end": b'label_set = "/dev/zero"\n[network]\nwidths = [4]',
        "a million stages": b"[network]\nwidths = [" + b"1," * 400_000 + b"]",
        "classes without end": b"classes = [" + b"{name='a'}," * 90_000 + b"]",
        "a batch of 2^62": b'label_set = "camvid"\n[network]\nwidths=[4]\nclasses=12\n'
        b"[loss]\nkind='image'\n[training]\nbatch = 4611686018427387904\nsteps = 0",
    }


def bundles() -> dict[str, dict[str, bytes]]:
    """TensorFlow checkpoints whose index is a trick; the index is the first file."""
    header = _entry(0, b"", b"\x08\x01")

    def variable(dtype: int, dims: list[int], offset: int, size: int) -> bytes:
        shape = b"".join(b"\x12" + _sized(b"\x08" + _varint(dim)) for dim in dims)
        parts = [b"\x08" + _varint(dtype), b"\x12" + _sized(shape), b"\x20" + _varint(offset)]
        return b"".join([*parts, b"\x28" + _varint(size)])

    def one(value: bytes, name: bytes = b"g_4_conv1/weights") -> bytes:
        return _table(header + _entry(0, name, value))

    laughs = header + _entry(0, b"a" * 500, b"")
    laughs += b"".join(_entry(500, b"%06d" % i, b"") for i in range(60_000))
    whole = one(variable(1, [3, 3, 20, 8], 0, 5760))
    found = {
        "an offset of 2^63": one(variable(1, [3, 3, 20, 8], BIG, 5760)),
        "sides that overflow": one(variable(1, [1 << 62, 1 << 62], 0, 0)),
        "a terabyte": one(variable(1, [1 << 38], 0, 1 << 40)),
        "a thousand sides": one(variable(1, [1] * 1000, 0, 4)),
        "a dtype that is none": one(variable(99, [3, 3, 20, 8], 0, 5760)),
        "strings": one(variable(7, [3], 0, 12)),
        "prefixes that laugh": _table(laughs),
        "a prefix beyond the last key": _table(header + _entry(9, b"a", b"")),
        "a key that is no text": one(variable(1, [1], 0, 4), b"\x1b[2J\xff\n"),
        "a varint without end": _table(header + b"\xff" * 30),
        "a block beyond the file": _footed(whole[:-48], 0, BIG),
        "a block in the footer": _footed(whole[:-48], len(whole) - 60, 50),
        "an index that is its own block": _footed(whole[:-48], 0, len(whole) - 53),
        "no header": _table(_entry(0, b"a", variable(1, [1], 0, 4))),
        "99999 data files": _table(_entry(0, b"", b"\x08\x9f\x8d\x06") + header[:0]),
        "a group of protobuf's": one(b"\x0b" * 1000),
        "restarts of 4 billion": _table(header, b"\xff\xff\xff\xff"),
        "keys out of order": _table(header + _entry(0, b"b", b"") + _entry(0, b"a", b"")),
        "a footer alone": whole[-48:],
        "half": whole[: len(whole) // 2],
    }
    data = {"net.data-00000-of-00001": bytes(6000)}
    return {name: {"net.index": index, **data} for name, index in found.items()}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _sized(data: bytes) -> bytes:
    return _varint(len(data)) + data


def _entry(shared: int, key: bytes, value: bytes) -> bytes:
    """A key and value of a LevelDB block; the key's first `shared` bytes are the one's before."""
    return _varint(shared) + _varint(len(key)) + _varint(len(value)) + key + value


def _block(entries: bytes, restarts: bytes = b"\x01\x00\x00\x00") -> bytes:
    from crn_fast.crc32c import crc32c

    block = entries + bytes(4) + restarts + b"\x00"
    crc = crc32c(block)
    return block + (((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def _table(entries: bytes, restarts: bytes = b"\x01\x00\x00\x00") -> bytes:
    """A LevelDB table of one block."""
    data = _block(entries, restarts)
    handle = _varint(0) + _varint(len(data) - 5)
    index = _block(_entry(0, b"z", handle))
    return _footed(data + index, len(data), len(index) - 5)


def _footed(body: bytes, offset: int, size: int) -> bytes:
    handles = _varint(0) + _varint(0) + _varint(offset) + _varint(size)
    return body + handles.ljust(40, b"\0") + (0xDB4775248B80FB57).to_bytes(8, "little")
