"""The diversity loss against its formula as loops, against a plain minimum, and its memory."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.training.losses.content import ContentLoss  # noqa: E402
from crn_fast.training.losses.diversity import DiversityLoss  # noqa: E402
from loss_scene import LAMBDAS, Tiny, direct, scene, training_peak, vgg19, weighted  # noqa: E402
from tolerance import assert_close  # noqa: E402


def test_is_the_minimum_over_the_pictures() -> None:
    pictures, photos, labels = scene()
    value, terms = DiversityLoss(Tiny(), LAMBDAS)(pictures, photos, labels)
    chosen = [min(layout, key=weighted) for layout in direct(Tiny(), pictures, photos)]
    expected = [(a + b) / 2 for a, b in zip(*chosen, strict=True)]
    assert terms.tolist() == pytest.approx(expected, rel=1e-12)
    assert value.item() == pytest.approx(weighted(expected), rel=1e-12)


def test_the_weights_decide_which_picture_is_the_best() -> None:
    pictures, photos, labels = scene()
    terms = direct(Tiny(), pictures, photos)
    bests = set()
    for layer in range(3):
        lambdas = [float(layer == other) for other in range(3)]
        value, _ = DiversityLoss(Tiny(), lambdas)(pictures, photos, labels)
        best = [min(range(3), key=lambda k, n=n: terms[n][k][layer]) for n in range(2)]
        expected = sum(terms[n][best[n]][layer] for n in range(2)) / 2
        assert value.item() == pytest.approx(expected, rel=1e-12)
        bests.add(tuple(best))
    assert len(bests) > 1, "the scene judges nothing if the same pictures are always best"


def test_gradient_is_that_of_a_plain_minimum() -> None:
    pictures, photos, labels = scene()
    loss = DiversityLoss(Tiny(), LAMBDAS)
    value, _ = loss(pictures, photos, labels)
    (found,) = torch.autograd.grad(value, pictures)
    content = ContentLoss(Tiny(), LAMBDAS)
    naive = torch.stack(
        [
            torch.stack([content(p[None, None], photo[None], labels[:1])[0] for p in layout])
            for layout, photo in zip(pictures, photos, strict=True)
        ]
    ).amin(1)
    (expected,) = torch.autograd.grad(naive.mean(), pictures)
    assert value.item() == pytest.approx(naive.mean().item(), rel=1e-12)
    assert_close(found, expected, 1e-9)
    assert (found.abs().amax((2, 3, 4)) > 0).sum(1).tolist() == [1, 1]


def test_gradient() -> None:
    pictures, photos, labels = scene(3, (3, 5))
    loss = DiversityLoss(Tiny(), LAMBDAS)
    assert torch.autograd.gradcheck(lambda x: loss(x, photos, labels)[0], pictures, fast_mode=True)


def test_of_equal_pictures_the_first_gets_the_gradient() -> None:
    pictures, photos, labels = scene()
    same = pictures.detach()[:, :1].repeat(1, 3, 1, 1, 1).requires_grad_()
    DiversityLoss(Tiny())(same, photos, labels)[0].backward()
    assert same.grad[:, 0].abs().sum() > 0
    assert not same.grad[:, 1:].any()


def test_one_picture_gives_the_content_loss() -> None:
    pictures, photos, labels = scene(1)
    found, expected = (
        kind(Tiny(), LAMBDAS)(pictures, photos, labels)[0] for kind in (DiversityLoss, ContentLoss)
    )
    assert torch.equal(found, expected)


def test_memory_does_not_grow_by_a_graph_a_picture() -> None:
    one, nine = (training_peak(DiversityLoss(vgg19()), count) for count in (1, 9))
    assert one <= nine < 352 << 20
