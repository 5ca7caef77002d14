"""What the tests of the losses share: a tiny scene, the formulas as loops, a measure of memory."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crn_fast.training.features import VGG19, Extractor
from crn_fast.training.losses.loss import Loss
from scene import vgg_state

CLASSES = 4
"""Of the scene; class 2 is absent from the second layout, id 9 is no class."""
LAMBDAS = (0.5, 2.0, 0.7)


class Tiny(Extractor):
    """Two smooth layers in float64, the second at half the size, so that odd sides are cut."""

    layers = ("fine", "coarse")

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.fine = torch.randn(4, 3, 3, 3, generator=generator, dtype=torch.float64) / 3
        self.coarse = torch.randn(5, 4, 1, 1, generator=generator, dtype=torch.float64)

    def forward(self, rgb: Tensor) -> list[Tensor]:
        fine = F.softplus(F.conv2d(rgb, self.fine, padding=1))
        return [rgb, fine, F.avg_pool2d(F.conv2d(fine, self.coarse).tanh(), 2)]


def scene(count: int = 3, size: tuple[int, int] = (5, 7)) -> tuple[Tensor, Tensor, Tensor]:
    """Pictures [2, count, 3, h, w] that want a gradient, photos, labels of twice the size."""
    generator = torch.Generator().manual_seed(0)
    height, width = size
    pictures, photos = (
        torch.rand(*shape, 3, height, width, generator=generator, dtype=torch.float64) * 4
        for shape in ((2, count), (2,))
    )
    shape = (2, 2 * height, 2 * width)
    labels = torch.randint(0, CLASSES, shape, generator=generator, dtype=torch.uint8)
    labels[1][labels[1] == 2] = 3
    labels[0, -1, 0] = 9
    return pictures.requires_grad_(), photos, labels


def direct(extractor: Extractor, pictures: Tensor, photos: Tensor) -> list[Any]:
    """Means of absolute differences by loops: [n][k][l]."""
    return [
        [
            [
                sum(
                    abs(x - y)
                    for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True)
                )
                / a.numel()
                for a, b in zip(extractor(picture[None]), extractor(photo[None]), strict=True)
            ]
            for picture in layout_pictures
        ]
        for layout_pictures, photo in zip(pictures.detach(), photos, strict=True)
    ]


def direct_by_class(
    extractor: Extractor, pictures: Tensor, photos: Tensor, labels: Tensor
) -> list[Any]:
    """Means over pixels of mask times the mean over channels, by loops: [n][k][class][l]."""
    found = []
    for layout_pictures, photo, ids in zip(pictures.detach(), photos, labels.tolist(), strict=True):
        target = extractor(photo[None])
        found.append(
            [
                [
                    [
                        _masked_mean(a[0].tolist(), b[0].tolist(), ids, label)
                        for a, b in zip(extractor(picture[None]), target, strict=True)
                    ]
                    for label in range(CLASSES)
                ]
                for picture in layout_pictures
            ]
        )
    return found


def _masked_mean(a: list[Any], b: list[Any], ids: list[list[int]], label: int) -> float:
    channels, height, width = len(a), len(a[0]), len(a[0][0])
    total = 0.0
    for i in range(height):
        for j in range(width):
            below = [
                ids[y][x] == label
                for y in _touched(i, height, len(ids))
                for x in _touched(j, width, len(ids[0]))
            ]
            difference = sum(abs(a[c][i][j] - b[c][i][j]) for c in range(channels)) / channels
            total += sum(below) / len(below) * difference
    return total / (height * width)


def _touched(index: int, part: int, whole: int) -> range:
    return range(math.floor(index * whole / part), math.ceil((index + 1) * whole / part))


def weighted(terms: list[float]) -> float:
    return sum(weight * term for weight, term in zip(LAMBDAS, terms, strict=True))


def naive_by_class(
    extractor: Extractor, pictures: Tensor, photos: Tensor, labels: Tensor
) -> Tensor:
    """The same in one differentiable expression that keeps every graph: [n, k, class, l]."""
    target = extractor(photos)
    ids = torch.arange(CLASSES)[None, :, None, None]
    full = (labels[:, None] == ids).to(photos.dtype)
    per_picture = []
    for picture in pictures.unbind(1):
        per_layer = []
        for a, b in zip(extractor(picture), target, strict=True):
            mask = F.interpolate(full, size=a.shape[-2:], mode="area")
            difference = (a - b).abs().mean(1)
            per_layer.append(torch.einsum("nphw,nhw->np", mask, difference) / difference[0].numel())
        per_picture.append(torch.stack(per_layer, -1))
    return torch.stack(per_picture, 1)


def vgg19() -> VGG19:
    """VGG-19 in its own widths, without values: for counting bytes."""
    weights = list(vgg_state((64, 128, 256, 512, 512)).values())
    pairs = list(zip(weights[::2], weights[1::2], strict=True))
    return VGG19(pairs, torchvision=True).requires_grad_(False).to("meta")


def peak_bytes(step: Callable[[], object]) -> int:
    """The most bytes that tensors made by `step` hold at one time, its backward pass included."""
    with _Live() as live:
        step()
    return live.peak


class _Live(TorchDispatchMode):
    """Counts each new storage until it is freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        old = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if _is(leaf)}
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not _is(leaf):
                continue
            storage = leaf.untyped_storage()
            key = storage._cdata
            if key not in old and key not in self.known:
                self.known.add(key)
                self.now += storage.nbytes()
                self.peak = max(self.peak, self.now)
                weakref.finalize(storage, self._free, key, storage.nbytes())
        return result

    def _free(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.now -= size


def _is(leaf: object) -> bool:
    return isinstance(leaf, Tensor)


def training_peak(loss: Loss, count: int) -> int:
    """Peak bytes of one forward and backward pass over `count` pictures of a layout at 256x512.

    On torch's meta device, which knows shapes and no values.
    """
    loss.to("meta")
    pictures = torch.empty(1, count, 3, 256, 512, device="meta", requires_grad=True)
    photos = torch.empty(1, 3, 256, 512, device="meta")
    labels = torch.empty(1, 256, 512, dtype=torch.uint8, device="meta")
    return peak_bytes(lambda: loss(pictures, photos, labels)[0].backward())
