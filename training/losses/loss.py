r"""What every loss shares: a feature network, weighted terms, and the calibration of the weights.

One term for the feature network's input (l = 0) and one for each of its layers; a loss is

    sum_l lambda_l * t_l

and differs from the others in how the terms t_l come from K pictures, their photo and their layout.
Differences are means, not sums, as in the authors' code. The lambdas begin as given and, by
`calibrate`, become the inverse of each term's running mean, so that all terms contribute alike, as
the authors did about epoch 100.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crn_fast.errors import BadInput
from crn_fast.training.features import Extractor


class Loss(nn.Module):
    """A loss of pictures against their photos. Its buffers (weights and means) are to be saved."""

    names: tuple[str, ...]
    """Of the terms: 'input', the feature network's layers, and what a loss adds."""
    lambdas: Tensor
    mean: Tensor
    count: Tensor

    def __init__(
        self, extractor: Extractor, lambdas: Sequence[float] = (), more: Sequence[str] = ()
    ) -> None:
        """Take a frozen feature network, and the weights of the terms in the order of `names`.

        Empty `lambdas` are all 1. `more`: names of terms that are not the feature network's.

        Raises:
            BadInput: not one weight for each term, or one that is negative or not finite.
        """
        super().__init__()
        self.extractor = extractor
        self.names = ("input", *extractor.layers, *more)
        initial = list(lambdas) or [1.0] * len(self.names)
        if len(initial) != len(self.names):
            raise BadInput(
                f"loss.lambdas has {len(initial)} values; expected {len(self.names)}, for "
                f"{', '.join(self.names)}"
            )
        if not all(0 <= value < math.inf for value in initial):
            raise BadInput(f"loss.lambdas is {initial}; expected finite values, none below 0")
        self.register_buffer("lambdas", torch.tensor(initial, dtype=torch.float64))
        self.register_buffer("mean", torch.zeros_like(self.lambdas))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    @property
    def smallest(self) -> int:
        """Side in pixels below which a photo cannot be compared; at most `objective.SMALLEST`."""
        return self.extractor.smallest

    def forward(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Compare K pictures of each layout with its one photo.

        Args:
            pictures: float RGB [N, K, 3, h, w] around 0..255; the gradient goes here alone.
            photos: float RGB [N, 3, h, w] in 0..255.
            labels: uint8 ids [N, H, W] of the same view; H >= h, W >= w.

        Returns:
            The scalar to be minimised, a mean over the N layouts; and the unweighted terms [T] it
            is the weighted sum of, detached. Both float32, or float64 where the pictures are.

        Raises:
            BadInput: photos too small to be compared.
            Mismatch: a number of pictures that this loss cannot compare.
        """
        assert pictures.shape[:1] + pictures.shape[2:] == photos.shape
        assert labels.shape[0] == photos.shape[0] and labels.dtype == torch.uint8
        height, width = photos.shape[-2:]
        if min(height, width) < self.smallest:
            raise BadInput(
                f"photos are compared at {height}x{width}, but {type(self).__name__} needs "
                f"{self.smallest} pixels each way: use larger photos, or raise [[data]] zoom"
            )
        terms = self.terms(pictures, photos, labels)
        return self.weigh(terms), terms.detach()

    def terms(self, pictures: Tensor, photos: Tensor, labels: Tensor) -> Tensor:
        """The unweighted terms [T] with their gradient; shapes as in `forward`."""
        raise NotImplementedError

    def weigh(self, terms: Tensor) -> Tensor:
        """Weighted sum of terms [..., T] over the last dimension."""
        return (self.lambdas.to(terms.dtype) * terms).sum(-1)

    def target(self, photos: Tensor) -> list[Tensor]:
        """The photos' features; no graph, as the feature network is frozen."""
        features: list[Tensor] = self.extractor(photos.detach())
        return features

    def observe(self, terms: Tensor) -> None:
        """Add one measurement of the unweighted terms [T] to their running mean."""
        self.count += 1
        self.mean += (terms.detach() - self.mean) / self.count

    def calibrate(self) -> None:
        """Set each lambda to the inverse of its term's mean; a term never above 0 keeps its own."""
        self.lambdas.copy_(torch.where(self.mean > 0, 1 / self.mean, self.lambdas))


def distance(found: Tensor, target: Tensor) -> Tensor:
    """|found - target|, in float32 or better whatever their dtype."""
    wide = torch.promote_types(found.dtype, torch.float32)
    return (found.to(wide) - target.to(wide)).abs()


def layer_terms(found: list[Tensor], target: list[Tensor]) -> Tensor:
    """Mean distance of features [N, ...] from their targets, for each layout and layer: [N, T]."""
    pairs = zip(found, target, strict=True)
    return torch.stack([distance(a, b).flatten(1).mean(1) for a, b in pairs], 1)
