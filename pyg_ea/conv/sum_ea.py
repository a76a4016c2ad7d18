"""SumEAAggregation: the sum of a set and, beside it, EA behind a norm and a linear map."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation

from pyg_ea.aggregation import EAAggregation
from pyg_ea.checks import checked_segments, positive_integer
from pyg_ea.solver import STEPS

NARROWEST = 8  # narrower potentials can diverge from the start
START = 0.01  # standard deviation of W at the start: nearly the sum, yet EA has a gradient


class SumEAAggregation(Aggregation):
    r"""The sum of a set and, beside it, EA behind a norm and a linear map:

    .. math::
        y_s = \sum_{i \in s} x_i + W \, \mathrm{LayerNorm}(\mathrm{EA}(X_s)) + b

    W starts near zero and b at zero, so that a network starts as one with the sum and takes from EA
    what helps. The result is 0 for an empty set.

    Args:
        channels: size of an element and of the result.
        hidden_channels: hidden width H of the potential. Default: a quarter of ``channels``,
            at least 8.
        steps: solver steps. Run time is proportional to it.
        settings: further arguments of :class:`EAAggregation`.

    Shapes:
        - **x:** :math:`(*, N, \text{channels})`
        - **index:** :math:`(N)`, int64, or **ptr:** :math:`(S + 1)`; neither: one set
        - **output:** :math:`(*, S, \text{channels})`

    Raises:
        ValueError, TypeError: as :class:`EAAggregation`.
    """

    def __init__(
        self, channels: int, hidden_channels: int | None = None, steps: int = STEPS, **settings: Any
    ) -> None:
        super().__init__()
        channels = positive_integer("channels", channels)
        if hidden_channels is None and "potential" not in settings:
            hidden_channels = max(NARROWEST, channels // 4)
        self.ea = EAAggregation(channels, channels, hidden_channels, steps, **settings)
        self.norm = nn.LayerNorm(channels)
        self.linear = nn.Linear(channels, channels)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Re-initialises all parameters."""
        self.ea.reset_parameters()
        self.norm.reset_parameters()
        nn.init.normal_(self.linear.weight, std=START)
        nn.init.zeros_(self.linear.bias)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        """Aggregates ``x`` over dimension ``dim``; see the class for shapes."""
        validate = self.ea.validate
        segments = checked_segments(x.shape[dim], index, ptr, dim_size, x.device, validate)
        index, size = segments.index, segments.num_segments
        y = self.ea(x, index, dim_size=size, dim=dim).movedim(dim, -2)
        beside = torch.where((segments.count > 0)[:, None], self.linear(self.norm(y)), 0.0)
        total = self.reduce(x, index, None, size, dim, reduce="sum") + beside.movedim(-2, dim)
        return total.contiguous()
