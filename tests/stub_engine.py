"""An engine for tests of the server: it takes a fixed time, and its pictures tell their layout."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial

import numpy as np

from crn_fast.errors import BadInput
from crn_fast.palette import label_set
from crn_fast.serve.worker import Engines, Facts
from live import tell_when_asked

SIZE = (16, 24)
IMAGES = 3


def picture(labels: np.ndarray, k: int = 0) -> np.ndarray:
    """What the stub makes of layouts [..., H, W]: uint8 [..., H, W, 3], another for each."""
    turned = labels[..., ::-1, ::-1]
    return np.stack([labels * 20 + k, turned * 20, labels ^ turned], axis=-1).astype(np.uint8)


@dataclass(frozen=True)
class Stub:
    delay: float = 0.02
    """Seconds of a batch, whatever its size."""
    broken: bool = False
    """Whether it cannot be opened."""
    size: tuple[int, int] = SIZE

    def __call__(self) -> Engines:
        tell_when_asked()
        if self.broken:
            raise BadInput("stub.crn: is broken; expected a sound one")
        labels = label_set("camvid")
        facts = [
            Facts("stub.crn", "stub", "fp32", "stub", size, IMAGES, labels)
            for size in (self.size, (self.size[0] // 2, self.size[1] // 2))
        ]
        return [(fact, partial(_render, self)) for fact in facts]


def _render(stub: Stub, labels: np.ndarray) -> np.ndarray:
    time.sleep(stub.delay)
    return np.stack([picture(labels, k) for k in range(IMAGES)], axis=1)
