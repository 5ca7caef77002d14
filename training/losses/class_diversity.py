r"""Class-diversity loss: the best of K pictures, class by class (Chen & Koltun 2017, equation 4).

    D_u,p = sum_l lambda_l * mean (L_p,l * |phi_l(I) - phi_l(g_u)|)
    L(I, g) = sum_p ((1 - s) * min_u D_u,p + s * mean_u D_u,p)

for the photo I and the pictures g_1 .. g_K of its layout, with L_p,l in 0..1 the mask of class p at
the size of layer l. The mean is over channels and all pixels, those of other classes too, so that
classes weigh by their area and for K = 1 this is the content loss. The paper has s = 0; the
authors' code s = 0.001, which leaves no picture without a gradient.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from crn_fast.errors import BadInput
from crn_fast.kernels.reference import one_hot
from crn_fast.training.features import Extractor
from crn_fast.training.losses.loss import Loss, distance


class ClassDiversityLoss(Loss):
    """The loss of the best of a layout's pictures for each of its classes.

    Each picture's graph is dropped after the forward pass and built again during the backward pass:
    with VGG-19 and 20 classes at 256x512 in float32 the tensors of a step take 427 MiB for one
    picture and 439 MiB for nine, instead of 2.3 GiB with nine graphs. Of pictures that are equally
    good for a class, the first gets the gradient of the minimum. A class that a layout lacks, and
    pixels without a class, add nothing.
    """

    def __init__(
        self,
        extractor: Extractor,
        lambdas: Sequence[float] = (),
        *,
        classes: int,
        mean_share: float = 0.001,
    ) -> None:
        """Take what `Loss` takes; features must be maps.

        `classes`: the layouts' ids are below it; others belong to no class. `mean_share`: s above.

        Raises:
            BadInput: as `Loss`; a `mean_share` outside 0..1.
        """
        super().__init__(extractor, lambdas)
        if not 0 <= mean_share <= 1:
            raise BadInput(f"the share of the mean over pictures is {mean_share}; expected 0..1")
        self.classes, self.mean_share = classes, mean_share

    def terms(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> Tensor:
        """As `Loss.terms`, of the best pictures for each class and the mean of all."""
        target = self.target(photos)
        masks = self._masks(labels, target)
        found = [
            checkpoint(
                self._class_terms, p, target, masks, use_reentrant=False, preserve_rng_state=False
            )
            for p in pictures.unbind(1)
        ]
        terms = torch.stack(found)  # [K, N, classes, T]
        best = self.weigh(terms.detach()).argmin(0)
        least = torch.take_along_dim(terms, best[None, :, :, None], 0)[0]
        mixed = (1 - self.mean_share) * least + self.mean_share * terms.mean(0)
        return mixed.sum(1).mean(0)

    def _class_terms(self, picture: Tensor, target: list[Tensor], masks: list[Tensor]) -> Tensor:
        """Mean distance of one picture a layout within each class: [N, classes, T]."""
        found = [
            (mask * distance(a, b).mean(1, keepdim=True)).mean((2, 3))
            for a, b, mask in zip(self.extractor(picture), target, masks, strict=True)
        ]
        return torch.stack(found, 2)

    def _masks(self, labels: Tensor, target: list[Tensor]) -> list[Tensor]:
        """Each class's share, 0..1, of the labels below each pixel of a layer: [N, classes, h, w].

        A label that lies below two pixels counts for both.
        """
        wide = torch.promote_types(target[0].dtype, torch.float32)
        full = one_hot(labels, self.classes, wide)
        sizes = [(feature.shape[-2], feature.shape[-1]) for feature in target]
        masks = {size: F.adaptive_avg_pool2d(full, size) for size in set(sizes)}
        return [masks[size] for size in sizes]
