"""The network as torch's users write it, in the forms that only a GPU's peers take."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="it is written in torch")

import tiny  # noqa: E402
from crn_fast.bench.network import Network, fused_norm, group_norm, manual_norm  # noqa: E402


@pytest.mark.parametrize(
    ("norm", "dtype", "limit"),
    [
        (group_norm, "float32", 1e-3),
        (manual_norm, "float32", 1e-3),
        (fused_norm, "float32", 1e-3),
        (fused_norm, "bfloat16", 40.0),
    ],
)
def test_padded_and_channels_last_it_is_the_same(norm: object, dtype: str, limit: float) -> None:
    made, ids = tiny.calm_checkpoint(tiny.SPEC), tiny.labels_array(2)
    half = getattr(torch, dtype)
    network = Network(made.spec, made.tensors, norm, half, multiple=8, channels_last=True)
    with torch.inference_mode():
        pictures, rgb = network(torch.from_numpy(ids))
    expected = tiny.oracle(made, ids)
    assert np.abs(rgb.float().numpy() - expected).max() < limit < expected.std()
    assert pictures.dtype == torch.uint8
