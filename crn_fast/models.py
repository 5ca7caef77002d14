"""The models and example layouts that ship with the package."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from crn_fast.errors import BadInput, UsageError
from crn_fast.files import kind_of, nearest

SIZES = {
    "street-1024": (1024, 2048),
    "street-256": (256, 512),
    "street-256-diverse": (256, 512),
}
"""Name -> picture size. The first of a size is the one chosen by it, and has the example."""
LABEL_SET = "camvid"
"""Of every packaged model."""
DEFAULT = "street-1024"


def path_of(name: str) -> Path:
    """The file of a packaged model.

    Raises:
        UsageError: no packaged model has that name.
        BadInput: this installation lacks it.
    """
    if name not in SIZES:
        error = UsageError(f"model {name!r} is neither a file nor one of {', '.join(SIZES)}")
        raise error.instead_of(name, *nearest(name, SIZES))
    return _resource(f"models/{name}.safetensors")


def example_of(name: str) -> Path:
    """The example layout that fits a packaged model; raises as `path_of`."""
    if name not in SIZES:
        raise UsageError(f"no example layout for {name!r}; there are {', '.join(SIZES)}")
    first = next(other for other, size in SIZES.items() if size == SIZES[name])
    return _resource(f"data/{first}.png")


def resolve(model: str | None, size: tuple[int, ...] = ()) -> Path:
    """The file of the model a user named, or of the packaged one that fits a layout.

    Args:
        model: a path, a packaged model's name, or None to choose by size.
        size: height and width of the layout, for that choice.

    Raises:
        UsageError, BadInput: as `path_of`.
    """
    if model is None:
        fitting = [name for name, made in SIZES.items() if made == size]
        return path_of(fitting[0] if fitting else DEFAULT)
    path = Path(model)
    if kind_of(path) != "missing":
        return path
    # A name without an ending is one of ours that was mistyped, rather than a file.
    ours = model in SIZES or (not path.suffix and nearest(model, SIZES))
    return path_of(model) if ours else path


def _resource(relative: str) -> Path:
    path = Path(str(resources.files("crn_fast"))) / relative
    if not path.is_file():
        raise BadInput(f"{path}: missing from this installation; install crn-fast again")
    return path
