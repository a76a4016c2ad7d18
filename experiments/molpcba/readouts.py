"""Readouts: from the nodes of each graph to one vector, by the name the command line uses."""

from __future__ import annotations

from collections.abc import Callable
from math import gcd
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.common import UserError
from pyg_ea import (
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
    adjoints = {"unrolled": Unrolled, "checkpointed": Checkpointed, "implicit": Implicit}
    return {
        "hidden_channels": config.potential_width,
        "steps": config.steps,
        "eval_steps": config.eval_steps,
        "prior": L2Prior(config.regulariser),
        "solver": NesterovSolver(
            config.inner_lr, config.inner_momentum, config.inner_gtol, config.inner_clip
        ),
        "adjoint": Truncated(int(last)) if kind == "truncated" else adjoints[kind](),
    }


def _pyg_ea(config: Config, width: int, graph_sizes: Tensor) -> Aggregation:
    """PyG's own EA, without training its three biases that cannot get a gradient."""
    hidden = config.potential_width
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


def _deep_sets(config: Config, width: int, graph_sizes: Tensor) -> Aggregation:
    """The sum over nodes of an MLP. Norm and head are the second network of Deep Sets."""
    size = config.ea_width or width
    return aggr.DeepSetsAggregation(
        nn.Sequential(nn.Linear(width, size), nn.ReLU(), nn.Linear(size, size))
    )


PARTS: dict[str, Callable[[Config, int, Tensor], Aggregation]] = {
    "ea": lambda config, width, _: build_ea(config, width, config.ea_width or width),
    "sum": lambda config, width, _: aggr.SumAggregation(),
    "mean": lambda config, width, _: aggr.MeanAggregation(),
    "max": lambda config, width, _: aggr.MaxAggregation(),
    "attention": _attention,
    "set2set": lambda config, width, _: aggr.Set2Set(width, processing_steps=3),
    "set-transformer": _set_transformer,
    "pna": _pna,
    "deepsets": _deep_sets,
    "pyg-ea": _pyg_ea,
}
"""Builders, from settings, node width and graph sizes, by the names that ``--readout`` takes."""

ITERATIVE = ("ea", "pyg-ea")
"""Parts that take ``--steps`` and ``--ea-lr``."""
SIZED = (*ITERATIVE, "deepsets")
"""Parts whose output has ``--ea-width`` channels."""
SIZES = {"set2set": 2, "pna": 12}
"""Size of a part's output, in units of the node width, where it is not 1."""


def parts_of(readout: str) -> list[str]:
    """The parts in a readout's name: ``"ea+mean" -> ["ea", "mean"]``."""
    names = readout.split("+")
    if not set(names) <= PARTS.keys():
        raise UserError(
            f"--readout must be parts joined by '+', each one of {', '.join(PARTS)}; got "
            f"{readout!r}"
        )
    if len(set(names)) < len(names):
        raise UserError(f"--readout has a part more than once: {readout!r}")
    return names


def build_readout(config: Config, width: int, graph_sizes: Tensor | None) -> NormedMultiAggregation:
    """The readout that a resolved configuration names, for node features of that width.

    The norm behind each part decides whether EA learns, and it helps the others too: they all get
    the same. PNA's scalers are relative to the number of nodes of each training graph (None where
    a checkpoint holds their averages).
    """
    names = parts_of(config.readout)
    nodes = torch.ones(1, dtype=torch.long) if graph_sizes is None else graph_sizes
    layers = [PARTS[name](config, width, nodes) for name in names]
    sizes = [
        config.ea_width or width if name in SIZED else SIZES.get(name, 1) * width for name in names
    ]
    norm = nn.LayerNorm if config.readout_norm == "layer" else nn.Identity
    return NormedMultiAggregation(layers, sizes, norm)
