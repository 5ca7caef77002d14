r"""Diversity loss: the best of K pictures (Chen & Koltun 2017, section 3.4, equation 3).

    L(I, g) = min_u sum_l lambda_l * mean |phi_l(I) - phi_l(g_u)|

for the photo I and the pictures g_1 .. g_K of its layout; features and means as in the content
loss, which this is for K = 1. Only the best picture of a layout gets a gradient.
"""

from __future__ import annotations

import torch
from torch import Tensor

from crn_fast.training.losses.loss import Loss, layer_terms


class DiversityLoss(Loss):
    """The loss of the best of a layout's pictures against its photo.

    A first pass without a graph finds the best picture, a second one builds the graph of that one
    alone: with VGG-19 at 256x512 in float32 the tensors of a step take 351 MiB for one picture and
    for nine, instead of 2.3 GiB with nine graphs. The gradient is that of the minimum; of pictures
    that are equally good, the first gets all of it.
    """

    def terms(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> Tensor:
        """As `Loss.terms`, of the best pictures; the layout is not looked at."""
        target = self.target(photos)
        with torch.no_grad():
            losses = [
                self.weigh(layer_terms(self.extractor(picture), target))
                for picture in pictures.unbind(1)
            ]
            best = torch.stack(losses, 1).argmin(1)
        rows = torch.arange(len(pictures), device=pictures.device)
        return layer_terms(self.extractor(pictures[rows, best]), target).mean(0)
