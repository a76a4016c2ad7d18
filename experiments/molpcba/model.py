"""The network: atoms and bonds in, one output for each task."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import torch
from ogb.graphproppred.mol_encoder import AtomEncoder, BondEncoder
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Batch
from torch_geometric.nn import global_add_pool
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.resolver import aggregation_resolver

import pyg_ea
from experiments.molpcba.config import Config
from experiments.molpcba.parallel import BatchNorm
from experiments.molpcba.readouts import Sizes, output_size, parts_of
from pyg_ea import NormedMultiAggregation
from pyg_ea.conv import GINForm

NORMS: dict[str | None, Callable[[int], nn.Module]] = {
    "layer": nn.LayerNorm,
    "batch": BatchNorm,
    "none": nn.Identity,
    None: nn.Identity,
}
"""By the name that ``--readout-norm`` takes."""


class MoleculeNetwork(nn.Module):
    """OGB's reference network: encoders, convolutions with BatchNorm, readout, head.

    Args:
        config: resolved.
        num_tasks: number of outputs.
        graph_sizes: number of atoms of each training molecule; None for a network whose state is
            then loaded.
        real: whether labels are real values; the outputs are then in their units.

    Shapes:
        - **batch:** a PyG ``Batch`` with OGB's integer features ``x [N, 9]`` and
          ``edge_attr [E, 3]``
        - **output:** :math:`(S, \\text{num\\_tasks})`: logits, or values where labels are real
    """

    def __init__(
        self, config: Config, num_tasks: int, graph_sizes: Tensor | None = None, real: bool = False
    ) -> None:
        super().__init__()
        width, depth = config.width, config.layers
        self.dropout, self.real = config.dropout, real
        convs = [build_conv(config, width) for _ in range(depth)]
        readout = build_readout(config, width, graph_sizes)
        self.atom_encoder = AtomEncoder(width)
        self.convs = nn.ModuleList(convs)
        self.norms = nn.ModuleList([BatchNorm(width) for _ in convs])
        self.virtual_node = VirtualNode(width, depth, self.dropout) if config.virtual_node else None
        self.input_norm = nn.LayerNorm(width) if config.input_norm else nn.Identity()
        self.readout = readout
        self.head = build_head(config, readout.out_channels, num_tasks)
        self.offset: Tensor
        self.scale: Tensor
        if real:  # mean and standard deviation in the train part
            self.register_buffer("offset", torch.zeros(num_tasks))
            self.register_buffer("scale", torch.ones(num_tasks))

    def forward(self, batch: Batch) -> Tensor:
        """Outputs ``[S, num_tasks]``."""
        x = self.input_norm(self.encode(batch))
        outputs = self.head(self.readout(x, batch.batch, dim_size=batch.num_graphs))
        return outputs * self.scale + self.offset if self.real else outputs

    def encode(self, batch: Batch) -> Tensor:
        """Node features after the last layer: ``[N, width]``."""
        x = self.atom_encoder(batch.x)
        node = self.virtual_node
        virtual = None if node is None else node.embedding.expand(batch.num_graphs, -1)
        last = len(self.convs) - 1
        for i, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            if node is not None and virtual is not None:
                x = x + virtual[batch.batch]
                virtual = node(i, virtual, x, batch) if i < last else None
            x = norm(conv(x, batch.edge_index, batch.edge_attr))
            x = F.dropout(x if i == last else torch.relu(x), self.dropout, self.training)
        return x

    @property
    def num_parameters(self) -> int:
        """Number of the parameters that are trained."""
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def errors(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """The error of each label, 0 where it is missing: ``[S, tasks]``, float32 or wider."""
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        target = labels.nan_to_num(0.0).to(outputs.dtype)
        if self.real:
            errors = ((outputs - target) / self.scale.to(outputs.device)).square()
        else:
            errors = F.binary_cross_entropy_with_logits(outputs, target, reduction="none")
        return torch.where(labels.isnan(), 0.0, errors)

    def fit_scale(self, labels: Tensor) -> None:
        """Takes the units of the outputs from real-valued labels ``[G, tasks]``."""
        offset = labels.nanmean(dim=0)
        scale = (labels - offset).square().nanmean(dim=0).sqrt()
        self.offset.copy_(offset)
        self.scale.copy_(torch.where(scale > 0, scale, 1.0))


def ea_settings(config: Config) -> dict[str, Any]:
    """Arguments of :class:`EAAggregation` besides its sizes."""
    kind, _, last = config.adjoint.partition("-")
    adjoint = getattr(pyg_ea, kind.capitalize())  # Unrolled, Checkpointed, Implicit, Truncated
    start = config.inner_lr, config.inner_momentum
    return {
        "hidden_channels": config.potential_width,
        "steps": config.steps,
        "eval_steps": config.eval_steps,
        "prior": pyg_ea.L2Prior(config.regulariser),
        "solver": pyg_ea.NesterovSolver(*start, config.inner_gtol, config.inner_clip),
        "adjoint": adjoint(int(last)) if last else adjoint(),
    }


def build_conv(config: Config, width: int) -> pyg_ea.EAConv:
    """OGB's layer for molecules; the sum over neighbours may be EA."""
    aggr: Aggregation | str = "sum"
    if config.local == "sum+ea":
        aggr = pyg_ea.SumEAAggregation(width, **ea_settings(config))
    elif config.local == "ea":
        aggr = pyg_ea.EAAggregation(width, width, **ea_settings(config))
    if config.message_norm:
        aggr = NormedMessages(aggr, width)
    form: GINForm | Literal["gcn"] = "gcn"
    if config.model == "gin":
        form = GINForm(width, width, nn.Sequential(*_hidden(width), nn.Linear(2 * width, width)))
    return pyg_ea.EAConv(width, width, form, edge_encoder=BondEncoder(width), aggr=aggr)


def build_readout(config: Config, width: int, nodes: Tensor | None) -> NormedMultiAggregation:
    """The readout that a resolved configuration names, for node features of that width.

    The norm behind each part decides whether EA learns, and it helps the others too: they all get
    the same. ``nodes`` are the numbers of nodes of the training graphs, None where a checkpoint
    holds what depends on them.
    """
    nodes = torch.ones(1, dtype=torch.long) if nodes is None else nodes
    sizes = Sizes(width, config.ea_width or width, nodes, ea_settings(config))
    parts = parts_of(config.readout)
    layers = [part.build(sizes) for part in parts.values()]
    channels = [output_size(layer, name, width) for layer, name in zip(layers, parts, strict=True)]
    return NormedMultiAggregation(layers, channels, NORMS[config.readout_norm])


class NormedMessages(Aggregation):
    """An aggregation of elements behind a LayerNorm."""

    def __init__(self, aggr: Aggregation | str, width: int) -> None:
        super().__init__()
        self.norm, self.aggr = nn.LayerNorm(width), aggregation_resolver(aggr)

    def forward(self, x: Tensor, *given: Any, **named: Any) -> Tensor:
        """As any aggregation of PyG."""
        return self.aggr(self.norm(x), *given, **named)


class VirtualNode(nn.Module):
    """OGB's virtual node: a vector for each graph, computed from all its atoms and added to each;
    it is updated, with dropout, between the layers.
    """

    def __init__(self, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Parameter(torch.zeros(width))
        self.mlps = nn.ModuleList(
            nn.Sequential(*_hidden(width), nn.Linear(2 * width, width), BatchNorm(width), nn.ReLU())
            for _ in range(layers - 1)
        )
        self.dropout = dropout

    def forward(self, layer: int, virtual: Tensor, x: Tensor, batch: Batch) -> Tensor:
        """The vectors after convolution number ``layer``, whose input was ``x``: ``[S, width]``."""
        pooled = global_add_pool(x, batch.batch, batch.num_graphs) + virtual
        return F.dropout(self.mlps[layer](pooled), self.dropout, self.training)


def _hidden(width: int) -> list[nn.Module]:
    return [nn.Linear(width, 2 * width), BatchNorm(2 * width), nn.ReLU()]


def build_head(config: Config, size: int, num_tasks: int) -> nn.Module:
    """The layers behind a readout with that many channels."""
    if not config.head_width:
        return nn.Linear(size, num_tasks)
    hidden = [nn.Linear(size, config.head_width), nn.ReLU(), nn.Dropout(config.dropout)]
    head = nn.Sequential(*hidden, nn.Linear(config.head_width, num_tasks))
    return SkipHead(head, nn.Linear(size, num_tasks)) if config.head_skip else head


class SkipHead(nn.Module):
    """The sum of two modules' outputs: a head and a linear layer beside it."""

    def __init__(self, head: nn.Module, skip: nn.Module) -> None:
        super().__init__()
        self.head, self.skip = head, skip

    def forward(self, x: Tensor) -> Tensor:
        """``[S, size] -> [S, num_tasks]``."""
        return self.head(x) + self.skip(x)
