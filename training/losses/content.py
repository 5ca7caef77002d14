r"""Content loss: feature matching (Chen & Koltun 2017, section 3.3, equation 1).

    L(I, J) = sum_l lambda_l * mean(|phi_l(I) - phi_l(J)|)

over the network's input (l = 0) and its chosen layers; means, not sums, as in the authors' code.
The lambdas begin as given and, by `calibrate`, become the inverse of each term's mean, so that all
terms contribute alike, as the authors did about epoch 100.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from crn_fast.training.features import Extractor


class ContentLoss(nn.Module):
    """The loss of one picture against its photo. Its buffers (weights and means) are saved."""

    lambdas: Tensor
    mean: Tensor
    count: Tensor

    def __init__(self, extractor: Extractor, lambdas: Sequence[float] = ()) -> None:
        """`lambdas`: one weight for the input and one for each layer; empty means all 1."""
        super().__init__()
        self.extractor = extractor
        terms = 1 + len(extractor.layers)
        initial = torch.tensor(list(lambdas) or [1.0] * terms, dtype=torch.float64)
        if len(initial) != terms:
            raise ValueError(f"lambdas has {len(initial)} values; the extractor has {terms} terms")
        self.register_buffer("lambdas", initial)
        self.register_buffer("mean", torch.zeros(terms, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def terms(self, picture: Tensor, photo: Tensor) -> Tensor:
        """Unweighted terms [1 + layers] of float RGB pictures [N, 3, H, W] in 0..255."""
        with torch.no_grad():
            target = self.extractor(photo.detach())
        found = self.extractor(picture)
        means = [
            (a - b).abs().mean(dtype=torch.float32) for a, b in zip(found, target, strict=True)
        ]
        return torch.stack(means)

    def observe(self, terms: Tensor) -> None:
        """Add one measurement of the terms to their running mean."""
        self.count += 1
        self.mean += (terms.detach() - self.mean) / self.count

    def calibrate(self) -> None:
        """Set each lambda to the inverse of its term's mean."""
        self.lambdas.copy_(1 / self.mean.clamp_min(1e-12))

    def forward(self, terms: Tensor) -> Tensor:
        """The weighted sum of `terms`."""
        return (self.lambdas.to(terms.dtype) * terms).sum()
