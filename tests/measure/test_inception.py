"""The Inception front against a second writing of it, in float64 and block by block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the FID network needs torch")

import torch.nn.functional as F  # noqa: E402

from crn_fast.errors import BadInput  # noqa: E402
from crn_fast.measure import inception  # noqa: E402
from inception_weights import make_weights  # noqa: E402

State = dict[str, torch.Tensor]


def conv(
    state: State, x: torch.Tensor, name: str, stride: int = 1, pad: str = "same"
) -> torch.Tensor:
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    return F.conv2d(x, weight, bias, stride, pad).clamp_min(0)


def average(x: torch.Tensor) -> torch.Tensor:
    """3x3 means of what lies inside the map."""
    ones = torch.ones(x.shape[1], 1, 3, 3, dtype=x.dtype)
    sums = F.conv2d(x, ones, padding=1, groups=x.shape[1])
    return sums / F.conv2d(torch.ones_like(x), ones, padding=1, groups=x.shape[1])


def oracle(state: State, rgb: np.ndarray) -> np.ndarray:
    """`rgb` of 299x299, so that nothing is resized."""
    w = {name: tensor.double() for name, tensor in state.items()}
    x = torch.tensor(rgb).permute(0, 3, 1, 2).double() / 127.5 - 1
    x = conv(w, conv(w, x, "conv", 2, "valid"), "conv_1", 1, "valid")
    assert x.shape[-1] == 147
    x = F.max_pool2d(conv(w, x, "conv_2"), 3, stride=2)
    x = F.max_pool2d(conv(w, conv(w, x, "conv_3"), "conv_4", 1, "valid"), 3, stride=2)
    assert x.shape[-1] == 35
    for b in ("mixed", "mixed_1", "mixed_2"):
        five = conv(w, conv(w, x, f"{b}_tower_conv"), f"{b}_tower_conv_1")
        three = conv(w, conv(w, x, f"{b}_tower_1_conv"), f"{b}_tower_1_conv_1")
        three = conv(w, three, f"{b}_tower_1_conv_2")
        pooled = conv(w, average(x), f"{b}_tower_2_conv")
        x = torch.cat((conv(w, x, f"{b}_conv"), five, three, pooled), 1)
    tower = conv(w, conv(w, x, "mixed_3_tower_conv"), "mixed_3_tower_conv_1")
    tower = conv(w, tower, "mixed_3_tower_conv_2", 2, "valid")
    halved = conv(w, x, "mixed_3_conv", 2, "valid")
    x = torch.cat((halved, tower, F.max_pool2d(x, 3, stride=2)), 1)
    assert x.shape[-1] == 17
    for b in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
        short, long = x, x
        for i in range(3):
            short = conv(w, short, f"{b}_tower_conv" + ("", "_1", "_2")[i])
        for i in range(5):
            long = conv(w, long, f"{b}_tower_1_conv" + ("", "_1", "_2", "_3", "_4")[i])
        pooled = conv(w, average(x), f"{b}_tower_2_conv")
        x = torch.cat((conv(w, x, f"{b}_conv"), short, long, pooled), 1)
    return x.mean((2, 3)).numpy()


def test_features_are_the_networks() -> None:
    state = make_weights()
    rgb = np.random.default_rng(3).integers(0, 256, (2, 299, 299, 3), dtype=np.uint8)
    network = inception.Inception(state)
    expected = oracle(state, rgb)
    assert expected.std() > 0.01 and (expected > 0).mean() > 0.5
    assert network.dimension == expected.shape[1]
    np.testing.assert_allclose(network(rgb), expected, rtol=1e-3, atol=1e-5)


def test_pictures_of_any_size_are_brought_to_299() -> None:
    network = inception.Inception(make_weights())
    grey = np.full((1, 299, 299, 3), 90, np.uint8)
    small = np.full((1, 20, 47, 3), 90, np.uint8)
    np.testing.assert_allclose(network(small), network(grey), rtol=1e-4, atol=1e-6)


def test_what_is_not_its_weights_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"none\.pt: no such file"):
        inception.load(tmp_path / "none.pt")
    (tmp_path / "noise.pt").write_bytes(b"noise")
    with pytest.raises(BadInput, match=r"noise\.pt: not the weights of Inception-v3"):
        inception.load(tmp_path / "noise.pt")
    state = make_weights()
    del state["mixed_7_tower_conv.bias"]
    torch.save(state, tmp_path / "part.pt")
    with pytest.raises(BadInput, match=r"part\.pt.*mixed_7_tower_conv\.bias"):
        inception.load(tmp_path / "part.pt")
