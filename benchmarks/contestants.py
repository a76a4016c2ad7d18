"""Contestants: the layers that are compared. A new one is an entry in :data:`CONTESTANTS`."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import (
    DegreeScalerAggregation,
    EquilibriumAggregation,
    SumAggregation,
)

from benchmarks.workloads import SEED
from pyg_ea import Checkpointed, EAAggregation, Implicit, ResNetPotential, Truncated, Unrolled
from pyg_ea.adjoints import Adjoint

Build = Callable[[int, int], nn.Module]  # channels, steps -> layer


class ForwardOnly(nn.Module):
    """Hides a potential's closed form, so that its gradient comes from double autograd."""

    def __init__(self, potential: nn.Module) -> None:
        super().__init__()
        self.potential = potential

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, Dx], [N, Dy] -> [N]``."""
        return self.potential(x, y)


@dataclass(frozen=True)
class Contestant:
    """A way to aggregate.

    Args:
        name: name in the records.
        build: makes the layer from the number of channels and of solver steps.
        compiled: whether the layer goes through ``torch.compile``.
        autocast: dtype of products under autocast; none without it.
    """

    name: str
    build: Build
    compiled: bool = False
    autocast: torch.dtype | None = None

    def layer(self, channels: int, steps: int) -> nn.Module:
        """Builds the layer, with the same weights each time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(SEED)
            layer = self.build(channels, steps)
        if self.compiled:
            layer.compile()
        return layer

    def forward(self, layer: nn.Module, x: Tensor, index: Tensor, segments: int) -> Tensor:
        """``x [N, D], index [N] -> [S, D]`` in this contestant's precision."""
        device = x.device.type
        precision = torch.autocast(device, self.autocast) if self.autocast else nullcontext()
        with precision:
            return layer(x, index, dim_size=segments)


def _ours(adjoint: Callable[[], Adjoint]) -> Build:
    return lambda channels, steps: EAAggregation(channels, channels, steps=steps, adjoint=adjoint())


def _half_width(adjoint: Callable[[], Adjoint]) -> Build:
    """EA with half the hidden width: a step has a quarter of the multiply-adds."""
    return lambda channels, steps: EAAggregation(
        channels, channels, channels // 2, steps=steps, adjoint=adjoint()
    )


def _listing(channels: int, steps: int) -> nn.Module:
    potential = ForwardOnly(ResNetPotential(channels, channels, channels))
    return EAAggregation(channels, channels, steps=steps, potential=potential)


def _pyg(channels: int, steps: int) -> nn.Module:
    return EquilibriumAggregation(channels, channels, [2 * channels, channels], grad_iter=steps)


class PNA(nn.Module):
    """Mean, min, max and standard deviation, scaled by the size of the set, and a linear layer.

    The readout of "Principal Neighbourhood Aggregation" (arXiv 2004.05718), with PyG's classes.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        sizes = torch.zeros(61, dtype=torch.long)
        sizes[26] = 1  # the mean size of a molecule
        aggregations, scalers = ["mean", "min", "max", "std"], ["identity", "amplification"]
        scalers.append("attenuation")
        self.aggregation = DegreeScalerAggregation(aggregations, scalers, sizes)
        self.linear = nn.Linear(12 * channels, channels)

    def forward(self, x: Tensor, index: Tensor, dim_size: int) -> Tensor:
        """``[N, D], [N] -> [S, D]``."""
        return self.linear(self.aggregation(x, index, dim_size=dim_size))


LAST = 3  # steps that the truncated adjoint differentiates

CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in [
        Contestant("sum", lambda channels, steps: SumAggregation()),
        Contestant("pna", lambda channels, steps: PNA(channels)),
        Contestant("pyg", _pyg),
        Contestant("listing", _listing),
        Contestant("unrolled", _ours(Unrolled)),
        Contestant("checkpointed", _ours(Checkpointed)),
        Contestant(f"truncated-{LAST}", _ours(lambda: Truncated(LAST))),
        Contestant("truncated-1", _ours(lambda: Truncated(1))),
        Contestant("implicit", _ours(Implicit)),
        Contestant("half-width", _half_width(Unrolled)),
        Contestant("unrolled+compile", _ours(Unrolled), compiled=True),
        Contestant(f"truncated-{LAST}+compile", _ours(lambda: Truncated(LAST)), compiled=True),
        Contestant("unrolled+bf16", _ours(Unrolled), autocast=torch.bfloat16),
    ]
}

EXACT = ("unrolled", "unrolled+compile", "checkpointed")  # the exact gradient in float32
NARROWER = ("half-width",)  # a smaller potential, exact gradient
CHEAPER = (
    "truncated-1",
    f"truncated-{LAST}",
    f"truncated-{LAST}+compile",
    "implicit",
)  # a cheaper adjoint


def compiler_found() -> bool:
    """Whether a C++ compiler for ``torch.compile`` is installed."""
    return any(shutil.which(name) for name in ("g++", "clang++", "c++"))


def chosen(names: Iterable[str] | None) -> list[Contestant]:
    """Returns the contestants called ``names``, or all, that this machine can run."""
    contestants = [CONTESTANTS[name] for name in names or CONTESTANTS]
    if compiler_found():
        return contestants
    left = [contestant for contestant in contestants if not contestant.compiled]
    if len(left) < len(contestants):
        print("no C++ compiler found: compiled contestants are left out")
    return left
