"""Several processes that train one network, as `torchrun` starts them; alone, every call is cheap.

Each process takes an equal part of every batch, so that the gradient is that of the whole batch
whatever the number of processes.
"""

from __future__ import annotations

import os
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from crn_fast.errors import UsageError


class Processes:
    """This process's place among those that train together.

    Raises:
        UsageError: the batch cannot be divided among them.
    """

    def __init__(self, device: str, batch: int) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        self.device = device
        self.launcher = os.getppid() if "TORCHELASTIC_RUN_ID" in os.environ else None
        if batch % self.size:
            raise UsageError(
                f"training.batch is {batch}, which {self.size} processes cannot share equally"
            )
        if self.size > 1:
            if device == "cuda":
                self.device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
                torch.cuda.set_device(self.device)
            if not dist.is_initialized():
                backend = "nccl" if device == "cuda" else "gloo"
                dist.init_process_group(backend, timeout=timedelta(minutes=10))

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and speaks."""
        return self.rank == 0

    @property
    def orphaned(self) -> bool:
        """Whether the torchrun that started this process is gone, and nobody minds it any more."""
        return self.launcher is not None and os.getppid() != self.launcher

    def share(self, network: nn.Module) -> nn.Module:
        """The network, whose backward pass averages its gradients over the processes."""
        if self.size == 1:
            return network
        devices = [self.device] if self.device.startswith("cuda") else None
        return DistributedDataParallel(network, device_ids=devices)

    def average(self, network: nn.Module) -> None:
        """Average gradients over the processes, one by one.

        Slower than `share`, which groups gradients anew after the first step: a resumed run would
        do so once more, and three processes or more would add in another order than before.
        """
        for parameter in network.parameters():
            if parameter.grad is not None:
                parameter.grad = self.mean(parameter.grad)

    def mean(self, values: Tensor) -> Tensor:
        """The mean of a tensor over the processes."""
        if self.size > 1:
            values = values.clone()
            dist.all_reduce(values)
            values /= self.size
        return values

    def gather(self, lines: list[str]) -> list[list[str]]:
        """Every process's lines, by rank, in all of them."""
        if self.size == 1:
            return [lines]
        found: list[list[str]] = [[] for _ in range(self.size)]
        dist.all_gather_object(found, lines)
        return found

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process, the same answer in all."""
        if self.size == 1:
            return flag
        votes = torch.tensor(float(flag), device=self.device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def wait(self) -> None:
        """Until every process is here."""
        if self.size > 1:
            dist.barrier()

    def close(self) -> None:
        """Leave the group."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()
