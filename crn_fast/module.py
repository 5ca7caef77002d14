"""The cascade as an nn.Module: it owns the parameters and runs the one graph with reference ops.

For training and for eager rendering. The parameters' names and shapes are `CascadeSpec.tensors`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from crn_fast import cascade
from crn_fast.kernels import reference
from crn_fast.spec import CascadeSpec
from crn_fast.weights import arrange


class Cascade(nn.Module):
    """A Cascaded Refinement Network with trainable weights."""

    def __init__(self, spec: CascadeSpec) -> None:
        super().__init__()
        self.spec = spec
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
        rgb: Tensor = cascade.synthesize(reference, self.spec, weights, labels)
        return rgb
