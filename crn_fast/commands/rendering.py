"""What rendering one layout, many, and videos have in common: the options and what they mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from crn_fast.commands import say
from crn_fast.errors import UsageError

if TYPE_CHECKING:
    import numpy as np

    from crn_fast.engine import Engine
    from crn_fast.layout import LabelMap
    from crn_fast.palette import LabelSet

VIDEO_ENDINGS = (".avi", ".mkv", ".mov", ".mp4", ".webm", ".m4v", ".nut")
"""Of files that are taken for videos of labels."""


@dataclass(frozen=True)
class Request:
    """The options of `crn-fast render`, as given."""

    sources: tuple[str, ...]
    model: str | None
    out: str | None
    label_set: str | None
    encoding: Any
    unknown: Any
    fit: Any
    size: tuple[int, int] | None
    backend: str
    precision: str
    device: int | None
    threads: int | None
    images: int | None
    compose: str | None
    seam: int
    batch: int
    picture_format: str | None
    format_in: str
    quality: int
    fps: Any
    shard: str | None
    skip_existing: bool
    overwrite: bool
    keep_going: bool
    timing: bool
    as_json: bool

    @property
    def makes_frames(self) -> bool:
        """Whether the pictures become one video or stream."""
        return self.picture_format in ("mp4", "raw") or (self.out or "").lower().endswith(
            (".mp4", ".raw")
        )

    @property
    def takes_frames(self) -> bool:
        """Whether the layouts come from one video or stream."""
        return self.format_in == "raw" or any(
            Path(source).suffix.lower() in VIDEO_ENDINGS for source in self.sources
        )

    def open(self, path: Path) -> Engine:
        """The engine of a checkpoint or engine file."""
        from crn_fast.engine import Engine

        return Engine.open(
            path,
            backend=self.backend,
            precision=self.precision,
            device=self.device,
            threads=self.threads,
        )

    def labels_of(self, engine: Engine) -> LabelSet:
        """The label set that the layouts are in."""
        from crn_fast import palette

        return palette.label_set(self.label_set) if self.label_set else engine.labels

    def packaged_labels(self) -> LabelSet:
        """The same where the model is to be chosen by the layout."""
        from crn_fast import models, palette

        return palette.label_set(self.label_set or models.LABEL_SET)

    def read(self, source: str | Path | BinaryIO, labels: LabelSet) -> LabelMap:
        """A layout as the file has it."""
        from crn_fast import layout

        return layout.read(source, labels, encoding=self.encoding, unknown=self.unknown)

    def bring_to(self, labels: LabelMap, engine: Engine) -> LabelMap:
        """The layout in the network's label set and size."""
        from crn_fast import layout

        if labels.labels.names != engine.labels.names:
            labels = layout.convert(labels, engine.labels)
        return layout.fit(labels, engine.spec.size, self.fit)

    def check(self, engine: Engine) -> None:
        """Check the size against the network's, and that label set and options go together.

        Raises:
            Mismatch: another size than --size.
            UsageError: the label set cannot be read so.
        """
        from crn_fast.engine import check_size
        from crn_fast.layout import check_reading

        check_size(engine.source, engine.spec, self.size)
        check_reading(self.labels_of(engine), self.encoding, self.unknown)

    def finisher(self, engine: Engine) -> tuple[int, Callable[[LabelMap, np.ndarray], np.ndarray]]:
        """How many pictures of a layout are written, and what makes them of those rendered.

        Raises:
            UsageError: more pictures than the network makes, or a choice that it has not.
        """
        made = engine.spec.images
        if self.compose is not None:
            from crn_fast.rendering.compose import compose, parse_choice

            if self.images is not None:
                raise UsageError("--compose makes one picture: leave --images out")
            choice = parse_choice(self.compose, engine.labels, made)
            return 1, lambda layout, pictures: compose(pictures, layout.array, choice, self.seam)[
                None
            ]
        if self.seam:
            raise UsageError("--seam softens the borders of --compose: give both")
        if self.images and self.images > made:
            raise UsageError(
                f"--images {self.images}: {engine.source} makes {made} of a layout: "
                f"`--images {made}`"
            )
        count = self.images or made
        return count, lambda layout, pictures: pictures[:count]


def announce(engine: Engine) -> None:
    """Say what renders."""
    say(f"model {engine.source}, backend {engine.backend}, {engine.precision} on {engine.device}")
