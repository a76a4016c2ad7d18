"""Equilibrium Aggregation of neighbours: message passing in GIN form and in GCN form."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol

import torch
from torch import Tensor, nn
from torch_geometric.nn.conv import MessagePassing
from torch_geometric.nn.inits import reset
from torch_geometric.utils import degree

from pyg_ea.adjoints import Adjoint
from pyg_ea.aggregation import EAAggregation
from pyg_ea.checks import positive_integer
from pyg_ea.energy import Scaling, log_scaling
from pyg_ea.solver import NesterovSolver


class Form(Protocol):
    """What surrounds the aggregation in a convolution."""

    channels: int
    """Size of a message."""

    def transform(self, x: Tensor) -> Tensor:
        """Node features before messages are sent: ``[N, Din] -> [N, channels]``."""

    def weight(self, edge_index: Tensor, num_nodes: int, dtype: torch.dtype) -> Tensor | None:
        """Factor of each message ``[E]``, or none."""

    def update(self, x: Tensor, aggregated: Tensor, edge_index: Tensor) -> Tensor:
        """The layer's output from transformed receivers and aggregates, both ``[N, channels]``."""


class GINForm(nn.Module):
    r""":math:`x_i' = \mathrm{MLP}\big((1 + \epsilon) x_i + \mathrm{EA}_j(\cdot)\big)`.

    Args:
        in_channels: size of the node features, which is that of the messages too.
        out_channels: size of the output.
        mlp: the network; default linear, ReLU, linear with ``out_channels`` hidden units.
    """

    def __init__(self, in_channels: int, out_channels: int, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.channels = in_channels
        self.mlp = mlp or nn.Sequential(
            nn.Linear(in_channels, out_channels), nn.ReLU(), nn.Linear(out_channels, out_channels)
        )
        self.eps = nn.Parameter(torch.zeros(()))

    def reset_parameters(self) -> None:
        """Re-initialises the network and sets epsilon to 0."""
        reset(self.mlp)
        nn.init.zeros_(self.eps)

    def transform(self, x: Tensor) -> Tensor:
        """See :meth:`Form.transform`."""
        return x

    def weight(self, edge_index: Tensor, num_nodes: int, dtype: torch.dtype) -> Tensor | None:
        """See :meth:`Form.weight`."""
        return None

    def update(self, x: Tensor, aggregated: Tensor, edge_index: Tensor) -> Tensor:
        """See :meth:`Form.update`."""
        return self.mlp((1 + self.eps) * x + aggregated)


class GCNForm(nn.Module):
    r""":math:`x_i' = \mathrm{EA}_j(\cdot) + \mathrm{ReLU}(W x_i + r) / d_i`, as OGB's GCN.

    Messages carry :math:`W x_j` and are weighted by :math:`1 / \sqrt{d_i d_j}`, degrees
    :math:`d` counting the node itself.

    Args:
        in_channels: size of the node features.
        out_channels: size of messages and output.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.channels = out_channels
        self.linear = nn.Linear(in_channels, out_channels)
        self.root = nn.Parameter(torch.empty(out_channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Re-initialises all parameters."""
        self.linear.reset_parameters()
        nn.init.normal_(self.root)

    def transform(self, x: Tensor) -> Tensor:
        """See :meth:`Form.transform`."""
        return self.linear(x)

    def weight(self, edge_index: Tensor, num_nodes: int, dtype: torch.dtype) -> Tensor | None:
        """See :meth:`Form.weight`."""
        source, target = edge_index
        scale = (degree(target, num_nodes, dtype) + 1).rsqrt()
        return scale[source] * scale[target]

    def update(self, x: Tensor, aggregated: Tensor, edge_index: Tensor) -> Tensor:
        """See :meth:`Form.update`."""
        d = degree(edge_index[1], x.shape[0], x.dtype) + 1
        return aggregated + torch.relu(x + self.root) / d[:, None]


FORMS: dict[str, Callable[[int, int], Form]] = {"gin": GINForm, "gcn": GCNForm}


def _form(form: str | Form, in_channels: int, out_channels: int) -> Form:
    if not isinstance(form, str):
        return form
    if form not in FORMS:
        raise ValueError(f"form must be one of {sorted(FORMS)} or a module, got {form!r}")
    return FORMS[form](in_channels, out_channels)


class EAConv(MessagePassing):
    r"""Message passing whose sum over neighbours is replaced by Equilibrium Aggregation.

    The messages :math:`w_{ij} \, \mathrm{ReLU}(\tilde x_j + E e_{ij})` into node :math:`i` are the
    elements of one set, bond features :math:`e_{ij}` included; a node without neighbours receives
    0. What stands around it is the ``form``:

    - ``"gin"``: :class:`GINForm`, :math:`\mathrm{MLP}((1 + \epsilon) x_i + \mathrm{EA}(\cdot))`;
    - ``"gcn"``: :class:`GCNForm`, degree-weighted messages and a root term;
    - any module with the methods of :class:`Form`.

    Args:
        in_channels: size of the node features.
        out_channels: size of the output.
        form: see above.
        edge_dim: size of the edge features; none if there are none. Embed categorical features
            first.
        hidden_channels: width of the potential; the size of a message if not given.
        steps: solver steps.
        eval_steps: solver steps in eval mode; ``steps`` if not given.
        potential, prior, solver, adjoint, scaling: see :class:`EAAggregation`.

    Shapes:
        - **x:** :math:`(N, D_{in})`; in GIN form also a pair (sources, receivers) of a bipartite
          graph
        - **edge_index:** :math:`(2, E)`, in any order
        - **edge_attr:** :math:`(E, \text{edge\_dim})`
        - **output:** :math:`(N, D_{out})`
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        form: Literal["gin", "gcn"] | Form = "gin",
        edge_dim: int | None = None,
        hidden_channels: int | None = None,
        steps: int = 15,
        eval_steps: int | None = None,
        *,
        potential: nn.Module | None = None,
        prior: nn.Module | None = None,
        solver: NesterovSolver | None = None,
        adjoint: Adjoint | None = None,
        scaling: Scaling = log_scaling,
    ) -> None:
        positive_integer("in_channels", in_channels)
        positive_integer("out_channels", out_channels)
        if edge_dim is not None:
            positive_integer("edge_dim", edge_dim)
        around = _form(form, in_channels, out_channels)
        super().__init__(
            aggr=EAAggregation(
                around.channels,
                around.channels,
                hidden_channels,
                steps,
                eval_steps,
                potential=potential,
                prior=prior,
                solver=solver,
                adjoint=adjoint,
                scaling=scaling,
            )
        )
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.form = around
        self.edge_dim = edge_dim
        self.edge_encoder = None if edge_dim is None else nn.Linear(edge_dim, around.channels)

    def reset_parameters(self) -> None:
        """Re-initialises all parameters."""
        super().reset_parameters()
        reset(self.form)
        if self.edge_encoder is not None:
            self.edge_encoder.reset_parameters()

    def forward(
        self,
        x: Tensor | tuple[Tensor, Tensor],
        edge_index: Tensor,
        edge_attr: Tensor | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """One round of message passing; see the class for shapes."""
        self._check(x, edge_index, edge_attr)
        edge = None if self.edge_encoder is None else self.edge_encoder(edge_attr)
        if isinstance(x, Tensor):
            source = target = self.form.transform(x)
        else:
            source, target = (self.form.transform(part) for part in x)
        weight = self.form.weight(edge_index, target.shape[0], target.dtype)
        pair = (source, target)
        aggregated = self.propagate(edge_index, x=pair, edge=edge, weight=weight, size=size)
        return self.form.update(target, aggregated, edge_index)

    def _check(
        self, x: Tensor | tuple[Tensor, Tensor], edge_index: Tensor, edge_attr: Tensor | None
    ) -> None:
        parts = (x, x) if isinstance(x, Tensor) else x
        for part in parts:
            if part.dim() != 2 or part.shape[1] != self.in_channels:
                raise ValueError(
                    f"x must have shape [N, in_channels={self.in_channels}], got {list(part.shape)}"
                )
        width = None if edge_attr is None else edge_attr.shape[-1]
        if width != self.edge_dim:
            got = "none" if edge_attr is None else f"shape {list(edge_attr.shape)}"
            raise ValueError(
                f"edge_attr must match edge_dim={self.edge_dim}: a matrix "
                f"[E, {self.edge_dim}], or none where edge_dim is None; got {got}"
            )
        if torch.compiler.is_compiling() or not edge_index.numel():
            return
        for name, ends, part in zip(("source", "target"), edge_index, parts, strict=True):
            if ends.min() < 0 or ends.max() >= part.shape[0]:
                raise ValueError(
                    f"edge_index names {name} nodes from {int(ends.min())} to {int(ends.max())}, "
                    f"but x has {part.shape[0]} of them"
                )

    def message(self, x_j: Tensor, edge: Tensor | None, weight: Tensor | None) -> Tensor:
        """The message of each edge: ``[E, channels]``."""
        message = torch.relu(x_j if edge is None else x_j + edge)
        return message if weight is None else weight[:, None] * message

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, "
            f"form={type(self.form).__name__}, edge_dim={self.edge_dim}, {self.aggr_module})"
        )
