"""Plain tables, as TOML and JSON give them -> dataclasses, every name, type and value checked.

It knows nothing of what the tables mean; errors name the place, the key and the value.
"""

from __future__ import annotations

import math
from dataclasses import MISSING, fields
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from crn_fast.errors import BadInput
from crn_fast.files import nearest
from crn_fast.palette import parse_toml

T = TypeVar("T")


def override(table: dict[str, Any], assignment: str) -> None:
    """Apply one 'path.to.key=value' to nested tables, the value as in TOML or a bare word.

    Raises:
        BadInput: no assignment, or the path leads through something that is no table.
    """
    keys, equals, text = assignment.partition("=")
    *path, key = keys.strip().split(".")
    if not equals or not key or "" in path:
        raise BadInput(f"--set {assignment[:80]}: expected key=value, as in training.batch=2")
    try:
        value = parse_toml(f"value = {text}".encode(), "--set")["value"]
    except BadInput:
        value = text.strip()
    for part in path:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise BadInput(f"--set {assignment[:80]}: {part} is not a table with keys of its own")
    table[key] = value


def parse(kind: type[T], value: Any, where: str) -> T:
    """Read `value` as the dataclass `kind`; values that already are dataclasses pass.

    Raises:
        BadInput: an unknown or missing key, or a value of the wrong type.
    """
    if isinstance(value, kind):
        return value
    if not isinstance(value, dict):
        raise BadInput(f"{where}: expected a table, found {str(value)[:80]!r}")
    hints = get_type_hints(kind)
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    if unknown := sorted(set(value) - set(known)):
        error = BadInput(f"{where}: unknown key {unknown[0]!r}; known are {', '.join(known)}")
        raise error.instead_of(unknown[0], *nearest(unknown[0], known))
    for name, f in known.items():
        if name not in value and f.default is MISSING and f.default_factory is MISSING:
            raise BadInput(f"{where}: {name} is missing")
    return kind(**{key: _convert(hints[key], v, f"{where}: {key}") for key, v in value.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    options = [option for option in get_args(hint) if option is not type(None)]
    if get_origin(hint) is Literal:
        if value not in options:
            raise BadInput(f"{where} is {value!r}; expected one of {', '.join(map(repr, options))}")
        return value
    if get_origin(hint) is tuple:
        repeated = options[-1] is Ellipsis
        if not isinstance(value, list | tuple) or not (repeated or len(value) == len(options)):
            raise BadInput(f"{where} is {value!r}; expected a list of {options[0].__name__}")
        return tuple(_convert(options[0], item, where) for item in value)
    if options:  # X | None
        return None if value is None else _convert(options[0], value, where)
    if hasattr(hint, "__dataclass_fields__"):
        return parse(hint, value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise BadInput(f"{where} is {value!r}; expected {hint.__name__}")
    if hint is float and not math.isfinite(value):
        raise BadInput(f"{where} is {value}; expected a finite number")
    return value
