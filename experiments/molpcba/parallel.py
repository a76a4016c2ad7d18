"""Data parallelism beyond Lightning: sums, rows of unequal number, BatchNorm on any device."""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F


def world_size() -> int:
    """Number of processes that train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """``value`` summed over all processes; not differentiated."""
    value = value.detach()
    if world_size() > 1:
        value = value.clone()
        distributed.all_reduce(value)
    return value


def gather_rows(rows: Tensor) -> Tensor:
    """``[n_r, ...]`` of every process r, put one after another, on the CPU of each.

    Unlike ``all_gather`` it takes a different number of rows from each process, none included.
    """
    if world_size() == 1:
        return rows.cpu()
    parts: list[Tensor] = [rows] * world_size()
    distributed.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over rows ``[N, D]``, with statistics over the rows of all processes.

    ``nn.SyncBatchNorm``, which Lightning would put here, works on GPUs only. A batch of a single
    row, which has no variance, is normalised with the running statistics instead of being refused.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[N, D] -> [N, D]``."""
        if not self.training or world_size() == 1:
            single = input.shape[0] == 1
            return self._by_running(input) if single else super().forward(input)
        wide = input.to(torch.promote_types(input.dtype, torch.float32))
        count = wide.new_full((1,), float(wide.shape[0]))
        total = all_reduce(torch.cat([wide.sum(0), count]))
        rows = total[-1].detach()
        mean = total[:-1] / rows
        centred = wide - mean
        variance = all_reduce(centred.square().sum(0)) / rows
        if rows <= 1:
            return self._by_running(input)
        self._update(mean.detach(), (variance * rows / (rows - 1)).detach())
        normal = centred * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(input.dtype)

    @torch.no_grad()
    def _update(self, mean: Tensor, variance: Tensor) -> None:
        """Moves the running statistics."""
        self.num_batches_tracked.add_(1)  # type: ignore[union-attr]
        for running, value in ((self.running_mean, mean), (self.running_var, variance)):
            running.lerp_(value, self.momentum)  # type: ignore[union-attr, arg-type]

    def _by_running(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )
