"""crn_fast renders photographs from semantic layouts with a Cascaded Refinement Network.

Public names load on first use, so that importing the package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crn_fast.engine import Engine as Engine
    from crn_fast.engine import build_engine as build_engine
    from crn_fast.layout import LabelMap as LabelMap
    from crn_fast.spec import CascadeSpec as CascadeSpec

__version__ = "0.1.0"
__all__ = ["CascadeSpec", "Engine", "LabelMap", "build_engine"]

_HOME = {
    "CascadeSpec": "crn_fast.spec",
    "Engine": "crn_fast.engine",
    "LabelMap": "crn_fast.layout",
    "build_engine": "crn_fast.engine",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'crn_fast' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
