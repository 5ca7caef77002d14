r"""Image-space loss (Chen & Koltun 2017, section 5): the paper's baseline without features.

    L(I, g) = lambda_0 * mean |I - g|

for the photo I and the one picture g of its layout, in RGB of 0..255: the content loss over a
feature network that has no layers.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from crn_fast.training.features import Extractor
from crn_fast.training.losses.content import ContentLoss


class Pixels(Extractor):
    """The input itself, and no layers."""

    layers = ()

    def forward(self, rgb: Tensor) -> list[Tensor]:
        return [rgb]


class ImageLoss(ContentLoss):
    """The loss of one picture's colours against its photo's."""

    def __init__(self, lambdas: Sequence[float] = ()) -> None:
        """`lambdas`: at most one weight, of the only term."""
        super().__init__(Pixels(), lambdas)
