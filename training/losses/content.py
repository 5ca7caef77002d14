r"""Content loss: feature matching (Chen & Koltun 2017, section 3.3, equation 1).

    L(I, g) = sum_l lambda_l * mean |phi_l(I) - phi_l(g)|

for the photo I and the one picture g of its layout, over the feature network's input (l = 0) and
its chosen layers phi_l. The mean is over channels and pixels.
"""

from __future__ import annotations

from torch import Tensor

from crn_fast.errors import Mismatch
from crn_fast.training.losses.loss import Loss, layer_terms


class ContentLoss(Loss):
    """The loss of one picture against its photo."""

    def terms(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> Tensor:
        """As `Loss.terms`; the layout is not looked at.

        Raises:
            Mismatch: more than one picture a layout.
        """
        count = pictures.shape[1]
        if count != 1:
            raise Mismatch(
                f"{type(self).__name__} takes one picture a layout, found {count}: set "
                "network.images = 1, or choose the diversity or the class-diversity loss"
            )
        return layer_terms(self.extractor(pictures[:, 0]), self.target(photos)).mean(0)
