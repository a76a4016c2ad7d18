"""The aggregators under study, and the place of a norm beside them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch_geometric.nn import MLP, aggr

from pyg_ea import EAAggregation, NesterovSolver, SumEAAggregation
from pyg_ea.energy import NoPrior
from pyg_ea.potentials import QuantilePotential

STEPS = 5  # inner steps of EA and of PyG's EA
WIDE = 4  # size of the vector of wide EA in units of an element's


class Normed(aggr.Aggregation):
    """An aggregator with a LayerNorm: behind it if ``norm`` is ``"output"``, also before it if
    ``"both"``.
    """

    def __init__(self, aggregation: nn.Module, norm: str | None, inputs: int, outputs: int) -> None:
        super().__init__()
        self.aggregation = aggregation
        self.before = nn.LayerNorm(inputs) if norm == "both" else nn.Identity()
        self.behind = nn.LayerNorm(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor, *sets: Any, **more: Any) -> Tensor:
        """As any aggregation of PyG."""
        return self.behind(self.aggregation(self.before(x), *sets, **more))


def _ea(channels: int, widening: int = 1, share: int = 1) -> nn.Module:
    # gtol 0: the errors under study are below the default tolerance, which would stop y early.
    settings: dict[str, Any] = {"steps": STEPS, "solver": NesterovSolver(gtol=0.0)}
    return EAAggregation(channels, widening * channels, channels // share, **settings)


def _ea_quantile(channels: int) -> nn.Module:
    # The energy whose minimiser is a median is known, so nothing but the solver is learned here.
    # Of 100 values it is the mean of the middle two: the quantiles 0.495 and 0.505, whose energy is
    # not flat between these values, as the median's is.
    # log2(101) = 6.7 times the density at the median (1 to 5) is the curvature the step size meets.
    potential = QuantilePotential(([0.495, 0.505] * channels)[:channels], smoothing=0.01)
    solver = NesterovSolver(lr=0.04, momentum=0.6, gtol=0.0)
    return EAAggregation(
        channels, channels, steps=64, potential=potential, prior=NoPrior(), solver=solver
    )


AGGREGATORS: dict[str, Callable[[int], nn.Module]] = {
    "ea": _ea,
    # A wider vector under half the potential has about as many parameters.
    "ea_wide": partial(_ea, widening=WIDE, share=2),
    "ea_quantile": _ea_quantile,
    "sum_ea": SumEAAggregation,
    "sum": lambda channels: aggr.SumAggregation(),
    "mean": lambda channels: aggr.MeanAggregation(),
    "max": lambda channels: aggr.MaxAggregation(),
    "median": lambda channels: aggr.MedianAggregation(),
    "attention": lambda channels: aggr.AttentionalAggregation(nn.Linear(channels, channels)),
    "deepsets": lambda channels: aggr.DeepSetsAggregation(MLP([channels] * 3, norm=None)),
    "set2set": partial(aggr.Set2Set, processing_steps=4),
    "pma": partial(
        aggr.SetTransformerAggregation, num_encoder_blocks=0, num_decoder_blocks=0, heads=4
    ),
    # Without scalers: sets of the median have one size.
    "pna": lambda channels: aggr.MultiAggregation(["mean", "max", "min", "std"]),
    "pyg_ea": lambda channels: aggr.EquilibriumAggregation(
        channels, channels, num_layers=[2 * channels, channels], grad_iter=STEPS
    ),
    # PyG's default: elements attend to each other before they are pooled.
    "set_transformer": partial(aggr.SetTransformerAggregation, heads=4),
}
"""Made from the size of an element."""
# Size of the result over an element's, where it is not 1
WIDENING = {"ea_wide": WIDE, "set2set": 2, "pna": 4}
OF_SETS = [
    *("ea", "ea_wide", "sum", "mean", "max", "attention", "set2set", "pma", "pna", "pyg_ea"),
    "set_transformer",
]
