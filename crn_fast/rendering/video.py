"""Videos: pictures as H.264 in MP4, and layouts from videos that lose nothing and say if they did.

PyAV does the work (extra [video]). A layout that went through a lossy codec has other labels along
every border, so such videos are refused, whatever their quality. So are those of lossless codecs
without checksums: of single flipped bits in them, FFmpeg passed on more than half as other labels.
Checksums are compared here, for FFmpeg conceals what is damaged: it repeats an earlier frame.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from io import BytesIO
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np

from crn_fast import png
from crn_fast.errors import BadInput, ResourceError, Unavailable, UsageError
from crn_fast.extras import way_to
from crn_fast.files import explain, require_file
from crn_fast.png import MAX_PIXELS, MAX_SIDE, Pixels

if TYPE_CHECKING:
    import av

CHECKED = ("ffv1", "png")
"""FFmpeg's codecs that give back what was put in and have checksums; FFV1 from version 3."""
GREY = ("gray", "gray8")
RGB = ("rgb24", "bgr24", "rgb0", "bgr0", "0rgb", "0bgr", "gbrp")
"""Pixel formats that hold ids and colours as they are; all others are converted or subsampled."""
CLOSED = {"format_whitelist": "avi,matroska,webm,mov,mp4,nut", "protocol_whitelist": "none"}
"""A video that is really a playlist would otherwise have FFmpeg open what it names."""
_FOOTER = 8
"""Bytes after a slice of FFV1: its length (3), an error status (1), its checksum (4)."""
_MIRRORED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))
SAVE = "`ffmpeg -i labels%06d.png -c:v ffv1 -level 3 -slicecrc 1 -g 1 -pix_fmt gray labels.mkv`"
"""A video of labels, as a line to paste."""
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
            f"videos need PyAV, which cannot be imported ({error}): {way_to('video')}"
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
        UsageError: an odd height or width, or a name that is no Unicode.
        ResourceError: the encoder failed, or the disk is full.
    """
    av = require()
    height, width = size
    if height % 2 or width % 2:
        raise UsageError(f"{height}x{width}: an MP4 needs an even height and width; write pictures")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{path}: FFmpeg takes no names that are not Unicode; rename it") from None
    try:
        av.codec.Codec("libx264", "w")
    except ValueError:
        raise Unavailable(
            "this PyAV has no libx264 encoder: install PyAV's own wheel: `pip install av`"
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
        path.unlink(missing_ok=True)
        raise ResourceError(f"{path.name}: could not be encoded: {explain(path, error)}") from error


def size_of(path: str | Path) -> tuple[int, int]:
    """Height and width of a video of labels; errors as of `read`."""
    with _opened(path) as (_, track):
        return track.height, track.width


def read(path: str | Path) -> Iterator[Pixels]:
    """The frames of a video of labels, undecided what they mean.

    What the container says of size and number of frames has no checksum: frames that are lost with
    a piece of it are missed only where it says how many there are.

    Raises:
        BadInput: missing, damaged, no video, or one that loses labels or has no checksums.
        Unavailable: no PyAV.
    """
    with _opened(path) as (container, track):
        av = require()
        count = 0
        try:
            for packet in container.demux(track):
                for pixels in _decode(packet, track, f"{path}: frame {count}"):
                    shape = _shape(pixels)
                    if shape != (track.height, track.width):
                        raise BadInput(f"{path}: its frames change their size")
                    count += 1
                    yield pixels
        except av.FFmpegError as error:
            raise BadInput(f"{path}: damaged video ({error})") from None
        if count < max(1, track.frames):
            raise BadInput(f"{path}: damaged video: {count} frames of {track.frames}")


def _shape(pixels: Pixels) -> tuple[int, ...]:
    found = pixels.values if pixels.values is not None else pixels.colors
    assert found is not None
    return found.shape


def _decode(packet: Any, track: Any, name: str) -> Iterator[Pixels]:
    """The frames that become known with a packet, checksums compared."""
    data = bytes(packet)
    if track.codec_context.name == "png":
        if data:
            yield png.read(BytesIO(data), name)
        return
    if packet.is_corrupt or not _are_slices(data):
        raise BadInput(
            f"{name}: damaged, or saved without checksums, so that damage would not be noticed; "
            f"save it again: {SAVE}"
        )
    layout = track.codec_context.format.name
    for frame in packet.decode():
        if frame.format.name != layout or frame.is_corrupt:
            raise BadInput(f"{name}: damaged video")
        if not frame.key_frame:
            raise BadInput(
                f"{name}: is told by the frames before it, which would be wrong if one were lost; "
                f"save each by itself: {SAVE}"
            )
        if layout in GREY:
            yield Pixels("8-bit grey", frame.to_ndarray(), None)
        else:
            rgb = frame.to_ndarray(format="rgb24").astype(np.uint32)
            yield Pixels("8-bit RGB", None, rgb[..., 0] | rgb[..., 1] << 8 | rgb[..., 2] << 16)


def _are_slices(data: bytes) -> bool:
    """Whether a frame of FFV1 is slices with right checksums, from its last byte to its first.

    Source: RFC 9043, 4.8. The checksum is the CRC-32 of IEEE 802.3 with the highest bit first and
    0 at the start, so over a slice and its checksum it is 0.
    """
    end = len(data)
    while end > 0:
        start = end - _FOOTER - int.from_bytes(data[max(0, end - _FOOTER) :][:3], "big")
        if start < 0 or end - start <= _FOOTER:
            return False
        if zlib.crc32(data[start:end].translate(_MIRRORED), 0xFFFFFFFF) != 0xFFFFFFFF:
            return False
        end = start
    return True


@contextmanager
def _opened(path: str | Path) -> Iterator[tuple[av.container.InputContainer, Any]]:
    av = require()
    require_file(path, "a video of labels")
    # Opened here: FFmpeg would take some names for protocols, and others are no Unicode.
    with open(path, "rb") as stream, _container(av, stream, path) as container:
        if not container.streams.video:
            raise BadInput(f"{path}: has no video track")
        track = container.streams.video[0]
        context = track.codec_context
        codec = context.name if context else "unknown"
        layout = context.format.name if context and context.format else "unknown"
        if codec not in CHECKED:
            raise BadInput(
                f"{path}: its codec is {codec}, which may change labels along every border, or has "
                f"no checksums, so that damage would not be noticed; save labels as FFV1: {SAVE}"
            )
        if codec != "png" and layout not in GREY + RGB:
            raise BadInput(
                f"{path}: its pixels are {layout}, which do not hold ids or colours as they are; "
                f"save them as {GREY[0]} (ids) or one of {', '.join(RGB)} (colours)"
            )
        if max(track.height, track.width) > MAX_SIDE or track.height * track.width > MAX_PIXELS:
            raise BadInput(f"{path}: {track.height}x{track.width} is too large for a layout")
        yield container, track


def _container(av: Any, stream: IO[bytes], path: str | Path) -> Any:
    try:
        return av.open(stream, options=dict(CLOSED), metadata_errors="replace")
    except (av.FFmpegError, ValueError) as error:
        raise BadInput(f"{path}: no video that can be read ({error})") from None
