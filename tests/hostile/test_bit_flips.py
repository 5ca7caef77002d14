"""P2: a damaged layout is refused, or decodes as before; never as another one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path

import numpy as np
import pytest

from hostile.campaign import Campaigns
from hostile.layouts import (
    Damaged,
    decode_without_checksums,
    outcomes,
    same_or_refused,
    video_by_ffmpeg,
    video_same_or_refused,
)
from hostile.pngs import SIGNATURE, ids, sound, split
from hostile.worker import verdicts

Damage = Callable[[np.random.Generator, bytearray], str]
"""Damages a file in place, and says how."""


@cache
def places(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the bytes of a PNG's compressed pixels, which zlib checks, and of all others.

    Those are the signature, header and palette, and lengths, types and checksums of chunks.
    """
    packed, at = np.zeros(len(data), bool), 8
    for kind, body in split(data):
        packed[at + 8 : at + 8 + len(body)] = kind == b"IDAT"
        at += 12 + len(body)
    return np.flatnonzero(packed), np.flatnonzero(~packed)


def somewhere(rng: np.random.Generator, data: bytes) -> int:
    """Index of a byte: in half of the cases, of a PNG, outside its compressed pixels."""
    if not data.startswith(SIGNATURE):
        return int(rng.integers(len(data)))
    return int(rng.choice(places(data)[rng.integers(2)]))


def flip(count: int) -> Damage:
    """So many bits somewhere; two and more, in half of the cases, near to each other."""

    def damage(rng: np.random.Generator, data: bytearray) -> str:
        sound, bits = bytes(data), len(data) * 8
        near = somewhere(rng, sound) * 8 + int(rng.integers(8))
        places = {near}
        while len(places) < count:
            far = somewhere(rng, sound) * 8 + int(rng.integers(8))
            places.add(far if rng.integers(2) else (near + int(rng.integers(64))) % bits)
        for place in places:
            data[place // 8] ^= 1 << place % 8
        return f"bits {sorted(map(int, places))}"

    return damage


def swap(rng: np.random.Generator, data: bytearray) -> str:
    """Two different bytes, next to each other or anywhere."""
    while True:
        a, b = (somewhere(rng, bytes(data)) for _ in range(2))
        b = (a + 1) % len(data) if rng.integers(2) else b
        if data[a] != data[b]:
            data[a], data[b] = data[b], data[a]
            return f"bytes {a} and {b} swapped"


def cases(rng: np.random.Generator, count: int, damage: Damage) -> Iterator[Damaged]:
    kinds = list(sound().items())
    for number in range(count):
        name, data = kinds[number % len(kinds)]
        made = bytearray(data)
        how = damage(rng, made)
        yield Damaged(data, bytes(made), f"{name}, {how}")


@pytest.mark.parametrize(
    ("name", "damage", "commit", "soak"),
    [
        ("single bits", flip(1), 3_000, 10_000),
        ("two bits", flip(2), 500, 5_000),
        ("three bits", flip(3), 500, 5_000),
        ("bytes swapped", swap, 500, 5_000),
    ],
)
def test_layouts(campaigns: Campaigns, name: str, damage: Damage, commit: int, soak: int) -> None:
    with campaigns.tried("P2", f"PNG layouts, {name}") as tally:
        for case in cases(campaigns.rng(6), campaigns.count(commit, soak), damage):
            tally.case(same_or_refused(case))


def test_a_decoder_without_checksums_is_noticed(campaigns: Campaigns) -> None:
    with campaigns.control("P2", "a decoder without checksums") as tally:
        for case in cases(campaigns.rng(6), 2_000, flip(1)):
            tally.case(same_or_refused(case, decode_without_checksums))
    assert all("decodes otherwise" in wrong for wrong in tally.failures)
    assert any(name in wrong for name in ("3/4", "3/8") for wrong in tally.failures)


def labels_video(folder: Path, name: str, codec: str) -> bytes:
    """Six frames of labels, each by itself."""
    import av

    with av.open(str(folder / name), "w") as container:
        track = container.add_stream(codec, rate=25)
        track.height, track.width, track.pix_fmt = 24, 40, "gray"
        track.codec_context.gop_size = 1
        for number in range(6):
            frame = np.roll(ids((24, 40)), number, 1)
            container.mux(track.encode(av.VideoFrame.from_ndarray(frame, format="gray")))
        container.mux(track.encode(None))
    return (folder / name).read_bytes()


def video_cases(rng: np.random.Generator, folder: Path, count: int) -> Iterator[Damaged]:
    kinds = [("a.mkv", "ffv1"), ("b.avi", "ffv1"), ("c.mov", "png")]
    videos = [(name, labels_video(folder, name, codec)) for name, codec in kinds]
    for number in range(count):
        name, data = videos[number % len(videos)]
        made = bytearray(data)
        how = flip(1)(rng, made)
        yield Damaged(data, bytes(made), f"{name}, {how}")


def test_videos(campaigns: Campaigns, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    made = video_cases(campaigns.rng(7), tmp_path, campaigns.count(commit=150, soak=5_000))
    with campaigns.tried("P2", "videos of layouts, single bits") as tally:
        for _, wrong in verdicts(partial(video_same_or_refused, tmp_path), made, processes=1):
            tally.case(wrong)
        noted = [became for became, _, _ in outcomes(tmp_path)]
        for became in ("fewer frames", "another size"):
            tally.figures[became] = f"{noted.count(became)}"


def test_a_video_that_ffmpeg_mends_is_noticed(campaigns: Campaigns, tmp_path: Path) -> None:
    pytest.importorskip("av", reason="the extra [video] is not installed")
    with campaigns.control("P2", "FFmpeg's own decoding of videos") as tally:
        subject = partial(video_same_or_refused, tmp_path, read=video_by_ffmpeg)
        made = video_cases(campaigns.rng(7), tmp_path, 60)
        for _, wrong in verdicts(subject, made, processes=1):
            tally.case(wrong)
    assert any("decodes otherwise" in wrong for wrong in tally.failures)
