"""Labels to the layout at every stage: 2x2 means of one-hot ids, up to four levels a launch.

A block of 16x16 ids becomes its share of each class at 8x8, 4x4, 2x2 and 1x1 without leaving
registers. Four levels are exact in half precision (multiples of 1/256); above them sums are kept in
float32 and rounded once a launch.

`check_ids` stands before it: ids that no host has checked raise a flag where they are unknown. No
kernel uses an id as an index but that one, into a table of 256 entries.

Compiled for sm_80 to sm_120, never run on a GPU.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from crn_fast.kernels.gpu.operands import padded
from crn_fast.kernels.gpu.queue import Queue

LEVELS = 4


@triton.jit
def halve(
    source,  # ids [N, height, width] or soft map [N, height, width, CLASSES]
    pyramid,  # soft maps [N, height >> l, width >> l, CLASSES], l = 1 .. LEVELS, one after another
    height,  # of `source`; divisible by 2 ** LEVELS
    width,
    CLASSES: tl.constexpr,  # padded
    IDS: tl.constexpr,
    LEVELS: tl.constexpr,
    BC: tl.constexpr,  # classes of one program
):
    SIDE: tl.constexpr = 2**LEVELS
    samples = tl.num_programs(2)
    sample = tl.program_id(2)
    across = width // SIDE
    top = tl.program_id(0) // across
    left = tl.program_id(0) % across
    classes = tl.program_id(1) * BC + tl.arange(0, BC)
    known = (classes < CLASSES)[None, None, :]
    y = (top * SIDE + tl.arange(0, SIDE))[:, None]
    x = (left * SIDE + tl.arange(0, SIDE))[None, :]
    start = sample.to(tl.int64) * height * width
    if IDS:
        ids = tl.load(source + start + y * width + x).to(tl.int32)
        share = (ids[:, :, None] == classes[None, None, :]).to(tl.float32)
    else:
        at = (start + y * width + x)[:, :, None] * CLASSES + classes[None, None, :]
        share = tl.load(source + at, mask=known, other=0.0).to(tl.float32)
    for level in tl.static_range(1, LEVELS + 1):
        share = tl.sum(tl.reshape(share, (share.shape[0] // 2, 2, share.shape[1], BC)), 1)
        share = tl.sum(tl.reshape(share, (share.shape[0], share.shape[0], 2, BC)), 2) * 0.25
        fine_height, fine_width = height // 2**level, width // 2**level
        y = (top * share.shape[0] + tl.arange(0, share.shape[0]))[:, None]
        x = (left * share.shape[0] + tl.arange(0, share.shape[0]))[None, :]
        start = sample.to(tl.int64) * fine_height * fine_width
        at = (start + y * fine_width + x)[:, :, None] * CLASSES + classes[None, None, :]
        tl.store(pyramid + at, share.to(pyramid.dtype.element_ty), mask=known)
        pyramid += samples.to(tl.int64) * fine_height * fine_width * CLASSES


@triton.jit
def find_strange(
    labels,  # ids [N, pixels]
    known,  # uint8 [256]: 1 for an id of the label set
    flag,  # int32 [1]: becomes 1 where an id is not known, and is left alone otherwise
    pixels,
    BLOCK: tl.constexpr,
):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    labels += tl.program_id(1).to(tl.int64) * pixels
    ids = tl.load(labels + i, mask=i < pixels, other=0).to(tl.int32)
    strange = (tl.load(known + ids) == 0) & (i < pixels)
    # All that write, write the same: the result does not depend on their order.
    tl.store(flag, 1, mask=tl.max(strange.to(tl.int32), 0) > 0)


def check_ids(queue: Queue, labels: Tensor, known: Tensor, flag: Tensor) -> None:
    """Raise a flag where labels hold ids outside of the label set.

    Args:
        queue: what launches.
        labels: uint8 [N, H, W].
        known: uint8 [256], 1 for every id of the label set.
        flag: int32 [1], 0 before; 1 after if an id is unknown.
    """
    n, height, width = labels.shape
    pixels, block = height * width, 4096
    queue.launch(
        find_strange,
        (triton.cdiv(pixels, block), n, 1),
        labels=labels,
        known=known,
        flag=flag,
        pixels=pixels,
        BLOCK=block,
    )


def known_ids(classes: int) -> Tensor:
    """The table for `check_ids`: ids from 0 to `classes` - 1 are known."""
    return (torch.arange(256) < classes).to(torch.uint8)


def label_pyramid(
    queue: Queue, labels: Tensor, classes: int, stages: int, dtype: torch.dtype
) -> tuple[Tensor | None, list[Tensor]]:
    """The layout at each stage, coarse to fine.

    Args:
        queue: what allocates and launches.
        labels: uint8 [N, H, W], H and W divisible by 2**(stages - 1). Ids >= `classes` have no
            share anywhere.
        classes: channels of the layout, at most 255.
        stages: number of stages.
        dtype: of the soft maps.

    Returns:
        the tensor that holds all soft maps (None for one stage), to give back to the queue; and
        `stages` tensors: soft maps [N, h, w, padded classes], last `labels` themselves.
    """
    if stages == 1:
        return None, [labels]
    n, height, width = labels.shape
    channels = padded(classes)
    sizes = [(height >> level, width >> level) for level in range(1, stages)]
    whole = queue.take((sum(n * h * w for h, w in sizes), channels), dtype)
    maps: list[Tensor] = []
    first = 0
    for h, w in sizes:
        maps.append(whole[first : first + n * h * w].view(n, h, w, channels))
        first += n * h * w
    wide = min(32, triton.next_power_of_2(channels))
    source, done = labels, 0
    while done < len(maps):
        levels = min(LEVELS, len(maps) - done)
        height, width = source.shape[1:3]
        queue.launch(
            halve,
            ((height >> levels) * (width >> levels), triton.cdiv(channels, wide), n),
            source=source,
            pyramid=maps[done],
            height=height,
            width=width,
            CLASSES=channels,
            IDS=done == 0,
            LEVELS=levels,
            BC=wide,
        )
        done += levels
        source = maps[done - 1]
    return whole, [*maps[::-1], labels]
