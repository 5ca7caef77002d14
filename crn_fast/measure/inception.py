"""The front of Inception-v3 (Szegedy et al. 2015) up to mixed_7, as the features of FID-768.

Batch norms are folded into the convolutions, each followed by a ReLU. Weights come from a file on
the user's disk: a torch state dict of `<name>.weight` and `<name>.bias` with the names of the
network as released in 2015 (conv, conv_1, ..., mixed_7_tower_2_conv).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from crn_fast import torch_file
from crn_fast.errors import BadInput

if TYPE_CHECKING:
    from torch import Tensor

SIDE = 299
DESCRIPTION = f"Inception-v3 to mixed_7, mean over positions, {SIDE}x{SIDE}"


class Inception:
    """Frozen; widths and so the dimension follow from the weights (768 as released).

    Args:
        weights: as above, of any float type.
        device: where it runs, in torch's words.
    """

    def __init__(self, weights: dict[str, Tensor], device: str = "cpu") -> None:
        self.weights = {name: tensor.float().to(device) for name, tensor in weights.items()}
        self.device = device
        self.dimension = self(np.zeros((1, 8, 8, 3), np.uint8)).shape[1]

    def __call__(self, rgb: np.ndarray) -> np.ndarray:
        """Features of pictures: uint8 RGB [N, h, w, 3] -> float32 [N, dimension].

        Each picture is brought to 299x299 (bilinear, antialiased, whatever its aspect) and [-1, 1].
        """
        import torch
        import torch.nn.functional as F

        with torch.inference_mode():
            x = torch.tensor(rgb, device=self.device).movedim(-1, 1).float()
            x = F.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
            features: np.ndarray = self._mixed_7(x / 127.5 - 1).mean((2, 3)).cpu().numpy()
        return features

    def _mixed_7(self, x: Tensor) -> Tensor:
        import torch
        import torch.nn.functional as F

        x = self._convs(x, "conv", stride=2, same=False)
        x = self._convs(x, "conv_1", same=False)
        x = self._convs(x, "conv_2")
        x = F.max_pool2d(x, 3, 2)
        x = self._convs(x, "conv_3")
        x = self._convs(x, "conv_4", same=False)
        x = F.max_pool2d(x, 3, 2)
        for block in ("mixed", "mixed_1", "mixed_2"):
            x = self._mix(x, block, tower=2, tower_1=3)
        # The one block of these that halves the map: no 1x1 branch, and the pool is a maximum.
        branches = [
            self._convs(x, "mixed_3_conv", stride=2, same=False),
            self._convs(
                self._convs(x, "mixed_3_tower_conv", "mixed_3_tower_conv_1"),
                "mixed_3_tower_conv_2",
                stride=2,
                same=False,
            ),
            F.max_pool2d(x, 3, 2),
        ]
        x = torch.cat(branches, 1)
        for block in ("mixed_4", "mixed_5", "mixed_6", "mixed_7"):
            x = self._mix(x, block, tower=3, tower_1=5)
        return x

    def _mix(self, x: Tensor, block: str, *, tower: int, tower_1: int) -> Tensor:
        """Four branches side by side; two of them are towers of so many convolutions."""
        import torch
        import torch.nn.functional as F

        def names(branch: str, count: int) -> list[str]:
            return [f"{block}_{branch}_conv" + (f"_{i}" if i else "") for i in range(count)]

        pooled = F.avg_pool2d(x, 3, 1, padding=1, count_include_pad=False)
        branches = [
            self._convs(x, f"{block}_conv"),
            self._convs(x, *names("tower", tower)),
            self._convs(x, *names("tower_1", tower_1)),
            self._convs(pooled, f"{block}_tower_2_conv"),
        ]
        return torch.cat(branches, 1)

    def _convs(self, x: Tensor, *names: str, stride: int = 1, same: bool = True) -> Tensor:
        import torch.nn.functional as F

        for name in names:
            weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
            height, width = weight.shape[2:]
            padding = (height // 2, width // 2) if same else (0, 0)
            x = F.relu(F.conv2d(x, weight, bias, stride, padding))
        return x


def load(path: str | Path, device: str = "cpu") -> Inception:
    """Load the network from a file of its weights.

    Raises:
        BadInput: no such file, or not the weights of this network.
        ResourceError: it may not be read.
    """
    weights = torch_file.read_foreign(path, "the weights of Inception-v3 to mixed_7")
    try:
        return Inception(weights, device)
    except Exception as error:
        kind = type(error).__name__
        reason = str(error).splitlines()[0] if str(error) else kind
        raise BadInput(
            f"{path}: not the weights of Inception-v3 to mixed_7 ({kind}: {reason[:160]})"
        ) from None
