"""What the adversarial losses share: a discriminator, which learns beside the network it judges.

A loss's terms are what the network is trained by; `learn` is what the discriminator is trained by.
Neither gives the other a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from crn_fast.kernels.reference import one_hot
from crn_fast.training.losses.content import ContentLoss
from crn_fast.training.losses.image import Pixels

SMALLEST = 24
"""Side in pixels below which the patch discriminator has nothing left to judge."""
DEVIATION = 0.02
"""Of the convolutions' random weights, as published."""

Judge = Callable[[Tensor], Tensor]


class PatchDiscriminator(nn.Sequential):
    """Judges every 70x70 patch of a picture: [N, inputs, h, w] -> [N, outputs, ~h/8, ~w/8] logits.

    4x4 convolutions, three of stride 2 and two of stride 1, with leaky ReLU; instance norm for the
    published batch norm, as in the U-Net.

    Source: Isola et al. 2017, section 6.1.2.
    """

    def __init__(self, inputs: int, outputs: int = 1, width: int = 64) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inputs, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for stride, before in ((2, width), (2, 2 * width), (1, 4 * width)):
            conv = nn.Conv2d(before, 2 * before, 4, stride, 1, bias=False)
            norm = nn.GroupNorm(2 * before, 2 * before)  # a group a channel: instance norm
            layers += [conv, norm, nn.LeakyReLU(0.2)]
        super().__init__(*layers, nn.Conv2d(8 * width, outputs, 4, 1, 1))
        for layer in self:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=DEVIATION)


class AdversarialLoss(ContentLoss):
    """The image-space distance, then what the discriminator says. For one picture a layout."""

    def __init__(
        self,
        discriminator: PatchDiscriminator,
        names: tuple[str, ...],
        lambdas: Sequence[float],
        classes: int,
    ) -> None:
        """`names`: of the terms after 'input'. `lambdas`: one for each term."""
        super().__init__(Pixels(), lambdas, names)
        self.discriminator, self.classes = discriminator, classes

    @property
    def smallest(self) -> int:
        """As `Loss.smallest`: what leaves the discriminator something to judge."""
        return SMALLEST

    def terms(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> Tensor:
        """As `Loss.terms`.

        Raises:
            Mismatch: more than one picture a layout.
        """
        distance = super().terms(pictures, photos, labels)
        frozen = {name: p.detach() for name, p in self.discriminator.named_parameters()}
        judge = partial(functional_call, self.discriminator, frozen)
        layout = self._layout(labels, photos)
        return torch.cat([distance, self.penalties(judge, _signed(pictures[:, 0]), layout)])

    def learn(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The discriminator's own loss, shapes as in `forward`: a scalar, and it again as [1]."""
        layout = self._layout(labels, photos)
        loss = self.judgement(_signed(pictures[:, 0].detach()), _signed(photos), layout)
        return loss, loss.detach()[None]

    def penalties(self, judge: Judge, pictures: Tensor, layout: Tensor) -> Tensor:
        """The terms after 'input', from RGB [N, 3, h, w] in -1..1 and its layout, with gradient.

        Args:
            judge: the discriminator, its weights constant.
            pictures: what the network made.
            layout: each class's share of each pixel, [N, classes, h, w].
        """
        raise NotImplementedError

    def judgement(self, pictures: Tensor, photos: Tensor, layout: Tensor) -> Tensor:
        """The discriminator's loss, a scalar; arguments as in `penalties`."""
        raise NotImplementedError

    def _layout(self, labels: Tensor, photos: Tensor) -> Tensor:
        size = (photos.shape[-2], photos.shape[-1])
        return F.adaptive_avg_pool2d(one_hot(labels, self.classes, torch.float32), size)


def realness(logits: Tensor, real: bool) -> Tensor:
    """Binary cross-entropy of logits against one answer for all of them."""
    return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, float(real)))


def _signed(rgb: Tensor) -> Tensor:
    """0..255 -> -1..1."""
    return rgb / 127.5 - 1
