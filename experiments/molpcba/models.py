"""The network: atoms and bonds in, one logit for each task out."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import Aggregation, global_add_pool

from experiments.molpcba.adjoints import build_adjoint
from experiments.molpcba.config import Config, known
from experiments.molpcba.convs import LAYERS
from experiments.molpcba.data.ogb_api import AtomEncoder
from experiments.molpcba.norms import BatchNorm
from experiments.molpcba.readouts import Site, build_readout
from pyg_ea import EAAggregation, L2Prior, NesterovSolver, NormedMultiAggregation


class MoleculeNetwork(nn.Module):
    """OGB's reference network: encoders, convolutions with BatchNorm, readout, linear head.

    Args:
        convs: the layers, each ``conv(x, edge_index, edge_attr)``.
        readout: from nodes to graphs.
        width: size of node features.
        num_tasks: number of outputs.
        dropout: after each layer.
        virtual_node: add a node that every atom of a graph talks to between layers.
        head_width: width of a hidden layer in the head; 0: the head is linear.

    Shapes:
        - **batch:** a PyG ``Batch`` with OGB's integer features ``x [N, 9]`` and
          ``edge_attr [E, 3]``
        - **output:** :math:`(S, \\text{num\\_tasks})`
    """

    def __init__(
        self,
        convs: list[nn.Module],
        readout: NormedMultiAggregation,
        width: int,
        num_tasks: int,
        dropout: float = 0.5,
        virtual_node: bool = False,
        head_width: int = 0,
    ) -> None:
        super().__init__()
        self.atom_encoder = AtomEncoder(width)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([BatchNorm(width) for _ in convs])
        self.virtual_node = VirtualNode(width, len(convs), dropout) if virtual_node else None
        self.readout = readout
        self.head = _head(readout.out_channels, head_width, num_tasks, dropout)
        self.dropout = dropout

    def forward(self, batch: Batch) -> Tensor:
        """Logits ``[S, num_tasks]``."""
        x = self.encode(batch)
        graphs = self.readout(x, batch.batch, dim_size=batch.num_graphs)
        return self.head(graphs)

    def encode(self, batch: Batch) -> Tensor:
        """Node features after the last layer: ``[N, width]``."""
        x = self.atom_encoder(batch.x)
        node = self.virtual_node
        virtual = None if node is None else node.start(batch.num_graphs)
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if node is not None and virtual is not None:
                x = x + virtual[batch.batch]
                if i < last:
                    virtual = node.update(i, virtual, x, batch)
            x = norm(conv(x, batch.edge_index, batch.edge_attr))
            x = F.dropout(x if i == last else torch.relu(x), self.dropout, self.training)
        return x


class VirtualNode(nn.Module):
    """OGB's virtual node: a vector for each graph, fed by all its atoms and added to each of them.

    Args:
        width: its size.
        layers: number of convolutions; it is updated between them.
        dropout: after each update.
    """

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(width))
        self.mlps = nn.ModuleList([_virtual_node_mlp(width) for _ in range(layers - 1)])
        self.dropout = dropout

    def start(self, num_graphs: int) -> Tensor:
        """``[S, width]``."""
        return self.embedding.expand(num_graphs, -1)

    def update(self, layer: int, virtual: Tensor, x: Tensor, batch: Batch) -> Tensor:
        """The vectors after convolution number ``layer``, whose input was ``x``: ``[S, width]``."""
        pooled = global_add_pool(x, batch.batch, batch.num_graphs) + virtual
        return F.dropout(self.mlps[layer](pooled), self.dropout, self.training)


def _virtual_node_mlp(width: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(width, 2 * width),
        BatchNorm(2 * width),
        nn.ReLU(),
        nn.Linear(2 * width, width),
        BatchNorm(width),
        nn.ReLU(),
    )


def _head(size: int, hidden: int, num_tasks: int, dropout: float) -> nn.Module:
    if not hidden:
        return nn.Linear(size, num_tasks)
    return nn.Sequential(
        nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, num_tasks)
    )


def build_network(
    config: Config, num_tasks: int, graph_sizes: Tensor | None = None
) -> MoleculeNetwork:
    """The network that a resolved configuration describes.

    Args:
        config: resolved.
        num_tasks: number of outputs.
        graph_sizes: number of atoms of each training molecule; None for a network whose state is
            then loaded.
    """
    width = known(config.width)
    ea_width = config.ea_width or width

    def ea() -> EAAggregation:
        return build_aggregation(config, width, ea_width)

    def local() -> str | Aggregation:
        return build_aggregation(config, width, width) if config.local == "ea" else "sum"

    site = Site(width, ea, ea_width, known(config.potential_width), config.steps, graph_sizes)
    return MoleculeNetwork(
        convs=[LAYERS[config.model](width, local()) for _ in range(known(config.layers))],
        readout=build_readout(config.readout, site, norm=config.readout_norm == "layer"),
        width=width,
        num_tasks=num_tasks,
        dropout=known(config.dropout),
        virtual_node=config.virtual_node,
        head_width=config.head_width,
    )


def build_aggregation(config: Config, in_channels: int, out_channels: int) -> EAAggregation:
    """Equilibrium Aggregation between vectors of these sizes, as configured."""
    return EAAggregation(
        in_channels,
        out_channels,
        config.potential_width,
        config.steps,
        config.eval_steps,
        prior=L2Prior(config.regulariser),
        solver=NesterovSolver(
            config.inner_lr, config.inner_momentum, config.inner_gtol, config.inner_clip
        ),
        adjoint=build_adjoint(config.adjoint),
    )
