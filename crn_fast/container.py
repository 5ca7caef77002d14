"""A file of named tensors with text metadata in which every corruption is noticed.

It is a safetensors file. Its metadata carries a SHA-256 of each tensor (bytes, dtype and shape)
and one of the metadata itself, since safetensors alone accepts flipped bits without a word. What
the tensors and the metadata mean is the business of `checkpoint` and `engine`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from crn_fast.errors import BadInput
from crn_fast.files import require_file, write_whole


def write(path: str | Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata with their hashes; the file appears whole or not at all.

    Raises:
        ResourceError: the file cannot be written.
    """
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    hashes = json.dumps({name: tensor_sha256(array) for name, array in arrays.items()})
    sealed = {**metadata, "tensors_sha256": hashes}
    sealed["metadata_sha256"] = metadata_sha256(sealed)
    blob = save(arrays, sealed)
    write_whole(path, lambda stream: stream.write(blob))


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read and verify what `write` wrote.

    Raises:
        BadInput: missing, not a safetensors file, truncated, or any hash differs; the message
            names the tensor.
    """
    metadata = read_metadata(path)
    from safetensors import SafetensorError, safe_open

    hashes = json_table(metadata.get("tensors_sha256", ""), f"{path}: tensors_sha256")
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise BadInput(f"{path}: damaged ({error}); get the file again") from None
    for name in sorted(hashes.keys() | tensors.keys()):
        if name not in tensors or tensor_sha256(tensors[name]) != hashes.get(name):
            raise BadInput(f"{path}: tensor {name} is damaged (its SHA-256 differs); get it again")
    return tensors, metadata


def read_metadata(path: str | Path) -> dict[str, str]:
    """Read and verify the metadata alone.

    Raises:
        BadInput: as `read`.
    """
    from safetensors import SafetensorError, safe_open

    require_file(path, "a .safetensors or .crn file")
    try:
        with safe_open(path, "np") as file:
            metadata: dict[str, str] = file.metadata() or {}
    except (SafetensorError, OSError, ValueError) as error:
        raise BadInput(
            f"{path}: not a whole safetensors file ({error}); it is truncated, damaged or of "
            "another kind"
        ) from None
    if "metadata_sha256" not in metadata:
        raise BadInput(f"{path}: a safetensors file, but not one that crn_fast wrote")
    if metadata_sha256(metadata) != metadata["metadata_sha256"]:
        raise BadInput(f"{path}: its metadata is damaged (its SHA-256 differs); get the file again")
    return metadata


def json_table(text: str, source: str) -> dict[str, str]:
    """Read a JSON object whose values are all text.

    Raises:
        BadInput: it is something else; `source` is named.
    """
    try:
        table = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        table = None
    if not isinstance(table, dict) or not all(isinstance(v, str) for v in table.values()):
        raise BadInput(f"{source}: expected a JSON object of text values; the file is damaged")
    return table


def tensor_sha256(array: np.ndarray) -> str:
    """SHA-256 of a contiguous array's dtype, shape and bytes, in hex."""
    sha = hashlib.sha256(f"{array.dtype.str} {array.shape} ".encode())
    sha.update(array.reshape(-1).view(np.uint8).data)
    return sha.hexdigest()


def metadata_sha256(metadata: Mapping[str, str]) -> str:
    """SHA-256 of all metadata but the hash itself, in hex."""
    text = json.dumps({k: v for k, v in sorted(metadata.items()) if k != "metadata_sha256"})
    return hashlib.sha256(text.encode()).hexdigest()
