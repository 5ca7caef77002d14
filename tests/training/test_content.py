"""The content loss against its formula, its gradient, and the calibration of its weights."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from crn_fast.training.features import Extractor  # noqa: E402
from crn_fast.training.losses.content import ContentLoss  # noqa: E402


class Squares(Extractor):
    """Two layers that are easy to follow by hand: the square, and the square of each half."""

    layers = ("square", "mean")

    def forward(self, rgb: torch.Tensor) -> list[torch.Tensor]:
        return [rgb, rgb**2, rgb.mean((2, 3))]


def pair() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 3, 5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    return a, b


def test_terms_are_means_of_absolute_differences() -> None:
    a, b = pair()
    loss = ContentLoss(Squares(), (0.5, 2.0, 3.0))
    input_term = square_term = 0.0
    for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True):
        input_term += abs(x - y) / a.numel()
        square_term += abs(x * x - y * y) / a.numel()
    mean_term = sum(
        abs(float(a[n, c].mean() - b[n, c].mean())) / 6 for n in range(2) for c in range(3)
    )
    terms = loss.terms(a, b)
    assert terms.tolist() == pytest.approx([input_term, square_term, mean_term], rel=1e-6)
    expected = 0.5 * input_term + 2 * square_term + 3 * mean_term
    assert float(loss(terms)) == pytest.approx(expected, rel=1e-6)


def test_gradient_reaches_the_picture_and_not_the_photo() -> None:
    a, b = (x.requires_grad_() for x in pair())
    loss = ContentLoss(Squares(), (0.5, 2.0, 0.0))
    loss(loss.terms(a, b)).backward()
    slope = (0.5 * (a - b).sign() + 2 * (a**2 - b**2).sign() * 2 * a) / a.numel()
    torch.testing.assert_close(a.grad, slope.detach(), rtol=1e-5, atol=1e-9)
    assert b.grad is None


def test_calibration_makes_the_terms_alike() -> None:
    loss = ContentLoss(Squares())
    for scale in (1.0, 3.0):
        loss.observe(torch.tensor([2.0, 0.5, 8.0]) * scale)
    loss.calibrate()
    assert loss.lambdas.tolist() == pytest.approx([1 / 4, 1 / 1, 1 / 16])
    copy = ContentLoss(Squares())
    copy.load_state_dict(loss.state_dict())
    assert torch.equal(copy.lambdas, loss.lambdas)


def test_a_wrong_number_of_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="lambdas has 2 values; the extractor has 3"):
        ContentLoss(Squares(), (1.0, 1.0))
