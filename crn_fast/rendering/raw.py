"""Frames without any container, as simulators hand them on: bytes, row by row, frame after frame.

Labels are uint8 ids [H, W]; pictures are uint8 RGB [H, W, 3]. Nothing says where a frame begins, so
a stream that ends within one is an error. Nothing tells a changed byte from the right one either:
that is for pipes within a machine, and files are better PNGs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np

from crn_fast.errors import BadInput


class Readable(Protocol):
    """What an unbuffered stream has."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


def read(stream: Readable, size: tuple[int, int], name: str = "stdin") -> Iterator[np.ndarray]:
    """The frames of a stream, uint8 [H, W] each, until it ends.

    Args:
        stream: read without buffering, so that no byte of a frame waits for the next one's.
        size: height and width.
        name: of the stream, in messages.

    Raises:
        BadInput: the stream ends within a frame; the bytes are counted.
    """
    wanted, number = size[0] * size[1], 0
    while True:
        frame = np.empty(size, np.uint8)
        view, filled = frame.reshape(-1).data, 0
        while filled < wanted and (count := stream.readinto(view[filled:])):
            filled += count
        if filled == 0:
            return
        if filled < wanted:
            raise BadInput(
                f"{name}: ends within frame {number}, after {filled} of its {wanted} bytes "
                f"({size[0]}x{size[1]} ids of one byte); {number} whole frames came before"
            )
        yield frame
        number += 1
