"""Readouts: from the nodes of each graph to one vector, by the name the command line knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr

from experiments.molpcba.errors import UserError
from pyg_ea import EAAggregation


@dataclass(frozen=True)
class Part:
    """One aggregation of a readout."""

    build: Callable[[int, Callable[[], EAAggregation]], nn.Module]
    """Takes the width and a factory of EA."""
    multiple: int = 1
    """Size of its output, in multiples of the width."""


class Readout(nn.Module):
    """Aggregations side by side, each behind its own LayerNorm, concatenated.

    The norm decides whether EA learns, and it helps other aggregations too: they all get the same.

    Args:
        parts: pairs of an aggregation and the size of its output.
        norm: whether there are norms.

    Shapes:
        - **x:** :math:`(N, D)`; **batch:** :math:`(N)`, sorted
        - **size:** number of graphs :math:`S`
        - **output:** :math:`(S, \\text{out\\_channels})`
    """

    def __init__(self, parts: list[tuple[nn.Module, int]], norm: bool = True) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part for part, _ in parts)
        self.norms = nn.ModuleList(
            nn.LayerNorm(size) if norm else nn.Identity() for _, size in parts
        )
        self.out_channels = sum(size for _, size in parts)

    def forward(self, x: Tensor, batch: Tensor, size: int) -> Tensor:
        """See the class."""
        pooled = (part(x, batch, dim_size=size) for part in self.parts)
        return torch.cat([norm(y) for norm, y in zip(self.norms, pooled, strict=True)], dim=-1)


def _gate(width: int) -> nn.Module:
    return nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))


def _set_transformer(width: int) -> nn.Module:
    heads = 4 if width % 4 == 0 else 1
    return aggr.SetTransformerAggregation(width, num_seed_points=1, heads=heads)


PARTS: dict[str, Part] = {
    "ea": Part(lambda width, ea: ea()),
    "sum": Part(lambda width, ea: aggr.SumAggregation()),
    "mean": Part(lambda width, ea: aggr.MeanAggregation()),
    "max": Part(lambda width, ea: aggr.MaxAggregation()),
    "median": Part(lambda width, ea: aggr.MedianAggregation()),
    "softmax": Part(lambda width, ea: aggr.SoftmaxAggregation(learn=True, channels=width)),
    "attention": Part(lambda width, ea: aggr.AttentionalAggregation(_gate(width))),
    "set2set": Part(lambda width, ea: aggr.Set2Set(width, processing_steps=3), multiple=2),
    "set-transformer": Part(lambda width, ea: _set_transformer(width)),
}
"""``--readout`` is one of these names, or several joined by ``+``."""


def parts_of(readout: str) -> list[str]:
    """The parts that a readout's name stands for: ``"ea+mean" -> ["ea", "mean"]``.

    Raises:
        UserError: for an unknown or a repeated part.
    """
    names = readout.split("+")
    for name in names:
        if name not in PARTS:
            raise UserError(
                f"--readout must be parts joined by '+', each one of {', '.join(PARTS)}; "
                f"got {readout!r}"
            )
        if names.count(name) > 1:
            raise UserError(f"--readout has {name!r} more than once: {readout!r}")
    return names


def build_readout(
    readout: str, width: int, ea: Callable[[], EAAggregation], norm: bool = True
) -> Readout:
    """The readout of that name for nodes of size ``width``; ``ea()`` makes the EA part, if any."""
    parts = [PARTS[name] for name in parts_of(readout)]
    return Readout([(part.build(width, ea), part.multiple * width) for part in parts], norm)
