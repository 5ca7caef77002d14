"""Optional packages: whether one can be imported here, and how to get it."""

from __future__ import annotations


def why_no_torch() -> str | None:
    """None when PyTorch can be imported, else the reason and the way to it."""
    way = "pip install torch, or install crn_fast with its extra [train]"
    try:
        import torch
    except (ImportError, OSError) as error:
        return f"torch cannot be imported ({str(error).splitlines()[0]}): {way}"
    # An empty folder called torch imports as a package, too.
    return None if hasattr(torch, "Tensor") else f"the torch found here is not PyTorch: {way}"


def out_of_memory(error: BaseException) -> bool:
    """Whether torch (or Python) ran out of memory; torch's CPU allocator has no class for it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)
