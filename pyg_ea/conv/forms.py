"""Forms: what a convolution computes around its aggregation, as in GIN and in GCN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from pyg_ea.conv.edges import Edges
from pyg_ea.tensors import state_dtype
from pyg_ea.transforms import reshape_scalars

Normalization = tuple[Tensor, Tensor]
"""Factors of sources ``[N, 1]`` and of receivers ``[M, 1]``. A message is multiplied by both."""


class Form(Protocol):
    """The part of a convolution around its aggregation."""

    channels: int
    """Size of a message."""

    def transform(self, x: Tensor) -> Tensor:
        """Node features before messages are sent: ``[N, Din] -> [N, channels]``."""

    def normalization(self, edges: Edges, dtype: torch.dtype) -> Normalization | None:
        """Factors of the sources and of the receivers, or None for factors of 1."""

    def update(
        self, x: Tensor | None, aggregated: Tensor, normalization: Normalization | None
    ) -> Tensor:
        """The output of the layer.

        Args:
            x: transformed receivers ``[N, channels]``; None if they have no features.
            aggregated: aggregated messages ``[N, channels]``.
            normalization: the result of :meth:`normalization`.
        """


class GINForm(nn.Module):
    r""":math:`x_i' = \mathrm{MLP}\big((1 + \epsilon) x_i + \mathrm{aggr}_j(\cdot)\big)`.

    From "How Powerful are Graph Neural Networks?" (arXiv 1810.00826). OGB's network is
    ``mlp=nn.Sequential(Linear(D, 2 * D), BatchNorm1d(2 * D), ReLU(), Linear(2 * D, D))``.

    Args:
        in_channels: size of the node features and of the messages.
        out_channels: size of the output.
        mlp: the network, ``[N, in_channels] -> [N, out_channels]``. Default: linear, ReLU, linear
            with ``out_channels`` hidden units.
    """

    def __init__(self, in_channels: int, out_channels: int, mlp: nn.Module | None = None) -> None:
        super().__init__()
        self.channels = in_channels
        if mlp is None:
            mlp = nn.Sequential(
                nn.Linear(in_channels, out_channels),
                nn.ReLU(),
                nn.Linear(out_channels, out_channels),
            )
        self.mlp = mlp
        self.eps = nn.Parameter(torch.zeros(1))
        self.register_load_state_dict_pre_hook(reshape_scalars)

    def reset_parameters(self) -> None:
        """Re-initialises the network and sets epsilon to 0."""
        reset(self.mlp)
        nn.init.zeros_(self.eps)

    def transform(self, x: Tensor) -> Tensor:
        """See :meth:`Form.transform`."""
        return x

    def normalization(self, edges: Edges, dtype: torch.dtype) -> Normalization | None:
        """See :meth:`Form.normalization`."""
        return None

    def update(
        self, x: Tensor | None, aggregated: Tensor, normalization: Normalization | None
    ) -> Tensor:
        """See :meth:`Form.update`."""
        return self.mlp(aggregated if x is None else (1 + self.eps) * x + aggregated)


class GCNForm(nn.Module):
    r""":math:`x_i' = \mathrm{aggr}_j(\cdot) + \mathrm{ReLU}(W x_i + r) / d_i`, the GCN of OGB.

    A message carries :math:`W x_j` and is multiplied by :math:`1 / \sqrt{d_i d_j}`, where a degree
    :math:`d` is 1 + the number of edges into the node. For a pair (sources, receivers), :math:`d_j`
    is 1 + the number of edges out of source :math:`j`. Receivers without features have no root
    term.

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

    def normalization(self, edges: Edges, dtype: torch.dtype) -> Normalization | None:
        """See :meth:`Form.normalization`."""
        sources, receivers = edges.degrees(state_dtype(dtype))  # bf16 cannot count beyond 256
        return sources.rsqrt().to(dtype)[:, None], receivers.rsqrt().to(dtype)[:, None]

    def update(
        self, x: Tensor | None, aggregated: Tensor, normalization: Normalization | None
    ) -> Tensor:
        """See :meth:`Form.update`."""
        assert normalization is not None
        if x is None:
            return aggregated
        return aggregated + torch.relu(x + self.root) * normalization[1].square()


FORMS: dict[str, Callable[[int, int], Form]] = {"gin": GINForm, "gcn": GCNForm}


def make_form(form: str | Form, in_channels: int, out_channels: int) -> Form:
    """The form of that name, or ``form`` itself if it is a module.

    Raises:
        ValueError: for an unknown name.
    """
    if not isinstance(form, str):
        return form
    if form not in FORMS:
        raise ValueError(f"form must be one of {sorted(FORMS)} or a module, got {form!r}")
    return FORMS[form](in_channels, out_channels)
