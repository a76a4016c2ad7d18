"""Data parallelism beyond Lightning: values of all processes, BatchNorm over them on any device."""

from __future__ import annotations

from typing import TypeVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

T = TypeVar("T")


@rank_zero_only
def say(text: str) -> None:
    """Prints to the terminal, once however many processes there are."""
    print(text, flush=True)


def world_size() -> int:
    """Number of processes that train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """``value`` summed over all processes, on its device."""
    return all_reduce(value) if world_size() > 1 else value


def gather(value: T) -> list[T]:
    """The value, tensors on the CPU, of each process; they may have different numbers of rows."""
    parts = [value] * world_size()
    if len(parts) > 1:
        distributed.all_gather_object(parts, value)
    return parts


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over rows ``[N, D]``, with statistics over the rows of all processes.

    ``nn.SyncBatchNorm``, which Lightning would put here, works on GPUs only. A batch of a single
    row, which has no variance, is normalised with the running statistics instead of being refused.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[N, D] -> [N, D]``."""
        if self.training and world_size() == len(input) == 1:
            mean, variance = self.running_mean, self.running_var
            return F.batch_norm(input, mean, variance, self.weight, self.bias, eps=self.eps)
        if not self.training or world_size() == 1:
            return super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        total = all_reduce(torch.cat([wide.sum(0), wide.new_tensor([len(wide)])]))
        rows = total[-1].detach()  # two or more: every process has a graph
        mean = total[:-1] / rows
        centred = wide - mean
        variance = all_reduce(centred.square().sum(0)) / rows
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
            self.running_mean.lerp_(mean, self.momentum)  # type: ignore[union-attr, arg-type]
            unbiased = variance * rows / (rows - 1)
            self.running_var.lerp_(unbiased, self.momentum)  # type: ignore[union-attr, arg-type]
        normal = centred * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(input.dtype)
