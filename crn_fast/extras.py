"""Optional packages: whether one can be imported here, and how to get it."""

from __future__ import annotations


def way_to(extra: str) -> str:
    """The command that installs what an extra of this package names."""
    return f"`pip install 'crn-fast[{extra}]'`"


def why_no_torch() -> str | None:
    """None when PyTorch can be imported, else the reason and the way to it."""
    way = way_to("train")
    try:
        import torch
    except Exception as error:  # a package without its libraries raises what it likes
        return f"torch cannot be imported ({(str(error) or repr(error)).splitlines()[0]}): {way}"
    # An empty folder called torch imports as a package, too.
    return None if hasattr(torch, "Tensor") else f"the torch found here is not PyTorch: {way}"


def out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) ran out of memory; torch's CPU allocator has no class for it.

    oneDNN, which convolves on CPUs, says "could not create a primitive".
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    words = str(error)
    return isinstance(error, RuntimeError) and ("allocate memory" in words or "primitive" in words)
