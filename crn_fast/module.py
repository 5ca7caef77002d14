"""The cascade as an nn.Module: it owns the parameters and runs the one graph with reference ops.

For training and for eager rendering. The parameters' names and shapes are `CascadeSpec.tensors`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crn_fast import cascade
from crn_fast.kernels import reference
from crn_fast.spec import CascadeSpec
from crn_fast.weights import arrange


class Cascade(nn.Module):
    """A Cascaded Refinement Network with trainable weights."""

    def __init__(self, spec: CascadeSpec, recompute: bool = False) -> None:
        """`recompute`: drop each op's activations and compute them again on the way back."""
        super().__init__()
        self.spec = spec
        self.recompute = recompute
        # Dots are not allowed in parameter names, so modules carry the nesting.
        for name, shape in spec.tensors().items():
            *path, leaf = name.split(".")
            owner: nn.Module = self
            for part in path:
                if not hasattr(owner, part):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            owner.register_parameter(leaf, nn.Parameter(torch.empty(shape)))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform convolutions, as the authors' trainer; norms start as the identity."""
        for name, parameter in self.named_parameters():
            if name.endswith("weight"):
                nn.init.xavier_uniform_(parameter)
            else:
                nn.init.constant_(parameter, 1.0 if name.endswith("gamma") else 0.0)

    def forward(self, labels: Tensor) -> Tensor:
        """Labels uint8 [N, H, W], every id < classes -> float RGB [N, K, H, W, 3], unclipped."""
        weights = arrange(self.spec, dict(self.named_parameters()))
        ops: Any = Recomputed if self.recompute else reference
        rgb: Tensor = cascade.synthesize(ops, self.spec, weights, labels)
        return rgb


class Recomputed:
    """The reference ops, of which the convolutions keep their inputs and no more."""

    label_pyramid = staticmethod(reference.label_pyramid)
    head = staticmethod(reference.head)
    to_uint8 = staticmethod(reference.to_uint8)

    @staticmethod
    def refine(*arguments: Any) -> reference.Features:
        """`reference.refine`."""
        found: reference.Features = checkpoint(
            reference.refine, *arguments, use_reentrant=False, preserve_rng_state=False
        )
        return found

    @staticmethod
    def conv(*arguments: Any) -> reference.Features:
        """`reference.conv`."""
        found: reference.Features = checkpoint(
            reference.conv, *arguments, use_reentrant=False, preserve_rng_state=False
        )
        return found
