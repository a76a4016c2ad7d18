"""OGB's reference layers for molecules, with the aggregation of neighbours left open."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn import Aggregation, MessagePassing
from torch_geometric.utils import degree

from experiments.molpcba.data.ogb import BondEncoder
from experiments.molpcba.parallel import BatchNorm


class GINLayer(MessagePassing):
    r""":math:`x_i' = \mathrm{MLP}((1 + \epsilon) x_i + \mathrm{aggr}_j\, m_{ij})`,
    messages :math:`m_{ij} = \mathrm{ReLU}(x_j + e_{ij})`.

    Args:
        width: size of node features, messages and output.
        aggr: aggregation of the messages, a name that PyG knows or a module; OGB's is ``"sum"``.

    Shapes:
        - **x:** :math:`(N, D)`; **edge_index:** :math:`(2, E)`
        - **edge_attr:** :math:`(E, 3)`, int64, OGB's bond features
        - **output:** :math:`(N, D)`
    """

    def __init__(self, width: int, aggr: str | Aggregation = "sum") -> None:
        super().__init__(aggr=aggr)
        self.mlp = nn.Sequential(
            nn.Linear(width, 2 * width),
            BatchNorm(2 * width),
            nn.ReLU(),
            nn.Linear(2 * width, width),
        )
        self.eps = nn.Parameter(torch.zeros(1))
        self.bond_encoder = BondEncoder(width)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """See the class."""
        edge = self.bond_encoder(edge_attr) if len(edge_attr) else x.new_zeros(0, x.shape[1])
        return self.mlp((1 + self.eps) * x + self.propagate(edge_index, x=x, edge=edge))

    def message(self, x_j: Tensor, edge: Tensor) -> Tensor:
        """``[E, D]``."""
        return torch.relu(x_j + edge)


class GCNLayer(MessagePassing):
    r""":math:`x_i' = \mathrm{aggr}_j\, m_{ij} + \mathrm{ReLU}(W x_i + r) / d_i`,
    messages :math:`m_{ij} = \mathrm{ReLU}(W x_j + e_{ij}) / \sqrt{d_i d_j}`.

    Degrees :math:`d` count the node itself; :math:`r` is trained. Arguments and shapes are those of
    :class:`GINLayer`.
    """

    def __init__(self, width: int, aggr: str | Aggregation = "sum") -> None:
        super().__init__(aggr=aggr)
        self.linear = nn.Linear(width, width)
        self.root = nn.Embedding(1, width)
        self.bond_encoder = BondEncoder(width)

    def forward(self, x: Tensor, edge_index: Tensor, edge_attr: Tensor) -> Tensor:
        """See :class:`GINLayer`."""
        x = self.linear(x)
        edge = self.bond_encoder(edge_attr) if len(edge_attr) else x.new_zeros(0, x.shape[1])
        source, target = edge_index
        d = degree(source, x.shape[0], x.dtype) + 1
        norm = (d[source] * d[target]).rsqrt()
        aggregated = self.propagate(edge_index, x=x, edge=edge, norm=norm)
        return aggregated + torch.relu(x + self.root.weight) / d[:, None]

    def message(self, x_j: Tensor, edge: Tensor, norm: Tensor) -> Tensor:
        """``[E, D]``."""
        return norm[:, None] * torch.relu(x_j + edge)


LAYERS: dict[str, Any] = {"gin": GINLayer, "gcn": GCNLayer}
"""``--model``: what builds a layer from (width, aggregation)."""
