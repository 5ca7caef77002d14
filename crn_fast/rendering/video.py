"""Videos: pictures as H.264 in MP4, and layouts from videos whose codec loses nothing.

PyAV does the work (extra [video]). A layout that went through a lossy codec has other labels along
every border, so such videos are refused, whatever their quality.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from crn_fast.errors import BadInput, ResourceError, Unavailable, UsageError
from crn_fast.files import require_file
from crn_fast.png import MAX_PIXELS, MAX_SIDE, Pixels

if TYPE_CHECKING:
    import av

LOSSLESS = ("ffv1", "png", "rawvideo", "huffyuv", "ffvhuff", "utvideo", "qtrle")
"""FFmpeg's codecs that give back what was put in, whatever their options."""
GREY = ("gray", "gray8")
RGB = ("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr", "gbrp")
"""Pixel formats that hold ids and colours as they are; all others are converted or subsampled."""
CLOSED = {"format_whitelist": "avi,matroska,webm,mov,mp4,nut", "protocol_whitelist": "file"}
"""A video that is really a playlist would otherwise have FFmpeg open what it names."""
PRESET = "veryfast"
"""x264's. Slower ones give smaller files and would compete with the renderer for the CPU."""


def require() -> Any:
    """The module `av`.

    Raises:
        Unavailable: PyAV is not installed, or this one has no H.264 encoder.
    """
    try:
        import av
    except ImportError as error:
        raise Unavailable(
            f"videos need PyAV, which cannot be imported ({error}): pip install av, or install "
            "crn_fast with its extra [video]"
        ) from None
    return av


class Encoder(Protocol):
    def __call__(self, rgb: np.ndarray) -> None:
        """Append a frame, uint8 RGB [H, W, 3]."""


@contextmanager
def encoder(
    path: Path, size: tuple[int, int], fps: Fraction, quality: int = 95
) -> Iterator[Encoder]:
    """Write an MP4 of H.264 (BT.709, 4:2:0, faststart), whole when the context ends.

    Args:
        path: of the file to write; see `files.staged` for one that appears whole.
        size: height and width, both even.
        fps: frames a second.
        quality: 1..100; x264's constant rate factor is 51 - 0.35 quality: 18 for 95.

    Raises:
        Unavailable: no PyAV, or no H.264 encoder in it.
        UsageError: an odd height or width.
        ResourceError: the encoder failed, or the disk is full.
    """
    av = require()
    height, width = size
    if height % 2 or width % 2:
        raise UsageError(f"{height}x{width}: an MP4 needs an even height and width; write pictures")
    try:
        av.codec.Codec("libx264", "w")
    except ValueError:
        raise Unavailable(
            "this PyAV has no libx264 encoder: install PyAV's own wheel: pip install av"
        ) from None
    try:
        with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart"}) as container:
            track = container.add_stream("libx264", rate=fps)
            track.height, track.width, track.pix_fmt = height, width, "yuv420p"
            crf = f"{51 - 0.35 * quality:.1f}"
            track.options = {"preset": PRESET, "crf": crf}
            context = track.codec_context
            context.color_range, context.colorspace = 1, 1  # limited, BT.709
            context.color_primaries = context.color_trc = 1

            def encode(rgb: np.ndarray) -> None:
                frame = av.VideoFrame.from_ndarray(rgb, format="rgb24")
                frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709")
                container.mux(track.encode(frame))

            yield encode
            container.mux(track.encode(None))
    except av.FFmpegError as error:
        raise ResourceError(f"{path.name}: could not be encoded ({error})") from error


def size_of(path: str | Path) -> tuple[int, int]:
    """Height and width of a video of labels; errors as of `read`."""
    with _opened(path) as (_, track):
        return track.height, track.width


def read(path: str | Path) -> Iterator[Pixels]:
    """The frames of a video of labels, undecided what they mean.

    Raises:
        BadInput: missing, damaged, no video, or one whose codec or pixel format loses labels.
        Unavailable: no PyAV.
    """
    with _opened(path) as (container, track):
        av = require()
        layout = track.codec_context.format.name
        try:
            for frame in container.decode(track):
                if frame.format.name != layout or (frame.height, frame.width) != (
                    track.height,
                    track.width,
                ):
                    raise BadInput(f"{path}: its frames change their size or format")
                if layout in GREY:
                    yield Pixels("8-bit grey", frame.to_ndarray(), None)
                else:
                    rgb = frame.to_ndarray(format="rgb24").astype(np.uint32)
                    packed = rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16
                    yield Pixels("8-bit RGB", None, packed)
        except av.FFmpegError as error:
            raise BadInput(f"{path}: damaged video ({error})") from None


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    av = require()
    require_file(path, "a video of labels")
    try:
        container = av.open(str(path), options=dict(CLOSED))
    except av.FFmpegError as error:
        raise BadInput(f"{path}: no video that can be read ({error})") from None
    with container:
        if not container.streams.video:
            raise BadInput(f"{path}: has no video track")
        track = container.streams.video[0]
        context = track.codec_context
        codec = context.name
        layout = context.format.name if context.format else "unknown"
        if codec not in LOSSLESS:
            raise BadInput(
                f"{path}: its codec is {codec}, which may change labels along every border; save "
                "labels without loss: ffmpeg -i labels%06d.png -c:v ffv1 -pix_fmt gray labels.mkv"
            )
        if layout not in GREY + RGB:
            raise BadInput(
                f"{path}: its pixels are {layout}, which do not hold ids or colours as they are; "
                f"save them as {GREY[0]} (ids) or one of {', '.join(RGB)} (colours)"
            )
        if max(track.height, track.width) > MAX_SIDE or track.height * track.width > MAX_PIXELS:
            raise BadInput(f"{path}: {track.height}x{track.width} is too large for a layout")
        yield container, track
