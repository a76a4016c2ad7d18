"""The auxiliary loss of equation (5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from pyg_ea.solver import Solution


def auxiliary_loss(
    solutions: Solution | Sequence[Solution], reading: Literal["final", "path"] = "final"
) -> Tensor:
    r"""How far the inner loops stopped from a minimum.

    For each :class:`~pyg_ea.solver.Solution`, with :math:`g_t` the gradient of step :math:`t` and
    the mean taken over non-empty segments,

    .. math::
        L_{\mathrm{final}} = \mathrm{mean}_s \, \tfrac{1}{D} \|g_{T,s}\|^2, \qquad
        L_{\mathrm{path}} = \mathrm{mean}_s \sum_{t=1}^{T} \tfrac{1}{D} \|g_{t,s}\|^2

    summed over solutions. The paper adds it to the task's loss with weight 1 for a global readout
    and :math:`10^{-4}` for local aggregation. Gather the solutions by :func:`collect_solutions`::

        with collect_solutions() as solutions:
            out = model(x, edge_index, batch)
        loss = task_loss(out, y) + 0.01 * auxiliary_loss(solutions)

    Args:
        solutions: solutions of one or more calls, from :func:`collect_solutions` or
            ``return_solution=True``.
        reading: ``"final"``, of the last gradient step, or ``"path"``, the sum over the steps that
            Listing 2 accumulates.

    Returns:
        A scalar; a solution without non-empty segments counts as 0.

    Raises:
        ValueError: when there is no solution, or ``reading`` is unknown.
        TypeError: when given anything but solutions.

    Warns:
        UserWarning: when gradients are enabled but a solution has no graph, so that its loss is a
            constant: its layer is frozen or was called under ``no_grad``, as
            ``checkpoint(..., use_reentrant=True)`` does.
    """
    if reading not in ("final", "path"):
        raise ValueError(f"reading must be 'final' or 'path', got {reading!r}")
    given = [solutions] if isinstance(solutions, Solution) else solutions
    if not isinstance(given, Sequence) or not all(isinstance(s, Solution) for s in given):
        raise TypeError(
            "auxiliary_loss takes solutions, got "
            f"{type(solutions).__name__}: call the model inside `with collect_solutions() as "
            "solutions:` and pass these"
        )
    if not given:
        raise ValueError(
            "there is no solution: call a model with an EAAggregation inside "
            "`with collect_solutions() as solutions:`"
        )
    if torch.is_grad_enabled() and not all(s.gradient_mean_square.requires_grad for s in given):
        warnings.warn(
            "the auxiliary loss of an EAAggregation is a constant, since the layer was called "
            "without a graph: call it with gradients enabled, and in activation checkpointing "
            "with use_reentrant=False",
            stacklevel=2,
        )
    return torch.stack([_loss(solution, reading) for solution in given]).sum()


def _loss(solution: Solution, reading: str) -> Tensor:
    final, path = solution.gradient_mean_square, solution.path_mean_square
    mean_square = final if reading == "final" else path
    occupied = solution.occupied
    return torch.where(occupied, mean_square, 0.0).sum() / occupied.sum().clamp(min=1)
