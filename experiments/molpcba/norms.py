"""Batch normalisation that is the same on one process and on several."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce
from torch.nn import functional as F

from experiments.molpcba.distributed import world_size


class BatchNorm(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` over rows ``[N, D]``, with statistics over the rows of all processes.

    ``nn.SyncBatchNorm`` does the same on GPUs only. A batch of a single row, which has no variance,
    is normalised with the running statistics instead of being refused or skipped.
    """

    def forward(self, input: Tensor) -> Tensor:
        """``[N, D] -> [N, D]``."""
        if not self.training or world_size() == 1:
            single = input.shape[0] == 1
            return self._by_running(input) if single else super().forward(input)
        return self._synchronised(input)

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance, self.momentum)

    def _by_running(self, x: Tensor) -> Tensor:
        return F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.0, self.eps
        )

    def _synchronised(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        count = wide.new_full((1,), float(x.shape[0]))
        total = all_reduce(torch.cat([wide.sum(0), count]))
        rows = total[-1].detach()
        mean = total[:-1] / rows
        centred = wide - mean
        variance = all_reduce(centred.square().sum(0)) / rows
        if rows <= 1:
            return self._by_running(x)
        self._track(mean.detach(), (variance * rows / (rows - 1)).detach())
        normal = centred * torch.rsqrt(variance + self.eps)
        return (normal * self.weight + self.bias).to(x.dtype)
