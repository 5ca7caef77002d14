"""A request's body: read within limits, and made a label map of the network's classes and size."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO

import numpy as np
from starlette.requests import Request

from crn_fast import layout
from crn_fast.errors import CrnError
from crn_fast.layout import Encoding, Fit, LabelMap, Unknown
from crn_fast.palette import BUILTIN, LabelSet, label_set
from crn_fast.serve.refusal import Refusal, busy, of_error
from crn_fast.serve.settings import Settings

PNG, RAW = "image/png", "application/octet-stream"
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Reader:
    """Reads bodies; all of them together hold no more than `settings.body_memory`."""

    def __init__(self, settings: Settings) -> None:
        self._settings, self._held = settings, 0

    @asynccontextmanager
    async def read(self, request: Request) -> AsyncIterator[bytes]:
        """The body of a request that says it is a PNG, or raw ids; it counts as held meanwhile.

        Raises:
            Refusal: of another type, too large, or too much at once.
            starlette.requests.ClientDisconnect: the client has left.
        """
        if (found := request.headers.get("content-encoding", "identity")) != "identity":
            raise Refusal(415, f"Content-Encoding {found[:40]!r}; send the body as it is")
        if media_type(request) not in (PNG, RAW):
            raise Refusal(
                415, f"Content-Type {media_type(request)[:40]!r}; expected {PNG}, or {RAW} for ids"
            )
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._settings.max_body:
            raise self._too_long(f"{declared[:20]} bytes")
        data, size = bytearray(), 0
        try:
            async for part in request.stream():
                self._held += len(part)
                size += len(part)
                data += part
                if size > self._settings.max_body:
                    raise self._too_long(f"more than {self._settings.max_body} bytes")
                if self._held > self._settings.body_memory:
                    raise busy(503, "too many bodies at once; try again later", "body_memory", 2)
                if size - len(part) < 24 <= size:
                    self._check_header(data)
            whole = bytes(data)
            data.clear()  # it would be held twice
            yield whole
        finally:
            self._held -= size

    def _check_header(self, data: bytearray) -> None:
        if data.startswith(_SIGNATURE):
            width, height = (int.from_bytes(data[at : at + 4], "big") for at in (16, 20))
            self.check_pixels(height, width)

    def check_pixels(self, height: int, width: int) -> None:
        """Refuse a layout by its size alone."""
        if height * width > self._settings.max_pixels:
            raise Refusal(
                413,
                f"a layout of {height}x{width} (height x width); the limit is "
                f"{self._settings.max_pixels} pixels: resize it by nearest",
            )

    def _too_long(self, found: str) -> Refusal:
        return Refusal(413, f"a body of {found}; the limit is {self._settings.max_body} bytes")


def media_type(request: Request) -> str:
    """Of the body, without parameters; PNG where nothing is said."""
    return request.headers.get("content-type", PNG).partition(";")[0].strip().lower()


class _Named(BytesIO):
    """Bytes with the name that messages call them."""

    name: str


def decode(
    data: bytes,
    media_type: str,
    own: LabelSet,
    size: tuple[int, int],
    *,
    labels: str | None = None,
    encoding: Encoding = "auto",
    unknown: Unknown = "error",
    fit: Fit = "error",
    name: str = "body",
    shape: tuple[int, int] | None = None,
) -> LabelMap:
    """The layout in a body, brought to the network's label set and size.

    Args:
        data: a PNG, or uint8 ids row by row.
        media_type: which of them.
        own: the network's label set.
        size: of its pictures.
        labels: name of the layout's built-in label set; the network's if None.
        encoding: as of `layout.read`; for raw ids, 'auto' means channels.
        unknown: as of `layout.read`.
        fit: as of `layout.fit`.
        name: what messages call it; `_labelIds` at its end counts, as on the command line.
        shape: height and width of raw ids; the network's if None.

    Raises:
        Refusal: it is no such layout.
    """
    if labels is not None and labels not in (*BUILTIN, own.name):
        known = ", ".join({*BUILTIN, own.name})
        raise Refusal(422, f"label set {labels[:40]!r} is unknown; there are {known}")
    theirs = own if labels in (None, own.name) else label_set(str(labels))
    try:
        if media_type == PNG:
            stream = _Named(data)
            stream.name = name
            found = layout.read(stream, theirs, encoding=encoding, unknown=unknown)
        else:
            found = _from_raw(data, shape or size, theirs, name, encoding)
        if theirs.names != own.names:
            found = layout.convert(found, own, unknown="void" if unknown == "void" else "error")
        return layout.fit(found, size, fit)
    except CrnError as error:
        raise of_error(error) from None


def _from_raw(
    data: bytes, shape: tuple[int, int], labels: LabelSet, name: str, encoding: Encoding
) -> LabelMap:
    height, width = shape
    if len(data) != height * width:
        raise Refusal(
            422,
            f"{name}: {len(data)} bytes; expected {height * width} for {height}x{width} ids "
            "(height x width), one byte each: say the size with ?height=H&width=W",
        )
    ids = np.frombuffer(data, np.uint8).reshape(shape)
    if encoding == "color":
        raise Refusal(422, f"{name}: raw ids have no colours; leave ?encoding=color out")
    if encoding == "auto":
        return LabelMap(ids, labels, name)
    # Raw ids as a grey PNG would have them.
    from PIL import Image

    stream = _Named()
    Image.fromarray(ids).save(stream, "PNG", compress_level=0)
    stream.seek(0)
    stream.name = name
    return layout.read(stream, labels, encoding=encoding)
