"""Equilibrium Aggregation as a global readout."""

from __future__ import annotations

from torch import Tensor, nn

from pyg_ea.adjoints import Adjoint
from pyg_ea.aggregation import EAAggregation
from pyg_ea.energy import Scaling, log_scaling
from pyg_ea.solver import NesterovSolver


class EAGlobalPool(nn.Module):
    r"""One vector for each graph, by :class:`EAAggregation` over its nodes.

    Takes the place of ``global_add_pool`` and its like. A wide result helps and costs little, some
    three to six times ``hidden_channels``; so does a norm between it and the head
    (``torch.nn.LayerNorm(out_channels)``). The auxiliary loss (:func:`auxiliary_loss`) keeps the
    solver near a minimum.

    Args:
        in_channels: size of a node's features.
        out_channels: size of the graph's vector.
        hidden_channels: width of the potential, which the time goes with, squared;
            ``out_channels`` if not given.
        steps: solver steps.
        eval_steps: solver steps in eval mode; ``steps`` if not given.
        potential, prior, solver, adjoint, scaling: see :class:`EAAggregation`.

    Shapes:
        - **x:** :math:`(N, D_x)`
        - **batch:** :math:`(N)`, the graph of each node, int64; none means one graph
        - **output:** :math:`(S, D_y)`

    Example:
        >>> pool = EAGlobalPool(64, 384, hidden_channels=64, steps=5)
        >>> pool(torch.randn(10, 64), torch.tensor([0] * 4 + [1] * 6)).shape
        torch.Size([2, 384])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
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
        super().__init__()
        self.aggr = EAAggregation(
            in_channels,
            out_channels,
            hidden_channels,
            steps,
            eval_steps,
            potential=potential,
            prior=prior,
            solver=solver,
            adjoint=adjoint,
            scaling=scaling,
        )

    def reset_parameters(self) -> None:
        """Re-initialises all parameters."""
        self.aggr.reset_parameters()

    def forward(self, x: Tensor, batch: Tensor | None = None, size: int | None = None) -> Tensor:
        """Pools the nodes of each graph.

        Args:
            x: node features ``[N, Dx]``.
            batch: graph of each node ``[N]``.
            size: number of graphs :math:`S`; needed where the last graphs may have no nodes,
                otherwise ``batch.max() + 1``.
        """
        return self.aggr(x, batch, dim_size=size)
