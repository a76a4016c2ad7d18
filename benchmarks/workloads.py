"""Workloads: sizes at which layers are compared."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

SEED = 0


@dataclass(frozen=True)
class Workload:
    """A batch of sets, made by a seeded generator.

    Args:
        name: as it stands in the records.
        elements: number of elements N.
        segments: number of sets S, of about equal size.
        channels: Dx = Dy = H.
        steps: solver steps T.
        rounds: times everything is measured.
        grouped: whether elements of a set lie side by side, as nodes of a batch do; edges do not.
    """

    name: str
    elements: int
    segments: int
    channels: int
    steps: int = 15
    rounds: int = 5
    grouped: bool = True

    def data(self) -> tuple[Tensor, Tensor]:
        """Returns normal elements ``[N, Dx]`` that require a gradient, and ``index [N]``."""
        generator = torch.Generator().manual_seed(SEED)
        x = torch.randn(self.elements, self.channels, generator=generator).requires_grad_()
        if self.grouped:
            return x, torch.arange(self.elements) * self.segments // self.elements
        return x, torch.randint(self.segments, (self.elements,), generator=generator)

    def small(self) -> Workload:
        """Returns a workload with a sixteenth of the sets and three steps, to see that it works."""
        return replace(
            self,
            elements=max(self.elements // 16, 26),
            segments=max(self.segments // 16, 1),
            channels=min(self.channels, 64),
            steps=3,
            rounds=2,
        )

    def warm_up(self) -> Workload:
        """Returns a batch of the same width that costs next to nothing."""
        return replace(self, elements=52, segments=min(self.segments, 2), steps=2)


READOUT_300 = Workload("readout-300", 256 * 26, 256, 300, rounds=3)
READOUT_64 = Workload("readout-64", 256 * 26, 256, 64)
LOCAL_100 = Workload("local-100", 14_000, 6_500, 100, grouped=False)
# The peers keep about 10 GiB for the backward pass of 15 steps at this size, so it has 5.
LARGE_128 = Workload("large-128", 100_000, 3_846, 128, steps=5, rounds=3)
ONE_GRAPH = Workload("one-graph", 26, 1, 300, rounds=15)
ONE_GRAPH_64 = Workload("one-graph-64", 26, 1, 64, rounds=15)
GRAPHS_32 = Workload("graphs-32", 32 * 26, 32, 64, steps=5, rounds=15)
GRAPHS_128 = Workload("graphs-128", 128 * 26, 128, 64, steps=5, rounds=9)
TINY_GRAPHS = Workload("tiny-graphs", 4_096 * 3, 4_096, 64)
# Products in bf16 are slower by an order of magnitude where the processor lacks them.
HALF_PRECISION = Workload("bf16-64", 64 * 26, 64, 64, steps=5)

WORKLOADS = {
    workload.name: workload
    for workload in [
        READOUT_64,
        READOUT_300,
        LOCAL_100,
        LARGE_128,
        ONE_GRAPH,
        ONE_GRAPH_64,
        GRAPHS_32,
        GRAPHS_128,
        TINY_GRAPHS,
        HALF_PRECISION,
    ]
}
