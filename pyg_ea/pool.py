"""Equilibrium Aggregation as a global readout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch_geometric.nn.inits import reset

from pyg_ea.aggregation import EAAggregation
from pyg_ea.checks import apply_norm, make_norm
from pyg_ea.diagnostics import Diagnostics
from pyg_ea.solver import STEPS, Solution


class EAGlobalPool(nn.Module):
    r"""One vector for each graph, by :class:`EAAggregation` over its nodes, and a norm behind it.

    Takes the place of ``global_add_pool`` and its like. Defaults are those that learned best on
    molecules (``docs/results.md``); :meth:`paper` has the paper's. Make ``out_channels`` three to
    six times ``in_channels``: a wide result helps and costs little.

    Args:
        in_channels: size of a node's features.
        out_channels: size of the graph's vector.
        hidden_channels: hidden width H of the potential; ``in_channels`` if not given. Run time
            grows with H².
        steps: solver steps. Run time is proportional to it.
        eval_steps: solver steps in eval mode; ``steps`` if not given.
        norm: makes a norm for the result, of its size; None for none. Without one EA barely
            learns, since y has no scale of its own. ``nn.BatchNorm1d`` keeps more of what tells
            large graphs from small ones than ``nn.LayerNorm`` (``docs/results.md``).
        settings: further arguments of :class:`EAAggregation`: ``potential``, ``prior``,
            ``solver``, ``adjoint``, ``scaling``, ``validate``.

    Shapes:
        - **x:** :math:`(*, N, D_x)`; leading dimensions are further, independent batches
        - **batch:** :math:`(N)`, the graph of each node, int64; none means one graph
        - **output:** :math:`(*, S, D_y)`, 0 for a graph without nodes

    Raises:
        ValueError, TypeError: as :class:`EAAggregation`; TypeError for another kind of ``norm``.

    Example:
        >>> pool = EAGlobalPool(64, 384)
        >>> pool(torch.randn(10, 64), torch.tensor([0] * 4 + [1] * 6)).shape
        torch.Size([2, 384])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        steps: int = STEPS,
        eval_steps: int | None = None,
        *,
        norm: Callable[[int], nn.Module] | None = nn.LayerNorm,
        **settings: Any,
    ) -> None:
        super().__init__()
        sizes = (in_channels, out_channels, hidden_channels)
        self.aggr = EAAggregation(*sizes, steps, eval_steps, **settings)
        self.norm = None if norm is None else make_norm(norm, self.aggr.out_channels)

    @classmethod
    def paper(cls, in_channels: int, out_channels: int, **settings: Any) -> EAGlobalPool:
        """The bare layer with the paper's settings: as wide as its result, 15 steps, no norm."""
        defaults: dict[str, Any] = {"steps": 15, "norm": None}
        if "potential" not in settings:
            defaults["hidden_channels"] = out_channels
        return cls(in_channels, out_channels, **{**defaults, **settings})

    @property
    def solution(self) -> Solution | None:
        """Solution of the last call, without a graph; None before the first."""
        return self.aggr.solution

    def reset_parameters(self) -> None:
        """Re-initialises all parameters."""
        self.aggr.reset_parameters()
        if self.norm is not None:
            reset(self.norm)

    def forward(self, x: Tensor, batch: Tensor | None = None, size: int | None = None) -> Tensor:
        """Pools the nodes of each graph.

        Args:
            x: node features ``[*, N, Dx]``.
            batch: graph of each node ``[N]``.
            size: number of graphs :math:`S`; ``batch.max() + 1`` if not given. Needed where the
                last graphs may have no nodes, and on a GPU, where reading it from ``batch`` makes
                the host wait.
        """
        y, solution = self.aggr(x, batch, dim_size=size, return_solution=True)
        if self.norm is None:
            return y
        normed = apply_norm(self.norm, y)
        return torch.where(solution.occupied.view(y.shape[:-1])[..., None], normed, 0.0)

    def diagnose(
        self, x: Tensor, batch: Tensor | None = None, size: int | None = None
    ) -> Diagnostics:
        """Runs the inner loop without a graph and reports on each graph."""
        return self.aggr.diagnose(x, batch, dim_size=size)
