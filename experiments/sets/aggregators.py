"""The aggregators under study: a dict whose keys are the command line's choices.

Each entry builds a module for elements of size ``channels``. All sets of the study have the same
size, so PNA's degree scalers would be constants that the decoder's first layer absorbs: PNA is
here its set of four aggregators.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import nn
from torch_geometric.nn import aggr

from pyg_ea import EAAggregation, NesterovSolver, NoPrior, QuantilePotential

STEPS = 8  # inner steps of EA and of PyG's EA
READS = 4  # processing steps of Set2Set
HEADS = 4
WIDE = 4  # size of the vector of wide EA in units of an element's


class Entry(NamedTuple):
    """An aggregator: what makes it from the size of an element, and the size of its result in units
    of that.
    """

    build: Callable[[int], nn.Module]
    widening: int = 1


def _ea(channels: int, widening: int = 1, share: int = 1) -> nn.Module:
    # gtol 0: the errors under study are below the default tolerance, which would stop y early.
    solver = NesterovSolver(gtol=0.0)
    return EAAggregation(
        channels, widening * channels, channels // share, steps=STEPS, solver=solver
    )


def _ea_quantile(channels: int) -> nn.Module:
    # The energy whose minimiser is a median is known, so nothing but the solver is learned here.
    # Of 100 values it is the mean of the middle two: the quantiles 0.495 and 0.505, whose energy is
    # not flat between these values, as the median's is.
    # log2(101) = 6.7 times the density at the median (1 to 5) is the curvature the step size meets.
    return EAAggregation(
        channels,
        channels,
        steps=8 * STEPS,
        potential=QuantilePotential(([0.495, 0.505] * channels)[:channels], smoothing=0.01),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.04, momentum=0.6, gtol=0.0),
    )


AGGREGATORS: dict[str, Entry] = {
    "ea": Entry(_ea),
    # A wider vector under half the potential has about as many parameters.
    "ea_wide": Entry(partial(_ea, widening=WIDE, share=2), widening=WIDE),
    "ea_quantile": Entry(_ea_quantile),
    "sum": Entry(lambda channels: aggr.SumAggregation()),
    "mean": Entry(lambda channels: aggr.MeanAggregation()),
    "max": Entry(lambda channels: aggr.MaxAggregation()),
    "attention": Entry(lambda channels: aggr.AttentionalAggregation(nn.Linear(channels, channels))),
    "set2set": Entry(lambda channels: aggr.Set2Set(channels, READS), widening=2),
    "pma": Entry(
        lambda channels: aggr.SetTransformerAggregation(
            channels, num_encoder_blocks=0, num_decoder_blocks=0, heads=HEADS
        )
    ),
    "pna": Entry(lambda channels: aggr.MultiAggregation(["mean", "max", "min", "std"]), widening=4),
    "pyg_ea": Entry(
        lambda channels: aggr.EquilibriumAggregation(
            channels, channels, num_layers=[2 * channels, channels], grad_iter=STEPS
        )
    ),
    # PyG's default: elements attend to each other before they are pooled.
    "set_transformer": Entry(
        lambda channels: aggr.SetTransformerAggregation(channels, heads=HEADS)
    ),
}
