r"""GAN and semantic segmentation (Chen & Koltun 2017, section 5): the paper's adversarial baseline.

    L(G) = lambda_0 * mean |I - g| + lambda_1 * -log D(g) + lambda_2 * CE(S(g), L)
    L(D, S) = (-log D(I) - log(1 - D(g))) / 2 + CE(S(I), L)

for the photo I and the picture g of the layout L; CE is the cross-entropy of the classes. The paper
has lambda_0 = 0: a picture shall pass for a photo, and show its layout. There S is a segmentation
network trained beforehand; here it is the discriminator itself, which learns to segment the photos
as it learns to tell them from pictures, so that nothing but the user's own data is needed.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from crn_fast.training.losses.adversarial import (
    AdversarialLoss,
    Judge,
    PatchDiscriminator,
    realness,
)

PUBLISHED = (0.0, 1.0, 1.0)
"""Weights of 'input', 'adversary' and 'segmentation'; the paper does not tell the last."""


class GanSemanticLoss(AdversarialLoss):
    """The loss of a picture whose layout alone is looked at, but for a first term of weight 0."""

    def __init__(self, lambdas: Sequence[float] = (), *, classes: int, width: int = 64) -> None:
        """Empty `lambdas` are those above. `width`: of the discriminator's first layer."""
        discriminator = PatchDiscriminator(3, 1 + classes, width)
        names = ("adversary", "segmentation")
        super().__init__(discriminator, names, lambdas or PUBLISHED, classes)

    def penalties(self, judge: Judge, pictures: Tensor, layout: Tensor) -> Tensor:
        """As `AdversarialLoss.penalties`: [2]."""
        logits = judge(pictures)
        return torch.stack([realness(logits[:, :1], True), _misread(logits[:, 1:], layout)])

    def judgement(self, pictures: Tensor, photos: Tensor, layout: Tensor) -> Tensor:
        """As `AdversarialLoss.judgement`."""
        logits = self.discriminator(photos)
        true = realness(logits[:, :1], True)
        false = realness(self.discriminator(pictures)[:, :1], False)
        return (true + false) / 2 + _misread(logits[:, 1:], layout)


def _misread(scores: Tensor, layout: Tensor) -> Tensor:
    """Cross-entropy of scores [N, classes, h, w] against the classes' shares of each patch."""
    size = (scores.shape[-2], scores.shape[-1])
    return F.cross_entropy(scores, F.adaptive_avg_pool2d(layout, size))
