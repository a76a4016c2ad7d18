"""EAConv: message passing whose neighbours are aggregated by sum and EA."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch_geometric import EdgeIndex
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.inits import reset

from pyg_ea.checks import check_validate, pass_on_validate, positive_integer, reads_values
from pyg_ea.conv.edges import Edges
from pyg_ea.conv.forms import Form, make_form
from pyg_ea.conv.sum_ea import SumEAAggregation


class EAConv(MessagePassing):
    r"""Message passing with Equilibrium Aggregation beside the sum over neighbours.

    Try the sum alone first, ``aggr="sum"``. With tuned rates EA beside it raises the score of both
    forms, at three to four times the time. A wider network with the sum and as many parameters does
    not reach that in GIN form, and raises the score more in GCN form, at half the time
    (``docs/results.md``). EA as a readout is :class:`EAGlobalPool`.

    The messages into node :math:`i` are one set, and a node without neighbours receives 0:

    .. math::
        m_{ij} = w_{ij} \, \mathrm{ReLU}(\tilde x_j + e_{ij})

    with transformed nodes :math:`\tilde x`, encoded edge features :math:`e_{ij}` and weights
    :math:`w_{ij}` of the ``form``:

    - ``"gin"``: :class:`~pyg_ea.conv.GINForm`,
      :math:`\mathrm{MLP}((1 + \epsilon) x_i + \mathrm{aggr}_j(m_{ij}))`;
    - ``"gcn"``: :class:`~pyg_ea.conv.GCNForm`, messages weighted by degree, and a root term;
    - any module with the methods of :class:`.Form`.

    The aggregation is :class:`SumEAAggregation`, nearly the sum at the start. The paper has EA in
    the place of the sum, ``aggr=EAAggregation(channels, channels)``, from which no form gained. EA
    is from arXiv 2202.12795; the forms follow OGB's networks for molecules, arXiv 2005.00687. Run
    time is that of :class:`EAAggregation` with one element for each edge.

    Args:
        in_channels: size of the node features.
        out_channels: size of the output.
        form: see above. The size of a message, ``channels`` below, is ``in_channels`` in GIN form
            and ``out_channels`` in GCN form.
        aggr: aggregation of the messages, a PyG aggregation or a name that PyG resolves. Its result
            must have size ``channels``. Default: ``SumEAAggregation(channels)``; pass one of your
            own for other settings of EA.
        edge_dim: size of floating-point edge features. Short for
            ``edge_encoder=nn.Linear(edge_dim, channels)``.
        edge_encoder: module that maps ``edge_attr``, of any dtype, to ``[E, channels]``, for
            example OGB's ``BondEncoder(channels)``. It is not called for a graph without edges.
            Default: edges have no features.
        validate: whether to check that node numbers exist and that the values of ``adj_t`` are 1,
            and, in EA, the values of messages. Checking reads the data. Default: on for tensors in
            CPU memory, off on accelerators, where it would wait for the device. Other checks are
            always on.

    Shapes:
        - **x:** :math:`(N, D_{in})`, or a pair (sources, receivers) of a bipartite graph. Receivers
          may be None: they then have no root term, and ``size`` gives their number.
        - **edge_index:** :math:`(2, E)`, sources and receivers, integers in any order;
          ``torch_geometric.EdgeIndex``; or the transposed adjacency matrix ``adj_t``
          :math:`(N_{receivers}, N_{sources})`, a sparse tensor of torch or torch_sparse. Edge
          features are its values if they are :math:`(E, \cdot)`. Values :math:`(E)` must be 1:
          edges have no weights.
        - **edge_attr:** :math:`(E, \cdot)`, in the order of the edges
        - **size:** numbers of sources and receivers. Default: as in ``x``
        - **output:** :math:`(N_{receivers}, D_{out})`

    Raises:
        ValueError: for sizes, shapes or node numbers that do not fit, and for both ``edge_dim`` and
            ``edge_encoder``.
        TypeError: for a wrong type or dtype.

    Example:
        >>> conv = EAConv(16, 32, form="gin", edge_dim=4)
        >>> edge_index = torch.tensor([[0, 1, 2], [1, 0, 1]])
        >>> conv(torch.randn(3, 16), edge_index, torch.randn(3, 4)).shape
        torch.Size([3, 32])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        form: Literal["gin", "gcn"] | Form = "gin",
        aggr: str | list[str] | Aggregation | None = None,
        *,
        edge_dim: int | None = None,
        edge_encoder: nn.Module | None = None,
        validate: bool | None = None,
    ) -> None:
        in_channels = positive_integer("in_channels", in_channels)
        out_channels = positive_integer("out_channels", out_channels)
        around = make_form(form, in_channels, out_channels)
        super().__init__(aggr=SumEAAggregation(around.channels) if aggr is None else aggr)
        pass_on_validate(self, validate)
        if edge_dim is not None:
            if edge_encoder is not None:
                raise ValueError(
                    "edge_dim is short for edge_encoder=nn.Linear(edge_dim, channels): "
                    "pass one of the two"
                )
            edge_dim = positive_integer("edge_dim", edge_dim)
            edge_encoder = nn.Linear(edge_dim, around.channels)
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.form = around
        self.edge_dim = edge_dim
        self.edge_encoder = edge_encoder
        self.validate = check_validate(validate)

    def reset_parameters(self) -> None:
        """Re-initialises all parameters."""
        super().reset_parameters()
        reset(self.form)
        reset(self.edge_encoder)

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor | None],
        edge_index: Tensor | EdgeIndex | Any,
        edge_attr: Tensor | None = None,
        size: tuple[int | None, int | None] | None = None,
    ) -> Tensor:
        """One round of message passing; see the class for shapes."""
        source, target = x if isinstance(x, (tuple, list)) else (x, x)
        self._check_nodes(source, target)
        edges = self._edges(source, target, edge_index, size, isinstance(x, (tuple, list)))
        encoded = self._encoded(edges, edge_attr, source)

        sent = self.form.transform(source)
        received: Tensor | None = sent
        if target is not source:
            received = None if target is None else self.form.transform(target)
        norm = self.form.normalization(edges, sent.dtype)
        aggregated = self.propagate(
            edges.edge_index, x=(sent, received), edge=encoded, norm=norm, size=edges.size
        )
        expected = (edges.size[1], self.form.channels)
        if aggregated.shape != expected:
            raise ValueError(
                f"the aggregation {self.aggr_module} returned shape {list(aggregated.shape)}, but "
                f"{type(self.form).__name__} needs {list(expected)}: one vector of size "
                f"{self.form.channels} for each receiver"
            )
        return self.form.update(received, aggregated, norm)

    def _check_nodes(self, source: Tensor, target: Tensor | None) -> None:
        for part in (source,) if target is None or target is source else (source, target):
            if not isinstance(part, Tensor):
                raise TypeError(
                    "x must be a tensor [N, in_channels], or a pair of them for sources and "
                    f"receivers, got {type(part).__name__}"
                )
            if part.dim() != 2 or part.shape[1] != self.in_channels:
                raise ValueError(
                    f"x must have shape [N, in_channels={self.in_channels}], got {list(part.shape)}"
                )
            if not part.is_floating_point():
                raise TypeError(f"x must be a floating-point tensor, got {part.dtype}")

    def _edges(
        self,
        source: Tensor,
        target: Tensor | None,
        edge_index: Any,
        size: tuple[int | None, int | None] | None,
        is_bipartite: bool,
    ) -> Edges:
        """The edges, with the numbers of sources and receivers, once they fit together."""
        edges = Edges.read(edge_index)
        sources, receivers = source.shape[0], None if target is None else target.shape[0]
        for given in (size or (None, None), edges.size):
            receivers = given[1] if receivers is None else receivers
            # PyG may infer the size of an EdgeIndex from its largest node numbers: fewer is right.
            may_be_fewer = given is edges.size and isinstance(edge_index, EdgeIndex)
            ends = zip(("sources", "receivers"), given, (sources, receivers), strict=True)
            for name, said, number in ends:
                if said is None or number is None or (may_be_fewer and said < number):
                    continue
                if said != number:
                    raise ValueError(
                        f"edge_index or size says {said} {name}, but x has {number} of them"
                    )
        receivers = sources if receivers is None else receivers  # as PyG does
        edges = replace(edges, size=(sources, receivers), is_bipartite=is_bipartite)
        if reads_values(self.validate, edges.edge_index):
            edges.check_range()
            if edges.values is not None and edges.values.dim() == 1 and (edges.values != 1).any():
                raise ValueError(
                    "the values of adj_t must be 1, since edges have no weights; use "
                    "adj_t without values, or pass them as edge_attr with edge_dim=1"
                )
        return edges

    def _encoded(self, edges: Edges, edge_attr: Tensor | None, x: Tensor) -> Tensor | None:
        """Edge features as messages carry them, ``[E, channels]``."""
        if edge_attr is None and edges.values is not None and edges.values.dim() > 1:
            edge_attr = edges.values
        encoder, number = self.edge_encoder, edges.edge_index.shape[1]
        if encoder is None:
            if edge_attr is not None:
                raise ValueError(
                    f"edge_attr was given, shape {list(edge_attr.shape)}, but the layer has "
                    "neither edge_dim nor edge_encoder"
                )
            return None
        if edge_attr is None:
            raise ValueError("edge_attr is missing: the layer has edge_dim or edge_encoder")
        if edge_attr.shape[:1] != (number,):
            raise ValueError(
                f"edge_attr must have one row for each of the {number} edges, "
                f"got shape {list(edge_attr.shape)}"
            )
        if self.edge_dim is not None:
            self._check_features(edge_attr)
        elif not number:  # an encoder may refuse empty input
            return x.new_zeros(0, self.form.channels)
        encoded = encoder(edge_attr)
        expected = (number, self.form.channels)
        if encoded.shape != expected:
            raise ValueError(
                f"edge_encoder returned shape {list(encoded.shape)}, expected {list(expected)}: "
                f"one vector of the messages' size {self.form.channels} for each edge"
            )
        return encoded

    def _check_features(self, edge_attr: Tensor) -> None:
        if edge_attr.dim() != 2 or edge_attr.shape[1] != self.edge_dim:
            raise ValueError(
                f"edge_attr must have shape [E, edge_dim={self.edge_dim}], "
                f"got {list(edge_attr.shape)}"
            )
        if not edge_attr.is_floating_point():
            raise TypeError(
                f"edge_attr must be a floating-point tensor for edge_dim, got {edge_attr.dtype}; "
                "call edge_attr.float(), or embed categories by edge_encoder"
            )

    def message(
        self, x_j: Tensor, edge: Tensor | None, norm_i: Tensor | None, norm_j: Tensor | None
    ) -> Tensor:
        """The message of each edge: ``[E, channels]``."""
        message = torch.relu(x_j if edge is None else x_j + edge)
        return message if norm_i is None or norm_j is None else norm_i * norm_j * message

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, "
            f"form={type(self.form).__name__}, edge_encoder={self.edge_encoder}, "
            f"{self.aggr_module})"
        )
