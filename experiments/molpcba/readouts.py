"""Readouts: from the nodes of each graph to one vector, by the name the command line uses."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import partial
from inspect import signature
from math import gcd
from pkgutil import resolve_name
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr
from torch_geometric.nn.aggr import Aggregation

from experiments.common import UserError
from pyg_ea import EAAggregation

OWN = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""A user's readout: ``package.module:Name``."""


class Sizes(NamedTuple):
    """What a readout is built from."""

    width: int  # of a node
    out: int  # of the vector, where the readout leaves that open
    nodes: Tensor  # number of nodes of each training graph
    ea: dict[str, Any]  # settings of EAAggregation


def _pyg_ea(sizes: Sizes) -> Aggregation:
    """PyG's own EA, without training its three biases that cannot get a gradient."""
    hidden, steps = sizes.ea["hidden_channels"], sizes.ea["steps"]
    layer = aggr.EquilibriumAggregation(sizes.width, sizes.out, [2 * hidden, hidden], steps)
    for linear in (layer.potential.layers[-1], *layer.potential.res_trans[-2:]):
        linear.bias.requires_grad_(False)
    return layer


def _attention(sizes: Sizes) -> Aggregation:
    width = sizes.width
    gate = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1))
    return aggr.AttentionalAggregation(gate)


def _set_transformer(sizes: Sizes) -> Aggregation:
    """Its pooling by attention, one seed; its encoder would be a further layer of the network."""
    heads = gcd(sizes.width, 4)
    return aggr.SetTransformerAggregation(
        sizes.width, num_seed_points=1, num_encoder_blocks=0, num_decoder_blocks=0, heads=heads
    )


def _pna(sizes: Sizes) -> Aggregation:
    """Its scalers are relative to the number of nodes of the training graphs."""
    scalers = ["identity", "amplification", "attenuation"]
    degrees = sizes.nodes.bincount()
    return aggr.DegreeScalerAggregation(["mean", "min", "max", "std"], scalers, deg=degrees)


def _deep_sets(sizes: Sizes) -> Aggregation:
    """The sum over nodes of an MLP. Norm and head are the second network of Deep Sets."""
    first, second = nn.Linear(sizes.width, sizes.out), nn.Linear(sizes.out, sizes.out)
    return aggr.DeepSetsAggregation(nn.Sequential(first, nn.ReLU(), second))


class Part(NamedTuple):
    """How a part of a readout is built, whether it takes ``--steps`` and ``--ea-lr``, and whether
    its vector has ``--ea-width`` channels.
    """

    build: Callable[[Sizes], Aggregation]
    is_iterative: bool = False
    is_sized: bool = False


PARTS = {
    "ea": Part(lambda own: EAAggregation(own.width, own.out, **own.ea), True, True),
    "sum": Part(lambda own: aggr.SumAggregation()),
    "mean": Part(lambda own: aggr.MeanAggregation()),
    "max": Part(lambda own: aggr.MaxAggregation()),
    "attention": Part(_attention),
    "set2set": Part(lambda own: aggr.Set2Set(own.width, processing_steps=3)),
    "set-transformer": Part(_set_transformer),
    "pna": Part(_pna),
    "deepsets": Part(_deep_sets, is_sized=True),
    "pyg-ea": Part(_pyg_ea, True, True),
}
"""The names that ``--readout`` takes."""


def parts_of(readout: str) -> dict[str, Part]:
    """The parts in a readout's name, ``"ea+mean"`` for example, in order.

    Raises:
        UserError: if one is unknown or stands there twice.
    """
    names = readout.split("+")
    for name in names:
        if name not in PARTS and not OWN.fullmatch(name):
            raise UserError(
                f"--readout must be parts joined by '+', each one of {', '.join(PARTS)}, or "
                f"package.module:Name; got {readout!r}"
            )
    if len(set(names)) < len(names):
        raise UserError(f"--readout has a part more than once: {readout!r}")
    return {name: PARTS.get(name) or Part(partial(build_own, name)) for name in names}


def build_own(name: str, sizes: Sizes) -> Aggregation:
    """A user's readout ``package.module:Name``, built as ``Name(width)``.

    Raises:
        UserError: if there is no such class, or it is not built like that.
    """
    try:
        kind = resolve_name(name)
        if not issubclass(kind, Aggregation):
            raise TypeError("not a class derived from PyG's Aggregation")
        signature(kind).bind(sizes.width)
    except (ImportError, AttributeError, ValueError, TypeError) as error:
        raise UserError(
            f"--readout {name}: {error}; expected package.module:Name, the package installed or in "
            "this folder, of a class derived from PyG's Aggregation that is built with one "
            "argument, the size of a node"
        ) from error
    return kind(sizes.width)


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
            f"--readout {name}: expected a result [graphs, channels], got {[*y.shape]} for 2 graphs"
        )
    return y.shape[1]
