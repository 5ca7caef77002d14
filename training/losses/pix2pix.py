r"""pix2pix's loss (Isola et al. 2017, section 3.1): a conditional GAN beside the image-space loss.

    L(G) = lambda_0 * mean |I - g| + lambda_1 * -log D(L, g)
    L(D) = (-log D(L, I) - log(1 - D(L, g))) / 2

for the photo I and the picture g of the layout L; D is the 70x70 patch discriminator, its
logarithms means over patches. The authors have lambda_1 = 1 and, for colours in -1..1, lambda_0 =
100, which for colours in 0..255 is 100 / 127.5.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from crn_fast.training.losses.adversarial import (
    AdversarialLoss,
    Judge,
    PatchDiscriminator,
    realness,
)

PUBLISHED = (100 / 127.5, 1.0)
"""Weights of 'input' and 'adversary'."""


class Pix2PixLoss(AdversarialLoss):
    """The loss of a picture that its layout and its photo are known of."""

    def __init__(self, lambdas: Sequence[float] = (), *, classes: int, width: int = 64) -> None:
        """Empty `lambdas` are the published ones. `width`: of the discriminator's first layer."""
        discriminator = PatchDiscriminator(classes + 3, width=width)
        super().__init__(discriminator, ("adversary",), lambdas or PUBLISHED, classes)

    def penalties(self, judge: Judge, pictures: Tensor, layout: Tensor) -> Tensor:
        """As `AdversarialLoss.penalties`: [1]."""
        return realness(judge(torch.cat([layout, pictures], 1)), True)[None]

    def judgement(self, pictures: Tensor, photos: Tensor, layout: Tensor) -> Tensor:
        """As `AdversarialLoss.judgement`."""
        true = realness(self.discriminator(torch.cat([layout, photos], 1)), True)
        false = realness(self.discriminator(torch.cat([layout, pictures], 1)), False)
        return (true + false) / 2
