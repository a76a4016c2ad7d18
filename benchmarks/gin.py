"""Whole model: GIN with 5 layers on random graphs of the size of molecules."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch_geometric.data import Batch, Data
from torch_geometric.nn import GINEConv

from benchmarks.workloads import SEED

ATOM_KINDS, BOND_KINDS, TASKS = 119, 5, 128
NODES, SPREAD, SMALLEST, LARGEST = 26.0, 6.0, 4, 60
RINGS = 3  # bonds beyond those of a tree: 28 bonds on 26 atoms
REACH = 3  # a tree's node hangs on one of the few before it, as in a chain with side groups


def molecules(graphs: int) -> Batch:
    """Returns a batch of connected random graphs with 26 nodes and 28 bonds on average."""
    generator = torch.Generator().manual_seed(SEED)
    sizes = NODES + SPREAD * torch.randn(graphs, generator=generator)
    counts = sizes.round().long().clamp(SMALLEST, LARGEST).tolist()
    return Batch.from_data_list([_molecule(n, generator) for n in counts])


def _molecule(nodes: int, generator: torch.Generator) -> Data:
    def integers(high: int, size: int) -> Tensor:
        return torch.randint(high, (size,), generator=generator)

    child = torch.arange(1, nodes)
    parent = (child - 1 - integers(REACH, nodes - 1)).clamp(min=0)
    one_end = integers(nodes, RINGS)
    other_end = (one_end + 2 + integers(4, RINGS)) % nodes
    bonds = torch.cat([torch.stack([child, parent]), torch.stack([one_end, other_end])], dim=1)
    kinds = integers(BOND_KINDS, bonds.shape[1])
    return Data(
        x=integers(ATOM_KINDS, nodes),
        edge_index=torch.cat([bonds, bonds.flip(0)], dim=1),
        edge_attr=torch.cat([kinds, kinds]),
        y=integers(2, TASKS).float()[None],
        num_nodes=nodes,
    )


class GIN(nn.Module):
    """Five GIN layers with bond features, batch norm and dropout, a readout and a linear head.

    Args:
        channels: width.
        readout: an aggregation ``readout(x, index, dim_size=) -> [S, channels]``.
        layers: number of message-passing layers.
        dropout: its rate.
    """

    def __init__(
        self, channels: int, readout: nn.Module, layers: int = 5, dropout: float = 0.5
    ) -> None:
        super().__init__()
        self.atoms = nn.Embedding(ATOM_KINDS, channels)
        self.bonds = nn.ModuleList(nn.Embedding(BOND_KINDS, channels) for _ in range(layers))
        self.convs = nn.ModuleList(GINEConv(_mlp(channels), train_eps=True) for _ in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(channels) for _ in range(layers))
        self.dropout = nn.Dropout(dropout)
        self.readout = readout
        self.head = nn.Linear(channels, TASKS)

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[S, 128]``."""
        x = self.atoms(batch.x)
        last = len(self.convs) - 1
        for layer, (bonds, conv, norm) in enumerate(
            zip(self.bonds, self.convs, self.norms, strict=True)
        ):
            x = norm(conv(x, batch.edge_index, bonds(batch.edge_attr)))
            x = self.dropout(x if layer == last else torch.relu(x))
        return self.head(self.readout(x, batch.batch, dim_size=batch.num_graphs))


def _mlp(channels: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(channels, 2 * channels),
        nn.BatchNorm1d(2 * channels),
        nn.ReLU(),
        nn.Linear(2 * channels, channels),
    )
