"""Readouts: from the nodes of each graph to one vector, by the name the command line uses."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.common import UserError
from pyg_ea import (
    Adjoint,
    Checkpointed,
    EAAggregation,
    Implicit,
    L2Prior,
    NesterovSolver,
    NormedMultiAggregation,
    SumEAAggregation,
    Truncated,
    Unrolled,
)

if TYPE_CHECKING:
    from experiments.molpcba.config import Config


def build_ea(config: Config, in_channels: int, out_channels: int) -> EAAggregation:
    """Equilibrium Aggregation between vectors of these sizes, as configured."""
    return EAAggregation(in_channels, out_channels, **_ea_settings(config))


def build_local(config: Config, width: int) -> Aggregation | str:
    """The aggregation of neighbours, as configured."""
    if config.local == "sum+ea":
        return SumEAAggregation(width, **_ea_settings(config))
    return build_ea(config, width, width) if config.local == "ea" else "sum"


def _ea_settings(config: Config) -> dict[str, Any]:
    kind, _, last = config.adjoint.partition("-")
    adjoints: dict[str, Callable[[], Adjoint]] = {
        "unrolled": Unrolled,
        "checkpointed": Checkpointed,
        "implicit": Implicit,
        "truncated": lambda: Truncated(int(last)),
    }
    return {
        "hidden_channels": config.potential_width,
        "steps": config.steps,
        "eval_steps": config.eval_steps,
        "prior": L2Prior(config.regulariser),
        "solver": NesterovSolver(
            config.inner_lr, config.inner_momentum, config.inner_gtol, config.inner_clip
        ),
        "adjoint": adjoints[kind](),
    }


def _pyg_ea(config: Config, width: int, graph_sizes: Tensor) -> Aggregation:
    """PyG's own EA, without training its three biases that cannot get a gradient."""
    hidden = config.potential_width or width
    layer = aggr.EquilibriumAggregation(
        width, config.ea_width or width, [2 * hidden, hidden], grad_iter=config.steps
    )
    for linear in (layer.potential.layers[-1], *layer.potential.res_trans[-2:]):
        linear.bias.requires_grad_(False)
    return layer


def _attention(config: Config, width: int, graph_sizes: Tensor) -> Aggregation:
    gate = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    return aggr.AttentionalAggregation(gate)


def _set_transformer(config: Config, width: int, graph_sizes: Tensor) -> Aggregation:
    """Its pooling by attention, one seed; its encoder would be a further layer of the network."""
    return aggr.SetTransformerAggregation(
        width, num_seed_points=1, num_encoder_blocks=0, num_decoder_blocks=0, heads=gcd(width, 4)
    )


def _pna(config: Config, width: int, graph_sizes: Tensor) -> Aggregation:
    scalers = ["identity", "amplification", "attenuation"]
    degrees = graph_sizes.bincount()
    return aggr.DegreeScalerAggregation(["mean", "min", "max", "std"], scalers, deg=degrees)


class Part(NamedTuple):
    """One aggregation of a readout: its builder, from settings, node width and graph sizes, and the
    size of its output, in units of the node width or, if None, ``--ea-width``.
    """

    build: Callable[[Config, int, Tensor], Aggregation]
    size: int | None = 1


PARTS: dict[str, Part] = {
    "ea": Part(lambda c, width, _: build_ea(c, width, c.ea_width or width), size=None),
    "sum": Part(lambda c, width, _: aggr.SumAggregation()),
    "mean": Part(lambda c, width, _: aggr.MeanAggregation()),
    "max": Part(lambda c, width, _: aggr.MaxAggregation()),
    "median": Part(lambda c, width, _: aggr.MedianAggregation()),
    "softmax": Part(lambda c, width, _: aggr.SoftmaxAggregation(learn=True, channels=width)),
    "attention": Part(_attention),
    "set2set": Part(lambda c, width, _: aggr.Set2Set(width, processing_steps=3), size=2),
    "set-transformer": Part(_set_transformer),
    "pna": Part(_pna, size=12),
    "pyg-ea": Part(_pyg_ea, size=None),
}
"""``--readout`` is one of these names, or several joined by ``+``."""

ITERATIVE = ("ea", "pyg-ea")
"""Parts that take ``--steps``."""


def parts_of(readout: str) -> list[str]:
    """The parts in a readout's name: ``"ea+mean" -> ["ea", "mean"]``."""
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


def build_readout(config: Config, width: int, graph_sizes: Tensor | None) -> NormedMultiAggregation:
    """The readout that a resolved configuration names, for node features of that width.

    The norm behind each part decides whether EA learns, and it helps the others too: they all get
    the same. PNA's scalers are relative to the number of nodes of each training graph (None where
    a checkpoint holds their averages).
    """
    parts = [PARTS[name] for name in parts_of(config.readout)]
    nodes = torch.ones(1, dtype=torch.long) if graph_sizes is None else graph_sizes
    layers = [part.build(config, width, nodes) for part in parts]
    sizes = [config.ea_width or width if p.size is None else p.size * width for p in parts]
    norm = nn.LayerNorm if config.readout_norm == "layer" else nn.Identity
    return NormedMultiAggregation(layers, sizes, norm)
