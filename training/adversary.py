"""The discriminator's side of a training step: an optimizer of its own, and its own loss."""

from __future__ import annotations

import torch
from torch import Tensor

from crn_fast.training import objective
from crn_fast.training.distributed import Processes
from crn_fast.training.losses.adversarial import AdversarialLoss
from crn_fast.training.recipe import Recipe


class Adversary:
    """Trains the discriminator of an adversarial loss, which keeps and saves its weights."""

    def __init__(self, loss: AdversarialLoss, recipe: Recipe, processes: Processes) -> None:
        self.judge, self.recipe, self.processes = loss, recipe, processes
        settings = recipe.training
        self.optimizer = torch.optim.Adam(
            loss.discriminator.parameters(), settings.learning_rate, (settings.beta1, 0.999)
        )
        self.loss = torch.zeros(1)
        """Of the last step, [1], a mean over the processes."""

    def backward(self, rendered: Tensor, photos: list[Tensor], labels: Tensor) -> None:
        """The gradient of its loss on a batch; arguments as `objective.compare`'s."""
        half = self.recipe.training.precision == "bf16"
        scales = self.recipe.loss.scales
        with torch.autocast(labels.device.type, torch.bfloat16, enabled=half):
            loss, found = objective.compare(
                self.judge.learn, rendered.detach(), photos, labels, scales
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.processes.average(self.judge.discriminator)
        self.loss = self.processes.mean(found)

    def step(self, rate: float) -> None:
        """Follow the gradient, at a learning rate."""
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.step()
