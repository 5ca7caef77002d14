"""What every loss shares: the weights, their calibration, and what they cost in half precision."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.errors import BadInput  # noqa: E402
from crn_fast.training.features import VGG19, _pth  # noqa: E402
from crn_fast.training.losses.class_diversity import ClassDiversityLoss  # noqa: E402
from crn_fast.training.losses.content import ContentLoss  # noqa: E402
from crn_fast.training.losses.diversity import DiversityLoss  # noqa: E402
from crn_fast.training.losses.image import ImageLoss, Pixels  # noqa: E402
from crn_fast.training.losses.loss import Loss, distance, layer_terms  # noqa: E402
from loss_scene import CLASSES, LAMBDAS, Tiny, scene, training_peak, vgg19  # noqa: E402
from scene import vgg_state  # noqa: E402
from tolerance import assert_close  # noqa: E402

MAKERS = {
    "content": lambda lambdas=(): ContentLoss(Tiny(), lambdas),
    "diversity": lambda lambdas=(): DiversityLoss(Tiny(), lambdas),
    "class_diversity": lambda lambdas=(): ClassDiversityLoss(Tiny(), lambdas, classes=CLASSES),
    "image": lambda lambdas=(): ImageLoss(lambdas),
}


@pytest.mark.parametrize("name", MAKERS)
def test_calibration_makes_the_terms_contribute_alike(name: str) -> None:
    loss: Loss = MAKERS[name]()
    count = 1 if name in ("content", "image") else 3
    seen = []
    for gain in (1.0, 0.6):
        pictures, photos, labels = scene(count)
        value, terms = loss(pictures * gain, photos, labels)
        assert not terms.requires_grad and value.requires_grad
        assert value.item() == pytest.approx(terms.sum().item(), rel=1e-12)
        loss.observe(terms)
        seen.append(terms)
    assert loss.names == (("input",) if name == "image" else ("input", "fine", "coarse"))
    loss.calibrate()
    mean = torch.stack(seen).mean(0)
    assert (loss.lambdas * mean).tolist() == pytest.approx([1.0] * len(loss.names), rel=1e-12)

    copy: Loss = MAKERS[name]()
    copy.load_state_dict(loss.state_dict())
    for side in (loss, copy):
        side.observe(seen[0])
        side.calibrate()
    assert torch.equal(copy.lambdas, loss.lambdas)


def test_photos_too_small_to_compare_are_refused() -> None:
    loss = DiversityLoss(VGG19(_pth(vgg_state()), torchvision=True))
    small, enough = torch.zeros(1, 3, 15, 40), torch.zeros(1, 3, 16, 40)
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    with pytest.raises(BadInput, match="compared at 15x40, but DiversityLoss needs 16 pixels"):
        loss(small[:, None], small, labels)
    loss(enough[:, None], enough, labels)


def test_a_term_that_was_never_seen_above_zero_keeps_its_weight() -> None:
    loss = ContentLoss(Tiny(), LAMBDAS)
    loss.observe(torch.tensor([0.0, 4.0, 0.5]))
    loss.calibrate()
    assert loss.lambdas.tolist() == [LAMBDAS[0], 0.25, 2.0]


@pytest.mark.parametrize("name", MAKERS)
def test_wrong_weights_are_refused(name: str) -> None:
    expected = "1, for input" if name == "image" else "3, for input, fine, coarse"
    with pytest.raises(BadInput, match=rf"loss\.lambdas has 2 values; expected {expected}"):
        MAKERS[name]((1.0, 1.0))
    weights = [1.0] * int(expected[0])
    for bad in (-1.0, float("nan"), float("inf")):
        with pytest.raises(BadInput, match="expected finite values, none below 0"):
            MAKERS[name]((*weights[1:], bad))


@pytest.mark.parametrize("name", MAKERS)
def test_groups_of_layouts_average_to_the_whole(name: str) -> None:
    """A step may call a loss once for each size of photo and add the results up."""
    loss: Loss = MAKERS[name]()
    pictures, photos, labels = scene(1 if name in ("content", "image") else 3)
    whole, terms = loss(pictures, photos, labels)
    (expected,) = torch.autograd.grad(whole, pictures)
    parts = [loss(pictures[i : i + 1], photos[i : i + 1], labels[i : i + 1]) for i in range(2)]
    value = (parts[0][0] + parts[1][0]) / 2
    (found,) = torch.autograd.grad(value, pictures)
    assert value.item() == pytest.approx(whole.item(), rel=1e-12)
    assert ((parts[0][1] + parts[1][1]) / 2).tolist() == pytest.approx(terms.tolist(), rel=1e-12)
    assert_close(found, expected, 1e-9)


class Half(Pixels):
    """Features in bfloat16, as autocast leaves them."""

    layers = ("half",)

    def forward(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        return [rgb, rgb.to(torch.bfloat16)]


def test_differences_and_means_are_taken_in_float32() -> None:
    pictures, photos, labels = (x.detach() for x in scene(1))
    pictures, photos = (x.float() * 60 for x in (pictures, photos))
    rounded = [x.to(torch.bfloat16).double() for x in (pictures[:, 0], photos)]
    expected = float((rounded[0] - rounded[1]).abs().mean())
    for loss in (ContentLoss(Half()), ClassDiversityLoss(Half(), classes=10, mean_share=0)):
        with torch.autocast("cpu", torch.bfloat16):
            _, terms = loss(pictures, photos, labels)
        assert terms.dtype == torch.float32
        assert terms[1].item() == pytest.approx(expected, rel=1e-5)
    assert distance(torch.ones(1).double(), torch.ones(1)).dtype == torch.float64


@pytest.mark.parametrize("name", MAKERS)
def test_gradient_under_autocast_is_that_of_float32(name: str) -> None:
    pictures, photos, labels = scene(1 if name in ("content", "image") else 3)
    extractor = Tiny().float()
    extractor.fine, extractor.coarse = extractor.fine.float(), extractor.coarse.float()
    loss: Loss = MAKERS[name]()
    loss.extractor = Pixels() if name == "image" else extractor
    pictures, photos = pictures.detach().float().requires_grad_(), photos.float()
    (exact,) = torch.autograd.grad(loss(pictures, photos, labels)[0], pictures)
    with torch.autocast("cpu", torch.bfloat16):
        value, _ = loss(pictures, photos, labels)
    (found,) = torch.autograd.grad(value, pictures)
    assert value.dtype == torch.float32 and torch.isfinite(found).all()
    cosine = torch.nn.functional.cosine_similarity(found.flatten(), exact.flatten(), dim=0)
    assert cosine > 0.95


class EveryGraph(Loss):
    """The mean over pictures, with the graphs of all of them."""

    def terms(
        self, pictures: torch.Tensor, photos: torch.Tensor, labels: torch.Tensor
    ) -> torch.Tensor:
        target = self.target(photos)
        found = [layer_terms(self.extractor(p), target).mean(0) for p in pictures.unbind(1)]
        return torch.stack(found).mean(0)


def test_the_measure_of_memory_sees_every_graph() -> None:
    one, nine = (training_peak(EveryGraph(vgg19()), count) for count in (1, 9))
    assert 351 << 20 <= one < 352 << 20
    assert 2.3 < nine / (1 << 30) < 2.4
