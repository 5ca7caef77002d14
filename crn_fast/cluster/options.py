"""How layouts become pictures: the options of `crn-fast render` that decide them, and no others."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from crn_fast import layout, palette, png
from crn_fast.engine import Engine
from crn_fast.errors import BadInput, UsageError
from crn_fast.layout import Encoding, Fit, LabelMap, Unknown
from crn_fast.palette import LabelSet
from crn_fast.rendering import manifest

PNG = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Options:
    """As those of `crn-fast render`, with the same defaults."""

    labels: str | None = None
    """The layouts' label set, by name or TOML file; None for the model's."""
    encoding: Encoding = "auto"
    unknown: Unknown = "error"
    fit: Fit = "error"
    backend: str = "auto"
    precision: str = "auto"
    images: int | None = None
    """Only the first of a network's K pictures; None for all."""
    batch: int = 1
    """Layouts to render at a time."""
    picture_format: str | None = None
    """'png', 'jpg' or 'webp'; None for PNG."""
    quality: int = 95
    """1..100, of JPEG and WebP."""

    @property
    def ending(self) -> str:
        return self.picture_format or "png"

    def count(self, made: int) -> int:
        """How many pictures of a layout are written, of those that the network makes.

        Raises:
            UsageError: more than it makes.
        """
        if self.images and self.images > made:
            raise UsageError(f"--images {self.images}: the model makes {made} of a layout")
        return self.images or made

    def absolute(self) -> Options:
        """The same where another folder is the working folder: a file of labels is found there.

        Raises:
            UsageError, BadInput: no label set has this name, or the file holds none.
        """
        if self.labels is None or self.labels in palette.BUILTIN:
            return self
        palette.label_set(self.labels)
        return replace(self, labels=str(Path(self.labels).absolute()))

    def labels_of(self, engine: Engine) -> LabelSet:
        """The label set that the layouts are in."""
        return palette.label_set(self.labels) if self.labels else engine.labels

    def read(self, source: Path | bytes, name: str, labels: LabelSet, engine: Engine) -> LabelMap:
        """A layout in the network's label set and size.

        Args:
            source: a PNG file, its bytes, or H*W ids of one byte of the network's size.
            name: of the layout, in messages.
            labels: its label set.
            engine: what will render it.

        Raises:
            BadInput: damaged, of another kind, or with unknown values.
            Mismatch: another label set or size, and no way to convert.
            ResourceError: it may not be read.
        """
        if isinstance(source, Path):
            found = layout.read(source, labels, encoding=self.encoding, unknown=self.unknown)
        else:
            pixels, encoding = self._pixels(source, name, engine.spec.size)
            found = layout.interpret(pixels, labels, name, encoding=encoding, unknown=self.unknown)
        if labels.names != engine.labels.names:
            found = layout.convert(found, engine.labels)
        return layout.fit(found, engine.spec.size, self.fit)

    def _pixels(self, data: bytes, name: str, size: tuple[int, int]) -> tuple[png.Pixels, Encoding]:
        if data.startswith(PNG):
            return png.read(BytesIO(data), name), self.encoding
        if len(data) != size[0] * size[1]:
            raise BadInput(
                f"{name}: {len(data)} bytes that are no PNG; expected a PNG, or "
                f"{size[0] * size[1]} ids of one byte for {size[0]}x{size[1]} pixels"
            )
        ids = np.frombuffer(data, np.uint8).reshape(size)
        return png.Pixels("raw", ids, None), "ids" if self.encoding == "auto" else self.encoding

    def about(self, engine: Engine) -> dict[str, Any]:
        """What every line of a manifest says of model and options, as `crn-fast render` says it."""
        options = {
            **{name: getattr(self, name) for name in ("encoding", "unknown", "fit", "images")},
            **{"compose": None, "seam": 0, "picture_format": self.picture_format},
            "quality": None if self.ending == "png" else self.quality,
        }
        labels = self.labels_of(engine).to_json()
        return manifest.describe(engine.source, engine.backend, engine.precision, labels, options)
