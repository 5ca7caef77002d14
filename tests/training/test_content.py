"""The content loss against its formula as loops, and its gradient."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.errors import Mismatch  # noqa: E402
from crn_fast.training.losses.content import ContentLoss  # noqa: E402
from loss_scene import LAMBDAS, Tiny, direct, scene, weighted  # noqa: E402
from tolerance import assert_close  # noqa: E402


def test_is_the_weighted_sum_of_mean_differences() -> None:
    pictures, photos, labels = scene(1)
    value, terms = ContentLoss(Tiny(), LAMBDAS)(pictures, photos, labels)
    found = direct(Tiny(), pictures, photos)
    expected = [(a + b) / 2 for a, b in zip(found[0][0], found[1][0], strict=True)]
    assert terms.tolist() == pytest.approx(expected, rel=1e-12)
    assert value.item() == pytest.approx(weighted(expected), rel=1e-12)


def test_gradient() -> None:
    pictures, photos, labels = scene(1, (3, 5))
    loss = ContentLoss(Tiny(), LAMBDAS)
    assert torch.autograd.gradcheck(lambda x: loss(x, photos, labels)[0], pictures, fast_mode=True)


def test_gradient_reaches_the_picture_and_not_the_photo() -> None:
    pictures, photos, labels = scene(1)
    photos.requires_grad_()
    ContentLoss(Tiny(), (1.0, 0.0, 0.0))(pictures, photos, labels)[0].backward()
    assert_close(pictures.grad[:, 0], (pictures[:, 0] - photos).sign() / photos.numel(), 1e-12)
    assert photos.grad is None


def test_several_pictures_are_refused() -> None:
    with pytest.raises(Mismatch, match="ContentLoss takes one picture a layout, found 3"):
        ContentLoss(Tiny())(*scene(3))
