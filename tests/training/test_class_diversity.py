"""The class-diversity loss against its formula as loops, a plain form of it, and its memory."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.errors import BadInput  # noqa: E402
from crn_fast.training.losses.class_diversity import ClassDiversityLoss  # noqa: E402
from crn_fast.training.losses.content import ContentLoss  # noqa: E402
from loss_scene import (  # noqa: E402
    CLASSES,
    LAMBDAS,
    Tiny,
    direct_by_class,
    naive_by_class,
    scene,
    training_peak,
    vgg19,
    weighted,
)
from tolerance import assert_close  # noqa: E402

SHARES = (0.0, 0.001, 0.4)
"""Of the mean over pictures: the paper's, the authors' and one that shows."""


@pytest.mark.parametrize("share", SHARES)
def test_is_the_minimum_over_the_pictures_for_each_class(share: float) -> None:
    pictures, photos, labels = scene()
    loss = ClassDiversityLoss(Tiny(), LAMBDAS, classes=CLASSES, mean_share=share)
    value, terms = loss(pictures, photos, labels)
    by_class = direct_by_class(Tiny(), pictures, photos, labels)
    expected = [0.0, 0.0, 0.0]
    bests = set()
    for layout in by_class:
        for label in range(CLASSES):
            best = min(range(3), key=lambda k: weighted(layout[k][label]))
            bests.add(best)
            for layer in range(3):
                least = layout[best][label][layer]
                mean = sum(layout[k][label][layer] for k in range(3)) / 3
                expected[layer] += ((1 - share) * least + share * mean) / 2
    assert len(bests) > 1, "the scene judges nothing if one picture is always best"
    assert all(by_class[1][k][2] == [0.0, 0.0, 0.0] for k in range(3)), "class 2 is to be absent"
    assert terms.tolist() == pytest.approx(expected, rel=1e-12)
    assert value.item() == pytest.approx(weighted(expected), rel=1e-12)


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("size", [(5, 7), (9, 13)])
def test_is_the_plain_form_and_so_is_its_gradient(share: float, size: tuple[int, int]) -> None:
    pictures, photos, labels = scene(3, size)
    value, _ = ClassDiversityLoss(Tiny(), LAMBDAS, classes=CLASSES, mean_share=share)(
        pictures, photos, labels
    )
    (found,) = torch.autograd.grad(value, pictures)
    lambdas = torch.tensor(LAMBDAS, dtype=torch.float64)
    by_class = naive_by_class(Tiny(), pictures, photos, labels) @ lambdas
    naive = (1 - share) * by_class.min(1).values.sum(1) + share * by_class.mean(1).sum(1)
    (expected,) = torch.autograd.grad(naive.mean(), pictures)
    assert value.item() == pytest.approx(naive.mean().item(), rel=1e-12)
    assert_close(found, expected, 1e-9)


@pytest.mark.parametrize("share", SHARES)
def test_gradient(share: float) -> None:
    pictures, photos, labels = scene(3, (3, 5))
    loss = ClassDiversityLoss(Tiny(), LAMBDAS, classes=CLASSES, mean_share=share)
    assert torch.autograd.gradcheck(lambda x: loss(x, photos, labels)[0], pictures, fast_mode=True)


def test_of_equal_pictures_the_first_gets_the_gradient_of_the_minimum() -> None:
    pictures, photos, labels = scene()
    same = pictures.detach()[:, :1].repeat(1, 3, 1, 1, 1).requires_grad_()
    loss = ClassDiversityLoss(Tiny(), classes=CLASSES, mean_share=0)
    loss(same, photos, labels)[0].backward()
    assert same.grad[:, 0].abs().sum() > 0
    assert not same.grad[:, 1:].any()


def test_one_picture_gives_the_content_loss_where_each_pixel_has_a_class() -> None:
    pictures, photos, labels = scene(1)
    labels[labels == 9] = 0
    found, _ = ClassDiversityLoss(Tiny(), LAMBDAS, classes=CLASSES)(pictures, photos, labels)
    expected, _ = ContentLoss(Tiny(), LAMBDAS)(pictures, photos, labels)
    assert found.item() == pytest.approx(expected.item(), rel=1e-12)


def test_pixels_without_a_class_add_nothing() -> None:
    pictures, photos, labels = scene()
    loss = ClassDiversityLoss(Tiny(), LAMBDAS, classes=CLASSES)
    value, terms = loss(pictures, photos, torch.full_like(labels, CLASSES))
    (gradient,) = torch.autograd.grad(value, pictures)
    assert not terms.any() and not gradient.any()


def test_a_share_that_is_none_is_refused() -> None:
    with pytest.raises(BadInput, match=r"share of the mean over pictures is 1.5; expected 0..1"):
        ClassDiversityLoss(Tiny(), classes=CLASSES, mean_share=1.5)


def test_memory_does_not_grow_by_a_graph_a_picture() -> None:
    loss = ClassDiversityLoss(vgg19(), classes=20)
    one, nine = (training_peak(loss, count) for count in (1, 9))
    assert one <= nine < 440 << 20
    assert nine - one < 8 * (2 << 20), "more than the gradients of the eight pictures"
