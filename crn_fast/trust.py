"""Whether an engine file whose payload is executable code may be run: who signed it.

A TensorRT plan and compiled kernels are code, and neither TensorRT nor a driver checks what it is
given. Engines built here are signed with a key that only this user can read, and one signed by
nobody, or by somebody else, is refused before anything but our own reader has seen it, unless its
user vouches for its SHA-256. Hashes against accidents are `container`'s business, not this file's.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from crn_fast import container
from crn_fast.errors import BadInput, ResourceError, UsageError
from crn_fast.files import make_folder

SIGNATURE = "signature"
"""The metadata field: HMAC-SHA256 of `digest` with the user's key, in hex."""
KEY_BYTES = 32

_vouched: set[str] = set()


def vouch(digest: str) -> None:
    """Trust, in this process, the engine of that SHA-256 (`digest`), whoever signed it.

    Raises:
        UsageError: not 64 hex digits.
    """
    digest = digest.lower()
    if len(digest) != 64 or set(digest) - set("0123456789abcdef"):
        raise UsageError(
            f"--trust-engine {digest[:80]!r}: expected the engine's SHA-256, 64 hex digits, as "
            "crn-fast info prints it"
        )
    _vouched.add(digest)


def vouched() -> tuple[str, ...]:
    """The digests that are trusted in this process, to hand on to another."""
    return tuple(sorted(_vouched))


def require_key() -> None:
    """Check, before long work, that there is a key to sign with.

    Raises:
        ResourceError: the user's key cannot be read or made.
    """
    _key()


def digest(metadata: Mapping[str, str]) -> str:
    """SHA-256, in hex, of a container's metadata without its signature.

    The metadata holds the hash of every tensor, so this stands for the whole file.
    """
    return container.metadata_sha256({k: v for k, v in metadata.items() if k != SIGNATURE})


def sign(metadata: Mapping[str, str]) -> dict[str, str]:
    """Metadata with the user's signature; for `container.write`.

    Raises:
        ResourceError: the user's key cannot be read or made.
    """
    return {**metadata, SIGNATURE: _hmac(digest(metadata))}


def check(
    source: str, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> dict[str, np.ndarray]:
    """The tensors of a trusted container, as copies of their own that are what was signed.

    The file's arrays are mapped and could change after they were verified: they are copied first,
    and the copies are verified.

    Raises:
        BadInput: nobody trusted signed it; the message has the digest to vouch for.
        ResourceError: the user's key cannot be read or made.
    """
    found = digest(metadata)
    signature = metadata.get(SIGNATURE, "")
    if found not in _vouched and not _is_ours(signature, found):
        state = "signed by another user or machine" if signature else "not signed"
        raise BadInput(
            f"{source}: {state}, and an engine of the backend {metadata.get('backend')} is "
            "executable code: build it here, or compare its SHA-256 with its maker's and add "
            f"--trust-engine {found}"
        )
    hashes = container.json_table(metadata.get("tensors_sha256", ""), f"{source}: tensors_sha256")
    copies = {name: np.array(tensor) for name, tensor in tensors.items()}
    if any(container.tensor_sha256(copies[name]) != hashes.get(name) for name in copies):
        raise BadInput(f"{source}: changed while it was read; open it again")
    return copies


def key_path() -> Path:
    """Where the user's key is: $XDG_CONFIG_HOME, %APPDATA% or ~/.config, crn_fast/engine.key."""
    given = os.environ.get("APPDATA" if sys.platform == "win32" else "XDG_CONFIG_HOME")
    try:
        return Path(given or Path.home() / ".config") / "crn_fast" / "engine.key"
    except RuntimeError:
        raise ResourceError(
            "no home folder for the key that engines are signed with; set XDG_CONFIG_HOME"
        ) from None


def _is_ours(signature: str, digest: str) -> bool:
    """Whether the user's key signed it; where there is no key yet, none is made."""
    there = bool(signature) and os.path.lexists(key_path())
    return there and hmac.compare_digest(signature.encode(), _hmac(digest).encode())


def _hmac(text: str) -> str:
    return hmac.new(_key(), text.encode(), hashlib.sha256).hexdigest()


def _key() -> bytes:
    """The user's key, made on first use."""
    path = key_path()
    try:
        if not path.exists():
            _make(path)
        with path.open("rb") as stream:
            state = os.fstat(stream.fileno())
            key = stream.read(KEY_BYTES + 1)
    except OSError as error:
        if isinstance(error, ResourceError):
            raise
        raise ResourceError(
            f"{path}: the key that engines are signed with cannot be read or made "
            f"({error.strerror or error})"
        ) from None
    if os.name == "posix" and state.st_uid != os.geteuid():
        raise ResourceError(
            f"{path}: belongs to another user (uid {state.st_uid}), as where sudo or a container "
            "keeps a home folder: set XDG_CONFIG_HOME to a folder of your own"
        )
    if len(key) != KEY_BYTES or (os.name == "posix" and state.st_mode & 0o077):
        raise ResourceError(
            f"{path}: not a key of {KEY_BYTES} bytes that its owner alone may read; delete it, and "
            "build engines again with a new one"
        )
    return key


def _make(path: Path) -> None:
    """Appears whole, readable by its owner alone; another process's key is left as it is."""
    make_folder(path.parent)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(secrets.token_bytes(KEY_BYTES))
        with suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        os.unlink(temporary)
