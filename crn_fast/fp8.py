"""fp8 (e4m3) for every backend that has it: the stages where it pays, and the scales it needs.

Scales of features follow from the layer norm before them: normed values have variance 1 over the
whole map, so nothing is measured. Casting and packing are the backends' own.
"""

from __future__ import annotations

import os
from math import floor, log2

import numpy as np

from crn_fast.errors import UsageError
from crn_fast.spec import CascadeSpec, StageSpec

VARIABLE = "CRN_FAST_FP8_STAGES"
"""Environment variable: the stages that `fp8` computes in fp8, by index, as in '4,5,6'."""
CHANNELS = 128
PIXELS = 64 * 128
"""Without the variable: stages with that many channels, and of that size, nearly all the work."""
LARGEST = 448.0
"""Largest value of e4m3."""
HEADROOM = 16.0
"""Standard deviations of normed features that fp8 can hold. Its precision is the same over 14
powers of two, so room costs nothing but the smallest values."""


def stages(spec: CascadeSpec) -> set[int]:
    """The stages that `fp8` computes in fp8.

    Raises:
        UsageError: $CRN_FAST_FP8_STAGES names a stage that is not there.
    """

    def pays(stage: StageSpec) -> bool:
        channels = min(stage.features, stage.channels)
        return channels >= CHANNELS and stage.height * stage.width >= PIXELS

    asked = os.environ.get(VARIABLE)
    if asked is None:
        return {stage.index for stage in spec.stages if pays(stage)}
    known = {str(stage.index) for stage in spec.stages}
    named = {part.strip() for part in asked.split(",") if part.strip()}
    if wrong := sorted(named - known):
        raise UsageError(
            f"{VARIABLE} names stage {wrong[0]!r}; expected indices from 0 to "
            f"{len(spec.stages) - 1}, as in '4,5,6'"
        )
    return set(map(int, named))


def quantum(gamma: np.ndarray, beta: np.ndarray) -> float:
    """What features with this layer norm are multiplied by before they become fp8: a power of two.

    Args:
        gamma: the norm's scale, [C] of any float type.
        beta: its shift.
    """
    largest = float(np.abs(gamma).max()) * HEADROOM + float(np.abs(beta).max())
    return float(2.0 ** floor(log2(LARGEST / max(largest, 1e-12))))
