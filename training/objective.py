"""A step's objective: the network's pictures against photos of any size, by one of the losses.

A photo smaller than the network's picture is never enlarged, which would teach blur: the picture
is reduced to the photo's own pixels before the two are compared.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from crn_fast.training import features
from crn_fast.training.losses.class_diversity import ClassDiversityLoss
from crn_fast.training.losses.content import ContentLoss
from crn_fast.training.losses.diversity import DiversityLoss
from crn_fast.training.losses.gan_semantic import GanSemanticLoss
from crn_fast.training.losses.image import ImageLoss
from crn_fast.training.losses.loss import Loss
from crn_fast.training.losses.pix2pix import Pix2PixLoss
from crn_fast.training.recipe import Recipe

SMALLEST = 32
"""Side in pixels below which nothing is reduced: feature networks halve it four times."""


def build_loss(recipe: Recipe) -> Loss:
    """The recipe's loss, with its feature network.

    Raises:
        BadInput: the feature network's weights or the number of lambdas.
    """
    r = recipe.loss
    classes = recipe.network.classes
    if r.kind == "image":
        return ImageLoss(r.lambdas)
    if r.kind == "pix2pix":
        return Pix2PixLoss(r.lambdas, classes=classes)
    if r.kind == "gan-semantic":
        return GanSemanticLoss(r.lambdas, classes=classes)
    extractor = features.load(r.extractor, r.weights)
    if r.kind == "content":
        return ContentLoss(extractor, r.lambdas)
    if r.kind == "diversity":
        return DiversityLoss(extractor, r.lambdas)
    return ClassDiversityLoss(extractor, r.lambdas, classes=classes, mean_share=r.mean_share)


def compare(
    loss: Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]],
    rendered: Tensor,
    photos: list[Tensor],
    labels: Tensor,
    scales: tuple[float, ...],
) -> tuple[Tensor, Tensor]:
    """The scalar to be minimised and the unweighted terms [T], means over layouts and scales.

    Args:
        loss: one of `losses`, or what takes and gives the same.
        rendered: float RGB [N, K, H, W, 3] around 0..255.
        photos: N uint8 RGB [h, w, 3] with h <= H, w <= W.
        labels: uint8 [N, H, W].
        scales: factors by which both are reduced.
    """
    pictures = rendered.movedim(-1, 2)
    groups: dict[torch.Size, list[int]] = {}
    for index, photo in enumerate(photos):
        groups.setdefault(photo.shape, []).append(index)
    totals: list[tuple[Tensor, Tensor]] = []
    for shape, indices in groups.items():
        target = torch.stack([photos[i] for i in indices]).movedim(-1, 1).float()
        share = len(indices) / (len(photos) * len(scales))
        # Usually all photos are of one size, and need not be gathered.
        whole = len(indices) == len(photos)
        ours, theirs = (pictures, labels) if whole else (pictures[indices], labels[indices])
        for scale in scales:
            size = [min(side, max(SMALLEST, round(side * scale))) for side in shape[:2]]
            found = loss(reduce(ours, size), reduce(target, size), theirs)
            totals.append((found[0] * share, found[1] * share))
    losses, terms = zip(*totals, strict=True)
    return torch.stack(losses).sum(), torch.stack(terms).sum(0)


def reduce(picture: Tensor, size: list[int]) -> Tensor:
    """Antialiased reduction of float [..., H, W] to `size`, at most its own.

    The same as torch's antialiased bilinear interpolation, whose backward pass is many times
    slower on a GPU than these two matrix products.
    """
    if list(picture.shape[-2:]) == size:
        return picture
    rows, columns = (
        _triangles(whole, part, picture.device)
        for whole, part in zip(picture.shape[-2:], size, strict=True)
    )
    with torch.autocast(picture.device.type, enabled=False):
        return rows @ picture.float() @ columns.T


def _triangles(whole: int, part: int, device: torch.device) -> Tensor:
    """Float [part, whole]: row i holds the triangle filter about pixel i of `part` pixels."""
    scale = whole / part
    centers = (torch.arange(part, device=device) + 0.5) * scale
    distances = torch.arange(whole, device=device) + 0.5 - centers[:, None]
    weights = (1 - distances.abs() / scale).clamp_min(0)
    return weights / weights.sum(1, keepdim=True)
