"""Readouts: from the nodes of each graph to one vector, by the name the command line uses."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from math import gcd
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.common import UserError
from experiments.molpcba.config import Config, parts_of
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


def build_own(name: str, width: int) -> Aggregation:
    """A user's readout ``package.module:Name``, built as ``Name(width)``.

    Raises:
        UserError: if there is no such class, or it is not built like that.
    """
    module, _, own = name.partition(":")
    try:
        kind = getattr(import_module(module), own)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(
            f"--readout {name} cannot be imported ({error}): expected package.module:Name, the "
            "package installed or in this folder"
        ) from error
    if not isinstance(kind, type) or not issubclass(kind, Aggregation):
        raise UserError(f"--readout {name} must be a class derived from PyG's Aggregation")
    try:
        signature(kind).bind(width)
    except TypeError as error:
        raise UserError(
            f"--readout {name} is built with one argument, the size of a node: {error}"
        ) from error
    return kind(width)


@torch.no_grad()
def output_size(layer: Aggregation, name: str, width: int) -> int:
    """Number of channels of a readout's result, from two small graphs with nodes of that width.

    Raises:
        UserError: if the result is not one vector for each graph.
    """
    was_training = layer.training
    with torch.random.fork_rng(devices=[]):
        y = layer.eval()(torch.zeros(3, width), torch.tensor([0, 0, 1]), dim_size=2)
    layer.train(was_training)
    if y.dim() != 2 or len(y) != 2:
        raise UserError(
            f"--readout {name}: expected a result [graphs, channels], got {tuple(y.shape)} for 2 "
            "graphs"
        )
    return y.shape[1]


def build_readout(config: Config, width: int, graph_sizes: Tensor | None) -> NormedMultiAggregation:
    """The readout that a resolved configuration names, for node features of that width.

    The norm behind each part decides whether EA learns, and it helps the others too: they all get
    the same. PNA's scalers are relative to the number of nodes of each training graph (None where
    a checkpoint holds their averages). A class of the user's is built with the node width alone.
    """
    names = parts_of(config.readout)
    nodes = torch.ones(1, dtype=torch.long) if graph_sizes is None else graph_sizes
    layers = [
        PARTS[name](config, width, nodes) if name in PARTS else build_own(name, width)
        for name in names
    ]
    sizes = [output_size(layer, name, width) for layer, name in zip(layers, names, strict=True)]
    norm = nn.LayerNorm if config.readout_norm == "layer" else nn.Identity
    return NormedMultiAggregation(layers, sizes, norm)
