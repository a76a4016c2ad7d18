"""Readouts: from the nodes of each graph to one vector, by the name the command line knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr

from pyg_ea import EAAggregation


@dataclass(frozen=True)
class Readout:
    """How to build a readout: its aggregations (their outputs are concatenated) and their size."""

    parts: tuple[Callable[[int, Callable[[], EAAggregation]], nn.Module], ...]
    """Each takes (width, EA factory)."""
    multiple: int
    """Size of the output, in multiples of the width."""

    def build(self, width: int, ea: Callable[[], EAAggregation]) -> ConcatenatedReadout:
        """The module for node features of size ``width``; ``ea()`` makes the EA part, if any."""
        return ConcatenatedReadout([part(width, ea) for part in self.parts], self.multiple * width)


class ConcatenatedReadout(nn.Module):
    """Several aggregations side by side.

    Shapes:
        - **x:** :math:`(N, D)`; **batch:** :math:`(N)`, sorted
        - **size:** number of graphs :math:`S`
        - **output:** :math:`(S, \\text{out\\_channels})`
    """

    def __init__(self, parts: list[nn.Module], out_channels: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(parts)
        self.out_channels = out_channels

    def forward(self, x: Tensor, batch: Tensor, size: int) -> Tensor:
        """See the class."""
        return torch.cat([part(x, batch, dim_size=size) for part in self.parts], dim=-1)


def _gate(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


_SUM = lambda width, ea: aggr.SumAggregation()  # noqa: E731
_MEAN = lambda width, ea: aggr.MeanAggregation()  # noqa: E731
_MAX = lambda width, ea: aggr.MaxAggregation()  # noqa: E731
_EA = lambda width, ea: ea()  # noqa: E731

READOUTS: dict[str, Readout] = {
    "ea": Readout((_EA,), 1),
    "sum": Readout((_SUM,), 1),
    "mean": Readout((_MEAN,), 1),
    "max": Readout((_MAX,), 1),
    "median": Readout((lambda width, ea: aggr.MedianAggregation(),), 1),
    "softmax": Readout((lambda width, ea: aggr.SoftmaxAggregation(learn=True, channels=width),), 1),
    "attention": Readout((lambda width, ea: aggr.AttentionalAggregation(_gate(width)),), 1),
    "set2set": Readout((lambda width, ea: aggr.Set2Set(width, processing_steps=3),), 2),
    "multi": Readout((_MEAN, _SUM, _MAX), 3),
    "ea-multi": Readout((_EA, _MEAN, _SUM, _MAX), 4),
}
"""``--readout``. ``multi`` is mean, sum and max side by side; ``ea-multi`` puts EA beside them."""
