"""Aggregations side by side, each behind its own norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation, MultiAggregation
from torch_geometric.nn.inits import reset

from pyg_ea.checks import checked_segments, positive_integer


class NormedMultiAggregation(MultiAggregation):
    r"""Several aggregations of the same elements, each behind its own norm, concatenated:

    .. math::
        y_s = \big[\, \mathrm{norm}_1(\mathrm{aggr}_1(X_s)), \dots,
        \mathrm{norm}_k(\mathrm{aggr}_k(X_s)) \,\big]

    PyG's ``MultiAggregation`` has no norms; EA barely learns without one, and a sum beside a mean
    would drown it. An empty set gives 0, whatever the norms' biases have learned. PyG's part is
    handed ``index`` even where ``ptr`` was passed: its reductions by ``ptr`` have wrong second
    derivatives where torch-scatter is installed. ::

        NormedMultiAggregation([EAAggregation(16, 32), "mean", "sum"], channels=[32, 16, 16])

    Args:
        aggrs: PyG aggregations, or names that PyG resolves.
        channels: size of the result of each, one for all or one for each.
        norm: makes a norm for a result of that size; ``nn.Identity`` for none.

    Shapes:
        - **x:** :math:`(*, N, D_x)`; **index:** :math:`(N)`, or **ptr:** :math:`(S + 1)`
        - **output:** :math:`(*, S, \text{out\_channels})`, the sum of ``channels``

    Preconditions are those of the parts: some of PyG's take a sorted ``index`` only, or none but
    two-dimensional x.

    Raises:
        ValueError: when there is no part, when ``channels`` has another length, or when a part's
            result has another size than it says.
        TypeError: when a size is no integer.
    """

    def __init__(
        self,
        aggrs: Sequence[Aggregation | str],
        channels: int | Sequence[int],
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
    ) -> None:
        super().__init__(list(aggrs))
        sizes = [channels] * len(aggrs) if isinstance(channels, int) else list(channels)
        if len(sizes) != len(aggrs):
            raise ValueError(
                f"channels must be one size for each of the {len(aggrs)} aggregations, got {sizes}"
            )
        self.channels = [positive_integer("channels", size) for size in sizes]
        self.out_channels = sum(self.channels)
        self.norms = nn.ModuleList(norm(size) for size in self.channels)

    def reset_parameters(self) -> None:
        """Re-initialises all parts and norms."""
        super().reset_parameters()
        for module in self.norms:
            reset(module)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        """Aggregates ``x`` over dimension ``dim``; see the class for shapes."""
        segments = checked_segments(x.shape[dim], index, ptr, dim_size, x.device)
        y = super().forward(x, segments.index, None, segments.num_segments, dim)
        shape = [1] * y.dim()
        shape[dim] = -1
        return torch.where((segments.count > 0).view(shape), y, 0.0)

    def combine(self, inputs: list[Tensor]) -> Tensor:
        """The results of the parts, normed and concatenated."""
        for aggr, y, size in zip(self.aggrs, inputs, self.channels, strict=True):
            if y.shape[-1] != size:
                raise ValueError(f"{aggr} gives {y.shape[-1]} channels, channels says {size}")
        normed = [norm(y) for norm, y in zip(self.norms, inputs, strict=True)]
        return torch.cat(normed, dim=-1)
