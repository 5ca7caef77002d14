"""Our PNGs are read back by another decoder, pixel by pixel, whichever deflate there is."""

from __future__ import annotations

import sys
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from crn_fast import png_writer


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (9, 1), (33, 50)])
@pytest.mark.parametrize("isal", [True, False])
def test_round_trip(size: tuple[int, int], isal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if isal:
        pytest.importorskip("isal", reason="the extra [png] is not installed")
    else:
        monkeypatch.setitem(sys.modules, "isal", None)
    rgb = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    for picture in (rgb, rgb[:, ::-1], np.zeros_like(rgb)):
        with Image.open(BytesIO(png_writer.encode(picture))) as read:
            read.load()
            assert (read.mode, read.info) == ("RGB", {})
            np.testing.assert_array_equal(np.asarray(read), picture)
