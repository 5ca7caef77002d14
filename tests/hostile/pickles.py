"""Pickles that do something when they are loaded, those that never end, and archives of them.

What they do is harmless, and seen by an audit hook: `true` is run, a closed port is called.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import struct
import tarfile
import zipfile
from typing import Any

NAMED: dict[str, tuple[Any, ...]] = {
    "os system": ("true",),
    "posix system": ("true",),
    "os popen": ("true",),
    "os posix_spawn": ("/bin/true", ["true"], {}),
    "os spawnlp": (0, "true", "true"),
    "os fork": (),
    "os remove": ("/nowhere/at/all",),
    "os rename": ("/nowhere/a", "/nowhere/b"),
    "os mkdir": ("/tmp/crn_fast-owned",),
    "shutil rmtree": ("/nowhere/at/all",),
    "subprocess Popen": ("true",),
    "subprocess check_output": (["true"],),
    "subprocess getoutput": ("true",),
    "_posixsubprocess fork_exec": (),
    "pty spawn": ("true",),
    "builtins eval": ("1 + 1",),
    "builtins exec": ("x = 1",),
    "builtins compile": ("x = 1", "<string>", "exec"),
    "__builtin__ eval": ("1 + 1",),
    "builtins __import__": ("this",),
    "builtins open": ("/tmp/crn_fast-owned", "w"),
    "importlib import_module": ("this",),
    "runpy run_module": ("this",),
    "timeit timeit": ("1 + 1",),
    "cProfile run": ("1 + 1",),
    "bdb Bdb": (),
    "pydoc pipepager": ("text", "true"),
    "uuid _get_command_stdout": ("true",),
    "distutils.spawn spawn": (["true"],),
    "marshal loads": (b"N",),
    "ctypes CDLL": ("/tmp/none.so",),
    "ctypes.util find_library": ("none",),
    "socket create_connection": (("127.0.0.1", 9),),
    "socket getaddrinfo": ("localhost", 9),
    "urllib.request urlopen": ("http://127.0.0.1:9/",),
    "webbrowser open": ("http://127.0.0.1:9/",),
    "logging.config fileConfig": ("/nowhere",),
    "pickle loads": (pickle.dumps(print),),
    "_pickle loads": (pickle.dumps(print),),
    "numpy load": ("/nowhere.npy",),
    "numpy.testing._private.utils runstring": ("x = 1", {}),
    "numpy.f2py.crackfortran param_eval": ("1 + 1", {}, {}),
    "torch load": ("/nowhere.pt",),
    "torch.storage _load_from_bytes": (pickle.dumps(print),),
    "torch.serialization add_safe_globals": ([],),
    "torch.hub load": ("crn-fast/none", "none"),
    "torch.hub load_state_dict_from_url": ("http://127.0.0.1:9/x.pth",),
    "torch.jit load": ("/nowhere.pt",),
    "torch.ops load_library": ("/tmp/none.so",),
    "torch.utils.cpp_extension load": ("none", "none.cpp"),
    "torch.utils._config_module ConfigModule.load_config": (pickle.dumps({}),),
    "torch.multiprocessing spawn": (),
}
"""What is called, and with what."""

OPENING = b"\x80\x02"
MAGIC = 0x1950A86A20F9469CFC6C
"""Begins torch's older format."""


def _plain(value: Any) -> bytes:
    """A value's part of a pickle, without memo."""
    return pickletools.optimize(pickle.dumps(value, 2))[2:-1]


def call(name: str, *arguments: Any) -> bytes:
    """A pickle that calls `module name` with arguments."""
    module, _, attribute = name.partition(" ")
    return OPENING + f"c{module}\n{attribute}\n".encode() + _plain(arguments) + b"R."


def hidden(evil: bytes) -> bytes:
    """A table of plain values with a pickle's result among them."""
    return OPENING + b"}(" + _plain("model") + b"}(" + _plain("x") + evil[2:-1] + b"uu."


def _bomb(levels: int, tuples: bool) -> bytes:
    """Of a list or tuple, itself twice, `levels` times over."""
    parts = [b")q\x00" if tuples else b"]q\x00"]
    for level in range(levels):
        again = b"h" + bytes([level])
        parts.append(
            (again if level else b"h\x00") + b"\x86" if tuples else b"](" + 2 * again + b"e"
        )
        parts.append(b"q" + bytes([level + 1]))
    return b"".join(parts)


def _tensor(numel: int, storage: str = "FloatStorage", key: str = "0", place: str = "cpu",
            size: Any = (16,), strides: Any = (1,), offset: int = 0,
            build: str = "torch._utils _rebuild_tensor_v2") -> bytes:  # fmt: skip
    """The part of a pickle that says a tensor, as torch.save writes it."""
    module, _, name = build.partition(" ")
    persistent = b"(" + _plain("storage") + f"ctorch\n{storage}\n".encode()
    persistent += _plain(key) + _plain(place) + _plain(numel) + b"tQ"
    hooks = b"ccollections\nOrderedDict\n)R"
    rest = _plain(offset) + _plain(size) + _plain(strides) + b"\x89" + hooks
    return f"c{module}\n{name}\n(".encode() + persistent + rest + b"tR"


def _state(value: bytes) -> bytes:
    return OPENING + b"}(" + _plain("model") + b"}(" + _plain("x") + value + b"uu."


def crafted() -> dict[str, bytes]:
    """Pickles by what they try, besides calling something by its name."""
    evil = call("os system", "true")
    nested = OPENING + b"cfunctools\npartial\n(cos\nsystem\n" + _plain("true") + b"tR)R."
    getattr_ = OPENING + b"cbuiltins\ngetattr\n(cos\npath\n" + _plain("join") + b"tR."
    hashed, printed = _bomb(60, True), _bomb(60, False)
    deep = 200_000
    return {
        "hidden in a table": hidden(evil),
        "functools.partial of os.system, called": nested,
        "getattr": getattr_,
        "protocol 4": b"\x80\x04" + b"\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.",
        "protocol 0": b"cos\nsystem\n(S'true'\ntR.",
        "INST": b"(S'true'\nios\nsystem\n.",
        "OBJ": b"(cos\nsystem\nS'true'\no.",
        "NEWOBJ of Popen": OPENING + b"csubprocess\nPopen\n" + _plain(("true",)) + b"\x81.",
        "NEWOBJ_EX": b"\x80\x04csubprocess\nPopen\n" + _plain(("true",)) + b"}\x92.",
        "BUILD": OPENING + b"ccollections\nOrderedDict\n)R}(" + _plain("__class__") + b"K\x01ub.",
        "BUILD of a function": OPENING + b"cos\nsystem\n}(" + _plain("__code__") + b"K\x01ub.",
        "EXT1": OPENING + b"\x82\x01.",
        "object array": call("numpy.core.multiarray _reconstruct", 0, (0,), b"b"),
        "a codec": call("_codecs encode", "x", "rot13"),
        "an hour of hashing": OPENING + b"}" + hashed + b"K\x01s.",
        "an hour of printing": OPENING + printed + b")R.",
        "a list of itself, sixty times over": _state(printed),
        "tables that say it a million times": _state(
            b"](" + b"](" + b"K\x01" * 1_000 + b"eq\x01" + b"h\x01" * 100_000 + b"e"
        ),
        "a key a million deep": OPENING + b"})" + b"\x85" * 1_000_000 + b"K\x01s.",
        "a storage's key a million deep": _state(
            b"("
            + _plain("storage")
            + b"ctorch\nFloatStorage\n)"
            + b"\x85" * 1_000_000
            + _plain("cpu")
            + b"K\x10tQ"
        ),
        "keys of one hash": OPENING
        + b"}("
        + b"".join(_plain(n * (2**61 - 1)) + b"N" for n in range(1, 200_000))
        + b"u.",
        "pairs of one hash": OPENING
        + b"ccollections\nOrderedDict\n]("
        + b"".join(b"](" + _plain(n * (2**61 - 1)) + b"Ne" for n in range(1, 150_000))
        + b"e\x85R.",
        "a key of a megabyte over many values": OPENING
        + b"}"
        + _plain("k" * 1_000_000)
        + b"]("
        + b"N" * 500_000
        + b"es.",
        "a list that grows after it was said": OPENING + b"]q\x00](h\x00h\x00e" + b"a.",
        "a list in itself": OPENING + b"]q\x00h\x00a.",
        "a table in itself": _state(b"}q\x00" + _plain("x") + b"h\x00s"),
        "a table without its methods": OPENING
        + b"ccollections\nOrderedDict\n)R}("
        + _plain("items")
        + b"ccollections\nOrderedDict\nub.",
        "BUILD of a tensor": _state(_tensor(16) + b"(" + _plain(16) + b"tb"),
        "lists in lists": OPENING + b"]" * deep + b"a" * (deep - 1) + b".",
        "tuples in tuples": OPENING + b")" + b"\x85" * deep + b".",
        "tables in tables": OPENING + b"}" + b"K\x01}" * deep + b"s" * deep + b".",
        "millions of values": OPENING + b"](" + b"K\x01" * 5_000_000 + b"e.",
        "BINBYTES of 4 GB": b"\x80\x03B" + struct.pack("<I", 2**32 - 1) + b"x.",
        "BINBYTES8 of 2^63": b"\x80\x04\x8e" + struct.pack("<Q", 2**63 - 1) + b"x.",
        "BINUNICODE of 4 GB": OPENING + b"X" + struct.pack("<I", 2**32 - 1) + b"x.",
        "FRAME of 2^63": b"\x80\x04\x95" + struct.pack("<Q", 2**63 - 1) + b"N.",
        "LONG4 of 2 GB": OPENING + b"\x8b" + struct.pack("<i", 2**31 - 1) + b"x.",
        "LONG4 of less than nothing": OPENING + b"\x8b" + struct.pack("<i", -5) + b"x.",
        "a memo of 4 billion": OPENING + b"}r" + struct.pack("<I", 2**32 - 1) + b".",
        "an empty stack": OPENING + b"0000.",
        "nothing": b"",
        "no end": OPENING + b"}" * 100,
        "bytearray of a terabyte": _state(call("builtins bytearray", 1 << 40)[2:-1]),
        "a tensor of a terabyte": _state(call("torch FloatTensor", 1 << 38)[2:-1]),
        "a storage of a terabyte": _state(call("torch FloatStorage", 1 << 38)[2:-1]),
        "persistent id of another kind": OPENING + _plain("anything") + b"Q.",
        "storage of another file": _state(_tensor(16, key="../../../../etc/passwd")),
        "storage of a GPU": _state(_tensor(16, place="cuda:0")),
        "storage of a class that is none": _state(_tensor(16, storage="hub")),
        "a tensor beyond its storage": _state(_tensor(16, size=(1 << 20,))),
        "a storage beyond its bytes": _state(_tensor(1 << 20, size=(1 << 20,))),
        "a storage of less than nothing": _state(_tensor(-16)),
        "a storage of 2^62": _state(_tensor(1 << 62, size=(1 << 62,))),
        "an offset of less than nothing": _state(_tensor(16, offset=-4096)),
        "strides of less than nothing": _state(_tensor(16, strides=(-1,))),
        "a terabyte of one value": _state(_tensor(16, size=(1 << 38,), strides=(0,))),
        "a gigabyte of one value": _state(_tensor(16, size=(1 << 14, 1 << 14), strides=(0, 0))),
        "sizes that overflow": _state(_tensor(16, size=(1 << 32, 1 << 32), strides=(0, 0))),
        "a tensor on no device": _state(
            _tensor(16, build="torch._utils _rebuild_meta_tensor_no_storage")
        ),
        "a sparse tensor": _state(_tensor(16, build="torch._utils _rebuild_sparse_tensor")),
        "a quantised tensor": _state(_tensor(16, build="torch._utils _rebuild_qtensor")),
    }


def pickles() -> dict[str, bytes]:
    """All of them, by what they try."""
    return {name.replace(" ", "."): call(name, *given) for name, given in NAMED.items()} | crafted()


def archive(pickled: bytes, **members: bytes) -> bytes:
    """A pickle as torch.save would put it into a zip archive."""
    found = {"archive/data.pkl": pickled, "archive/byteorder": b"little"}
    found |= {"archive/data/0": bytes(64), "archive/version": b"3\n"}
    return zipped(found | {f"archive/{name}": data for name, data in members.items()})


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as made:
        for name, data in members.items():
            made.writestr(zipfile.ZipInfo(name), data, compression)
    return stream.getvalue()


def unzipped(whole: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return {member.filename: archive.read(member) for member in archive.infolist()}


def wrapped(evil: bytes) -> dict[str, bytes]:
    """The other files that torch.load takes, with a pickle in them."""
    older = b"".join(pickle.dumps(x, 2) for x in (MAGIC, 1001, {"little_endian": True}))
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            entry = tarfile.TarInfo(name)
            entry.size = len(evil)
            tar.addfile(entry, io.BytesIO(evil))
    return {
        "a pickle": evil,
        "torch's older format": older + evil + pickle.dumps([], 2),
        "torch's older format, with an archive behind it": older
        + evil
        + pickle.dumps([], 2)
        + archive(call("collections OrderedDict")),
        "torch's older format, at once": evil + evil,
        "torch's oldest format": stream.getvalue(),
        "TorchScript": archive(evil, **{"constants.pkl": evil, "code/__torch__.py": b"import os"}),
    }


def odd_archives(whole: bytes, evil: bytes) -> dict[str, bytes]:
    """A sound checkpoint's archive, changed: what is refused, or is the same network."""
    members = unzipped(whole)
    folder = next(iter(members)).partition("/")[0]
    record = f"{folder}/data.pkl"
    twice = _twice(members, record, evil)
    first = whole.find(b"PK\x01\x02")
    renamed = whole[:first].replace(b"data.pkl", b"evil.pkl", 1) + whole[first:]
    bomb = members | {f"{folder}/data/0": bytes(300 << 20)}
    flags = bytearray(whole)
    flags[first + 8] |= 1
    count = bytearray(whole)
    end = whole.rfind(b"PK\x05\x06")
    count[end + 8 : end + 12] = b"\xff\xff\xff\xff"
    size = bytearray(whole)
    size[first + 20 : first + 28] = b"\xfe\xff\xff\xff" * 2
    return {
        "a member twice, evil first": twice[0],
        "a member twice, evil last": twice[1],
        "a path out of the folder": zipped(members | {f"{folder}/../../../tmp/owned": b"x"}),
        "a path from the root": zipped(members | {"/tmp/owned": b"x"}),
        "a bomb": zipped(bomb, zipfile.ZIP_DEFLATED),
        "compressed by LZMA": zipped(members, zipfile.ZIP_LZMA),
        "encrypted": bytes(flags),
        "another name in the local header": renamed,
        "the pickle in capitals": zipped(
            {
                k.replace("data.pkl", "DATA.PKL"): evil if k == record else v
                for k, v in members.items()
            }
        ),
        "the pickle, and one in capitals": zipped({f"{folder}/DATA.PKL": evil} | members),
        "two directories": two_directories(members, members | {record: evil}),
        "members in members": _overlapping(members, folder),
        "a pickle put before it": evil + whole,
        "65535 members": bytes(count),
        "members of 4 GB": bytes(size),
        "a comment cut off": whole[:-2] + b"\xff\xff",
        "an archive in an archive": zipped({record: whole}),
        "no pickle": zipped({k: v for k, v in members.items() if k != record}),
        "the pickle of another": zipped(members | {record: evil}),
        "big-endian": zipped(members | {f"{folder}/byteorder": b"big"}),
        "a strange byte order": zipped(members | {f"{folder}/byteorder": b"\xff"}),
        "storages too short": zipped(
            {k: v[:4] if "/data/" in k else v for k, v in members.items()}
        ),
        "without its storages": zipped({k: v for k, v in members.items() if "/data/" not in k}),
    }


def two_directories(shown: dict[str, bytes], hidden: dict[str, bytes]) -> bytes:
    """An archive of which Python sees the one half and torch the other, of the same names.

    Python looks for the directory right before the end, torch where the end says that it is.
    """
    shown = {name: shown[name] for name in hidden}
    room = max(0, sum(map(len, shown.values())) - sum(map(len, hidden.values())))
    longest = next(name for name in hidden if name.endswith("data.pkl"))
    hidden = hidden | {longest: hidden[longest] + bytes(room)}
    (body, listed, end), (other, listing, _) = map(_split, (zipped(hidden), zipped(shown)))
    moved, place = bytearray(listing), 0
    while place < len(moved):
        name, extra, comment = struct.unpack_from("<HHH", moved, place + 28)
        (offset,) = struct.unpack_from("<I", moved, place + 42)
        struct.pack_into("<I", moved, place + 42, offset + len(body) - len(other))
        place += 46 + name + extra + comment
    return body + listed + other + bytes(moved) + end


def _split(whole: bytes) -> tuple[bytes, bytes, bytes]:
    """An archive's members, its directory and its end."""
    end = whole.rfind(b"PK\x05\x06")
    size, offset = struct.unpack_from("<II", whole, end + 12)
    return whole[:offset], whole[offset : offset + size], whole[end:]


def _overlapping(members: dict[str, bytes], folder: str) -> bytes:
    """A thousand members that are all in the first of them, each a megabyte."""
    body, listed, end = map(bytearray, _split(zipped(members)))
    inner, places = bytes(1 << 20), []
    for number in range(10_000, 11_000):
        name = f"{folder}/data/{number}".encode()
        fields = (0, 0, 0, 0, 0, len(inner), len(inner), len(name), 0)
        inner = struct.pack("<IHHHHHIIIHH", 0x04034B50, 20, *fields) + name + inner
        places.append((name, fields, len(inner)))
    for name, fields, size in places:
        entry = struct.pack("<IHHHHHHIIIHH", 0x02014B50, 20, 20, *fields)
        listed += entry + struct.pack("<HHHII", 0, 0, 0, 0, len(body) + len(inner) - size) + name
    count = len(members) + len(places)
    struct.pack_into("<HHII", end, 8, count, count, len(listed), len(body) + len(inner))
    return bytes(body + inner + listed + end)


def _twice(members: dict[str, bytes], name: str, other: bytes) -> tuple[bytes, bytes]:
    made = []
    for order in ((other, members[name]), (members[name], other)):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w") as archive:
            for data in order:
                archive.writestr(zipfile.ZipInfo(name), data)
            for rest, data in members.items():
                if rest != name:
                    archive.writestr(zipfile.ZipInfo(rest), data)
        made.append(stream.getvalue())
    return made[0], made[1]
