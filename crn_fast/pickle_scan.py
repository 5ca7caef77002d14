"""Goes through the pickle of a table of tensors without making anything of it.

An abstract machine over the opcodes: of each value it keeps how deep and how large it is. It takes
the opcodes and names that torch.save writes for tensors, and refuses all others, bombs too: values
said again and again, nested without end, or tables whose keys take for ever to hash. It reads no
value, so what is right in one is left to who does.
"""

from __future__ import annotations

import io
import pickletools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

LIMIT = 4 << 20
"""Bytes of a pickle, without the tensors' own; those of the largest networks have some ten thousand
tensors. As many again may be said by number."""
OPERATIONS = 1 << 20
DEPTH = 32
KEY = 512
"""Characters of a table's key."""

ORDERED = "collections OrderedDict"
REBUILT = re.compile(r"torch\._utils _rebuild_(tensor|tensor_v2|parameter)")
STORAGE = re.compile(r"torch \w+Storage|torch\.storage UntypedStorage")
TEXTS = ("BINUNICODE", "SHORT_BINSTRING")
KEYS = (*TEXTS, "BININT", "BININT1", "BININT2")
"""What a key may be: of these alone no two have one hash by design."""
PLAIN = (*KEYS, "LONG1", "BINFLOAT", "NONE", "NEWTRUE", "NEWFALSE")
EMPTY = ("EMPTY_TUPLE", "EMPTY_LIST", "EMPTY_DICT")
TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
PAIRS = ("EMPTY_LIST", "tuple")
TABLES = ("EMPTY_DICT", ORDERED)


@dataclass(slots=True, eq=False)
class Value:
    """What is known of a value on the machine's stack."""

    kind: str
    """The opcode that made it, the name of a global, or what a call gave."""
    text: str = ""
    size: int = 1
    """In characters of text and values, with all that is in it, however often."""
    depth: int = 0
    parts: list[Value] = field(default_factory=list)
    again: bool = False
    """It was said by number, so it must not grow: what holds it would not know."""


def check(stream: IO[bytes]) -> None:
    """Go through one pickle; the stream is then behind its end.

    Raises:
        ValueError: it is damaged, holds more than tables of tensors and plain values, or is so
            large, deep or repetitive that reading it would take too long.
    """
    start = stream.tell()
    content = io.BytesIO(stream.read(LIMIT))
    try:
        _run(content)
    except (IndexError, KeyError):
        raise ValueError("its pickle takes values that it never made") from None
    stream.seek(start + content.tell())


def _run(content: IO[bytes]) -> None:
    stack: list[Value] = []
    below: list[list[Value]] = []
    """The stacks under each mark."""
    memo: dict[int, Value] = {}
    again = 0
    for number, (operation, argument, _) in enumerate(pickletools.genops(content)):
        name, text = operation.name, argument if isinstance(argument, str) else ""
        if number == OPERATIONS:
            raise ValueError(f"its pickle has more than {OPERATIONS} values")
        if name in PLAIN:
            stack.append(Value(name, text, 1 + len(text)))
        elif name in EMPTY:
            stack.append(Value(name))
        elif name == "MARK":
            below.append(stack)
            stack = []
        elif name in TUPLES:
            stack[-TUPLES[name] :] = [_of("tuple", _last(stack, TUPLES[name]))]
        elif name in ("BINPUT", "LONG_BINPUT"):
            memo[_number(argument)] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            value = memo[_number(argument)]
            value.again = True
            stack.append(value)
            again += value.size
            if again > LIMIT:
                raise ValueError("it says the same again and again")
        elif name in ("TUPLE", "APPENDS", "SETITEMS"):
            items, stack = stack, below.pop()
            if name == "TUPLE":
                stack.append(_of("tuple", items))
            else:
                _grow(stack[-1], items, name)
        elif name in ("APPEND", "SETITEM", "BUILD"):
            items = _last(stack, 2 if name == "SETITEM" else 1)
            del stack[-len(items) :]
            _grow(stack[-1], items, name)
        elif name == "GLOBAL":
            if text != ORDERED and not REBUILT.fullmatch(text) and not STORAGE.fullmatch(text):
                raise ValueError(f"it asks for {text!r:.80}, which no weights need")
            stack.append(Value(text))
        elif name == "REDUCE":
            called, given = _last(stack, 2)
            stack[-2:] = [_call(called, given)]
        elif name == "BINPERSID":
            stack[-1] = _of("storage", [stack[-1]])
        elif name == "PROTO":
            if argument != 2:
                raise ValueError(f"a pickle of protocol {argument}; expected 2")
        elif name != "STOP":
            raise ValueError(f"its pickle has the opcode {name}, which no weights need")


def _last(stack: list[Value], count: int) -> list[Value]:
    if len(stack) < count:
        raise IndexError
    return stack[-count:]


def _number(argument: object) -> int:
    return int(str(argument))


def _of(kind: str, parts: list[Value]) -> Value:
    made = Value(kind)
    _hold(made, parts)
    return made


def _hold(value: Value, parts: list[Value]) -> None:
    value.parts += parts
    value.size += sum(part.size for part in parts)
    value.depth = max(value.depth, 1 + max((part.depth for part in parts), default=-1))
    if value.depth > DEPTH:
        raise ValueError(f"its values are nested more than {DEPTH} deep")


def _grow(value: Value, items: list[Value], name: str) -> None:
    """Put items into a list or table, or attributes onto a table."""
    if value.again:
        raise ValueError("a value grows after it was said")
    if name.startswith("SETITEM"):
        right = value.kind in TABLES and len(items) % 2 == 0
        _check_keys(items[::2])
    elif name == "BUILD":
        # Any other attribute could stand in for a method of the table.
        right = value.kind == ORDERED and items[0].kind == "EMPTY_DICT"
        right &= all(key.text == "_metadata" for key in items[0].parts[::2])
    else:
        right = value.kind == "EMPTY_LIST"
    if not right:
        raise ValueError(f"its pickle has {name} for what takes none")
    _hold(value, items)


def _call(called: Value, given: Value) -> Value:
    if called.kind != ORDERED and not REBUILT.fullmatch(called.kind):
        raise ValueError("it calls what weights never call")
    if given.kind not in ("tuple", "EMPTY_TUPLE"):
        raise ValueError("it calls with what is no tuple")
    if called.kind == ORDERED and given.parts:
        # As Python 2 wrote them: of a list of pairs.
        pairs = given.parts[0].parts
        if given.parts[0].kind != "EMPTY_LIST" or any(pair.kind not in PAIRS for pair in pairs):
            raise ValueError("it makes a table of no pairs")
        _check_keys([key for pair in pairs for key in pair.parts[:1]])
    return _of(ORDERED if called.kind == ORDERED else "tensor", [given])


def _check_keys(keys: Sequence[Value]) -> None:
    for key in keys:
        if key.kind not in KEYS or key.size > KEY:
            raise ValueError("a table's keys must be numbers or short texts")
