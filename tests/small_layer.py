"""A small layer, networks with it, and their input, for tests of how layers are used."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pyg_ea import (
    EAAggregation,
    EAConv,
    EAGlobalPool,
    auxiliary_loss,
)

CHANNELS, OUT, NODES = 6, 4, 7
BATCH = torch.tensor([2, 0, 0, 3, 2, 0, 3])  # unsorted, graph 1 is empty
EDGES = torch.tensor([[0, 1, 2, 3, 4, 4, 0, 2, 1], [1, 0, 1, 1, 3, 0, 3, 0, 5]])
BACKENDS = ("native", "torch", "plain")
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def nodes(dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return 0.5 * torch.randn(NODES, CHANNELS, dtype=dtype, generator=generator)


def aggregation(channels: int = OUT, **settings: object) -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(CHANNELS, channels, 8, 4, **settings).double()


def sum_of_squares(y: Tensor) -> Tensor:
    return y.square().sum()


class Network(nn.Module):
    """EA in a convolution and as readout."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = EAConv(CHANNELS, CHANNELS)
        self.pool = EAGlobalPool(CHANNELS, OUT, steps=3)
        self.head = nn.Linear(OUT, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor | None) -> Tensor:
        return self.head(self.pool(self.conv(x, edge_index).relu(), batch))


class Readout(nn.Module):
    """EA as readout of one graph."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool = EAGlobalPool(CHANNELS, OUT, steps=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x)


def close(got: object, expected: object) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-8, atol=1e-10)


class OwnPotential(nn.Module):
    """A potential without a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(CHANNELS + OUT, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.second(torch.tanh(self.first(torch.cat([x, y], dim=-1)))).square().sum(dim=-1)


def with_own_potential() -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(CHANNELS, OUT, steps=4, potential=OwnPotential()).double()


def loss_of(layer: EAAggregation, x: Tensor) -> Tensor:
    return auxiliary_loss(layer(x, BATCH, return_solution=True)[1])
