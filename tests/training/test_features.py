"""Feature networks against the layer lists they come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from torch import nn  # noqa: E402

from crn_fast.errors import BadInput  # noqa: E402
from crn_fast.training import features  # noqa: E402
from crn_fast.training.objective import SMALLEST  # noqa: E402
from scene import VGG_NAMES, vgg_state  # noqa: E402
from tolerance import assert_close  # noqa: E402


def photos() -> torch.Tensor:
    return torch.rand(2, 3, 48, 64, generator=torch.Generator().manual_seed(2)) * 255


def layer_list(state: dict[str, torch.Tensor], pool: type[nn.Module]) -> nn.Sequential:
    """VGG-19 up to conv5_2 as a flat list, in torchvision's order."""
    layers: list[nn.Module] = []
    while len(layers) <= VGG_NAMES[-1] + 1:
        index = len(layers)
        if index in VGG_NAMES:
            weight = state[f"features.{index}.weight"]
            conv = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1)
            conv.weight.data, conv.bias.data = weight, state[f"features.{index}.bias"]
            layers += [conv, nn.ReLU()]
        else:
            layers.append(pool(2, 2))
    return nn.Sequential(*layers).double()


def after(network: nn.Sequential, x: torch.Tensor) -> list[torch.Tensor]:
    """The features after the ReLU of conv{1..5}_2."""
    wanted, found = (3, 8, 13, 22, 31), []
    for index, layer in enumerate(network):
        x = layer(x)
        if index in wanted:
            found.append(x)
    return found


def test_vgg19_with_torchvision_s_weights(tmp_path: Path) -> None:
    state = vgg_state()
    torch.save(state, tmp_path / "vgg19.pth")
    found = features.load("vgg19", tmp_path / "vgg19.pth")(photos())
    mean = torch.tensor([0.485, 0.456, 0.406], dtype=torch.float64).view(1, 3, 1, 1)
    deviation = torch.tensor([0.229, 0.224, 0.225], dtype=torch.float64).view(1, 3, 1, 1)
    x = (photos().double() / 255 - mean) / deviation
    with torch.no_grad():
        expected = [x, *after(layer_list(state, nn.MaxPool2d), x)]
    assert len(found) == 6
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-5)


def test_vgg19_with_matconvnet_s_weights(tmp_path: Path) -> None:
    scipy_io = pytest.importorskip("scipy.io", reason=".mat files need scipy")
    state = vgg_state()
    entries = []
    for index in VGG_NAMES:
        hwio = state[f"features.{index}.weight"].permute(2, 3, 1, 0).numpy()
        bias = state[f"features.{index}.bias"].numpy()[None]
        weights = np.empty((1, 2), object)
        weights[0, 0], weights[0, 1] = hwio, bias
        layer = np.empty((1, 1), [("type", object), ("weights", object)])
        layer[0, 0] = ("conv", weights)
        entries += [layer, np.array([[("relu",)]], [("type", object)])]
    layers = np.empty((1, len(entries)), object)
    for i, entry in enumerate(entries):
        layers[0, i] = entry
    scipy_io.savemat(tmp_path / "vgg.mat", {"layers": layers})
    found = features.load("vgg19", tmp_path / "vgg.mat")(photos())
    x = photos().double() - torch.tensor([123.68, 116.779, 103.939]).view(1, 3, 1, 1).double()
    with torch.no_grad():
        expected = [x, *after(layer_list(state, nn.AvgPool2d), x)]
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-5)


def distilled_state() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    state: dict[str, torch.Tensor] = {}

    def add(name: str, out: int, inputs: int, side: int) -> None:
        state[f"{name}.weight"] = torch.randn(out, inputs, side, side, generator=generator) / 5
        state[f"{name}.bias"] = torch.randn(out, generator=generator) / 5

    add("conv0", 3, 3, 1)
    before = 3
    for block, count in enumerate((2, 2, 4, 4, 1), start=1):
        for index in range(1, count + 1):
            add(f"conv{block}{index}", 4 + block, before, 3)
            before = 4 + block
        add(f"conv{block}1_aux", 9, before, 1)
    return state


def test_distilled_follows_its_recipe(tmp_path: Path) -> None:
    state = distilled_state()
    torch.save({name: tensor.half() for name, tensor in state.items()}, tmp_path / "d.pt")
    found = features.load("distilled", tmp_path / "d.pt")(photos())
    exact = {name: tensor.half().double() for name, tensor in state.items()}

    def conv(x: torch.Tensor, name: str) -> torch.Tensor:
        return nn.functional.conv2d(x, exact[f"{name}.weight"], exact[f"{name}.bias"])

    x = conv(photos().double() / 255, "conv0")
    expected = [x]
    for block, count in enumerate((2, 2, 4, 4, 1), start=1):
        for index in range(1, count + 1):
            x = conv(
                nn.functional.pad(x, (1, 1, 1, 1), mode="reflect"), f"conv{block}{index}"
            ).relu()
            if index == 1:
                expected.append(conv(x, f"conv{block}1_aux").relu())
        x = nn.functional.max_pool2d(x, 2)
    for a, b in zip(found, expected, strict=True):
        assert_close(a, b, 1e-5)


def test_is_frozen(tmp_path: Path) -> None:
    torch.save(vgg_state(), tmp_path / "vgg19.pth")
    extractor = features.load("vgg19", tmp_path / "vgg19.pth")
    assert not any(parameter.requires_grad for parameter in extractor.parameters())


@pytest.mark.parametrize("kind", ["torchvision", "matconvnet", "distilled"])
def test_the_smallest_photo_is_the_smallest_that_it_takes(kind: str) -> None:
    network: features.Extractor
    if kind == "distilled":
        network = features.Distilled(distilled_state())
    else:
        network = features.VGG19(features._pth(vgg_state()), torchvision=kind == "torchvision")
    side = network.smallest
    assert side <= SMALLEST  # to which a recipe's scales may reduce a photo
    assert all(f.isfinite().all() for f in network(torch.zeros(1, 3, side, side + 1)))
    with pytest.raises(RuntimeError):
        network(torch.zeros(1, 3, side - 1, side))


@pytest.mark.parametrize("kind", ["vgg19", "distilled"])
def test_what_is_no_feature_network_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"loss\.weights=PATH"):
        features.load(kind, "")
    with pytest.raises(BadInput, match="no such file"):
        features.load(kind, tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    torch.save({"a": torch.zeros(3)}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt"):
        with pytest.raises(
            BadInput, match=f"{name}: not the weights of the feature network {kind}"
        ):
            features.load(kind, tmp_path / name)
