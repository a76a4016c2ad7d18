"""NormedMultiAggregation: several aggregations concatenated, each followed by its own norm."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation, MultiAggregation
from torch_geometric.nn.inits import reset

from pyg_ea.checks import (
    apply_norm,
    check_validate,
    checked_segments,
    make_norm,
    pass_on_validate,
    positive_integer,
)


class NormedMultiAggregation(MultiAggregation):
    r"""Several aggregations of the same elements, each followed by its own norm, concatenated:

    .. math::
        y_s = \big[\, \mathrm{norm}_1(\mathrm{aggr}_1(X_s)), \dots,
        \mathrm{norm}_k(\mathrm{aggr}_k(X_s)) \,\big]

    PyG's ``MultiAggregation`` has no norms. EA needs one to learn, and without norms a sum has a
    much larger scale than a mean. An empty set gives 0, whatever biases the norms have learned.
    PyG's aggregations receive ``index`` even if ``ptr`` was given, since their reductions by
    ``ptr`` have wrong second derivatives if torch-scatter is installed. ::

        NormedMultiAggregation([EAAggregation(16, 32), "mean", "sum"], channels=[32, 16, 16])

    Args:
        aggrs: PyG aggregations, or names that PyG resolves.
        channels: size of each aggregation's result, one for all or one for each.
        norm: function from a size to the norm of a result of that size. Default:
            ``nn.LayerNorm``, which takes the length of a vector out, so that a sum behind it is a
            mean; ``nn.BatchNorm1d`` keeps the number of elements in it. Use ``nn.Identity`` for no
            norm.
        validate: whether to check the values of ``index`` and ``ptr``. Default: on for tensors in
            CPU memory, off on accelerators, where it would wait for the device. Passed on to
            the aggregations inside.

    Shapes:
        - **x:** :math:`(*, N, D_x)`
        - **index:** :math:`(N)`, int64, or **ptr:** :math:`(S + 1)`; neither: one set
        - **output:** :math:`(*, S, \text{out\_channels})`, ``out_channels`` being the sum of
          ``channels``

    The aggregations have preconditions: some of PyG's require a sorted ``index`` or
    two-dimensional x.

    Raises:
        ValueError: if there is no aggregation, if ``channels`` has another length, or if a result
            has another size than ``channels`` says.
        TypeError: if a size is not an integer.
    """

    def __init__(
        self,
        aggrs: Sequence[Aggregation | str],
        channels: int | Sequence[int],
        norm: Callable[[int], nn.Module] = nn.LayerNorm,
        validate: bool | None = None,
    ) -> None:
        super().__init__(list(aggrs))
        sizes = list(channels) if isinstance(channels, Sequence) else [channels] * len(aggrs)
        if len(sizes) != len(aggrs):
            raise ValueError(
                f"channels must be one size for each of the {len(aggrs)} aggregations, got {sizes}"
            )
        self.channels = [positive_integer("channels", size) for size in sizes]
        self.out_channels = sum(self.channels)
        self.validate = check_validate(validate)
        self.norms = nn.ModuleList(make_norm(norm, size) for size in self.channels)
        pass_on_validate(self, validate)

    def reset_parameters(self) -> None:
        """Re-initialises all aggregations and norms."""
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
        size = x.shape[dim]
        segments = checked_segments(size, index, ptr, dim_size, x.device, self.validate)
        y = super().forward(x, segments.index, None, segments.num_segments, dim)
        shape = [1] * y.dim()
        shape[dim] = -1
        return torch.where((segments.count > 0).view(shape), y, 0.0)

    def combine(self, inputs: list[Tensor]) -> Tensor:
        """Results ``[*, S, channels]`` of the aggregations, normalised and concatenated."""
        for aggr, y, size in zip(self.aggrs, inputs, self.channels, strict=True):
            if y.shape[-1] != size:
                raise ValueError(
                    f"{aggr} returned {y.shape[-1]} channels, but channels says {size}"
                )
        normalised = [apply_norm(norm, y) for norm, y in zip(self.norms, inputs, strict=True)]
        return torch.cat(normalised, dim=-1)
