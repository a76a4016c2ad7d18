"""Readouts: from the nodes of each graph to one vector, by the name the command line knows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import gcd

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.molpcba.errors import UserError
from pyg_ea import EAAggregation, NormedMultiAggregation


@dataclass(frozen=True)
class Site:
    """Where a readout is built.

    Args:
        width: size of node features.
        ea: makes the layer of Equilibrium Aggregation.
        ea_width: size of its result, and of that of PyG's.
        potential_width: of PyG's EA, as of ours.
        steps: of PyG's EA, as of ours.
        graph_sizes: number of nodes of each training graph, which PNA's scalers are relative to;
            None where a checkpoint holds their averages.
    """

    width: int
    ea: Callable[[], EAAggregation]
    ea_width: int
    potential_width: int
    steps: int
    graph_sizes: Tensor | None = None


@dataclass(frozen=True)
class Part:
    """One aggregation of a readout."""

    build: Callable[[Site], Aggregation]
    size: Callable[[Site], int] = lambda site: site.width
    """Size of its output."""


class PyGEquilibriumAggregation(aggr.EquilibriumAggregation):
    """PyG's own EA, so that the trainer can use it: it bears inference mode, keeps no graph without
    gradients, and its three biases that cannot get a gradient are not trained.
    """

    def __init__(self, site: Site) -> None:
        layers = [2 * site.potential_width, site.potential_width]
        super().__init__(site.width, site.ea_width, layers, grad_iter=site.steps)
        for linear in (self.potential.layers[-1], *self.potential.res_trans[-2:]):
            linear.bias.requires_grad_(False)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
    ) -> Tensor:
        """As PyG's."""
        recording = torch.is_grad_enabled()
        with torch.inference_mode(False):
            index = None if index is None else index.clone()
            y = super().forward(x if recording else x.clone(), index, ptr, dim_size, dim)
        return y if recording else y.detach()


def _attention(site: Site) -> Aggregation:
    gate = nn.Sequential(nn.Linear(site.width, site.width), nn.ReLU(), nn.Linear(site.width, 1))
    return aggr.AttentionalAggregation(gate)


def _pooling_by_attention(site: Site) -> Aggregation:
    """Set Transformer's pooling, one seed; its encoder would be a further layer of the network."""
    heads = gcd(site.width, 4)
    return aggr.SetTransformerAggregation(
        site.width, num_seed_points=1, num_encoder_blocks=0, num_decoder_blocks=0, heads=heads
    )


def _pna(site: Site) -> Aggregation:
    sizes = torch.ones(1, dtype=torch.long) if site.graph_sizes is None else site.graph_sizes
    return aggr.DegreeScalerAggregation(
        ["mean", "min", "max", "std"],
        ["identity", "amplification", "attenuation"],
        deg=sizes.bincount(),
    )


PARTS: dict[str, Part] = {
    "ea": Part(lambda site: site.ea(), size=lambda site: site.ea_width),
    "sum": Part(lambda site: aggr.SumAggregation()),
    "mean": Part(lambda site: aggr.MeanAggregation()),
    "max": Part(lambda site: aggr.MaxAggregation()),
    "median": Part(lambda site: aggr.MedianAggregation()),
    "softmax": Part(lambda site: aggr.SoftmaxAggregation(learn=True, channels=site.width)),
    "attention": Part(_attention),
    "set2set": Part(
        lambda site: aggr.Set2Set(site.width, processing_steps=3), size=lambda site: 2 * site.width
    ),
    "set-transformer": Part(_pooling_by_attention),
    "pna": Part(_pna, size=lambda site: 12 * site.width),
    "pyg-ea": Part(PyGEquilibriumAggregation, size=lambda site: site.ea_width),
}
"""``--readout`` is one of these names, or several joined by ``+``."""

ITERATIVE = ("ea", "pyg-ea")
"""Parts that take ``--steps``."""


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


def build_readout(readout: str, site: Site, norm: bool = True) -> NormedMultiAggregation:
    """The readout of that name.

    The norm behind each part decides whether EA learns, and it helps the others too: they all get
    the same.
    """
    parts = [PARTS[name] for name in parts_of(readout)]
    return NormedMultiAggregation(
        [part.build(site) for part in parts],
        [part.size(site) for part in parts],
        nn.LayerNorm if norm else nn.Identity,
    )
