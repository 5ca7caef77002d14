"""Sound pickles with their opcodes changed: others, in another order, with other numbers."""

from __future__ import annotations

import io
import pickletools
import struct

import numpy as np

from hostile.pickles import unzipped, zipped

NUMBERS = (0, 1, 2, 5, 127, 255, 2**31 - 1, 2**32 - 1)


def split(pickled: bytes) -> list[bytes]:
    """A pickle's operations, each with its argument."""
    places = [place or 0 for _, _, place in pickletools.genops(pickled)]
    return [pickled[a:b] for a, b in zip(places, [*places[1:], places[-1] + 1], strict=True)]


def strange(rng: np.random.Generator) -> bytes:
    """An operation with an argument of its kind, out of all that there are."""
    number = int(rng.choice(NUMBERS))
    known = pickletools.opcodes[rng.integers(len(pickletools.opcodes))]
    code, kind = known.code.encode("latin-1"), known.arg.name if known.arg else ""
    texts = ("x", "model", "_metadata", "items", "0", "storage", "a.b", "cpu")
    text = str(rng.choice(texts)).encode()
    match kind:
        case "":
            return code
        case "uint1":
            return code + bytes([number & 255])
        case "uint2":
            return code + struct.pack("<H", number & 0xFFFF)
        case "int4" | "uint4":
            return code + struct.pack("<I", number)
        case "uint8":
            return code + struct.pack("<Q", number << int(rng.choice([0, 31])))
        case "float8":
            return code + struct.pack(">d", float(rng.choice([0.0, 1e308, np.nan, np.inf])))
        case "long1":
            size = int(rng.choice([0, 1, 8, 9, 255]))
            return code + bytes([size]) + rng.bytes(size)
        case "long4" | "string4" | "unicodestring4" | "bytes4":
            size = int(rng.choice([len(text), number]))
            return code + struct.pack("<I", size) + text
        case "bytes8" | "unicodestring8" | "bytearray8":
            size = int(rng.choice([len(text), number << 31]))
            return code + struct.pack("<Q", size) + text
        case "string1" | "unicodestring1" | "bytes1":
            return code + bytes([len(text)]) + text
        case "stringnl_noescape_pair":
            named = ("torch._utils\n_rebuild_tensor_v2", "torch\nFloatStorage", "os\nsystem")
            others = ("collections\nOrderedDict", "torch._utils\n_rebuild_parameter", "a\nb")
            return code + str(rng.choice([*named, *others])).encode() + b"\n"
        case "stringnl":
            return code + b"'" + text + b"'\n"
        case _:
            return code + str(number).encode() + b"\n"


def changed(pickled: bytes, rng: np.random.Generator) -> bytes:
    """A pickle with one to eight changes."""
    parts = split(pickled)
    for _ in range(rng.integers(1, 9)):
        place, other = (int(i) for i in rng.integers(1, len(parts), 2))
        match int(rng.integers(8)):
            case 0:
                parts.insert(place, strange(rng))
            case 1:
                parts[place] = strange(rng)
            case 2:
                del parts[place]
            case 3:
                parts.insert(place, parts[other])
            case 4:
                parts[place], parts[other] = parts[other], parts[place]
            case 5:  # says again, or keeps, what is somewhere
                number = int(rng.integers(64))
                parts.insert(place, (b"h" if rng.random() < 0.7 else b"q") + bytes([number]))
            case 6:
                data = bytearray(parts[place])
                data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
                parts[place] = bytes(data)
            case 7:  # many times over
                parts[place:place] = [parts[place]] * int(
                    rng.choice([10, 100, 1_000]) if rng.random() < 0.99 else 200_000
                )
        if len(parts) < 4:
            break
    return b"".join(parts)


def changed_archive(whole: bytes, rng: np.random.Generator) -> bytes:
    """A file of torch with its pickle changed."""
    members = unzipped(whole)
    record = next(name for name in members if name.endswith("data.pkl"))
    return zipped(members | {record: changed(members[record], rng)})


def changed_older(whole: bytes, rng: np.random.Generator) -> bytes:
    """A file of torch's older format with one of its five pickles changed."""
    stream, parts = io.BytesIO(whole), []
    for _ in range(5):
        start = stream.tell()
        for _ in pickletools.genops(stream):
            pass
        parts.append(whole[start : stream.tell()])
    place = int(rng.choice([0, 1, 2, 3, 3, 3, 3, 4]))
    parts[place] = changed(parts[place], rng)
    return b"".join([*parts, stream.read()])
