"""The image-space loss against its formula as loops, and its gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.errors import Mismatch  # noqa: E402
from crn_fast.training.losses.image import ImageLoss  # noqa: E402
from loss_scene import scene  # noqa: E402
from tolerance import assert_close  # noqa: E402


def test_is_the_weighted_mean_difference_of_colours() -> None:
    pictures, photos, labels = scene(1)
    value, terms = ImageLoss((0.25,))(pictures, photos, labels)
    differences = [
        abs(x - y)
        for x, y in zip(pictures.flatten().tolist(), photos.flatten().tolist(), strict=True)
    ]
    expected = sum(differences) / len(differences)
    assert terms.tolist() == pytest.approx([expected], rel=1e-12)
    assert value.item() == pytest.approx(expected / 4, rel=1e-12)


def test_gradient() -> None:
    pictures, photos, labels = scene(1)
    loss = ImageLoss((0.25,))
    assert torch.autograd.gradcheck(lambda x: loss(x, photos, labels)[0], pictures, fast_mode=True)
    loss(pictures, photos, labels)[0].backward()
    slope = (pictures.detach()[:, 0] - photos).sign() / (4 * photos.numel())
    assert_close(pictures.grad[:, 0], slope, 1e-12)


def test_several_pictures_are_refused() -> None:
    with pytest.raises(Mismatch, match="ImageLoss takes one picture a layout, found 2"):
        ImageLoss()(*scene(2))
