"""The auxiliary loss of equation (5)."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from pyg_ea.aggregation import layers_in
from pyg_ea.solver import Solution


def auxiliary_loss(
    source: nn.Module | Solution | Sequence[Solution],
    reading: Literal["final", "path"] = "final",
) -> Tensor:
    r"""How far the inner loops of a model stopped from a minimum.

    For each :class:`Solution`, with :math:`g_t` the gradient of step :math:`t` and the mean taken
    over non-empty segments,

    .. math::
        L_{\mathrm{final}} = \mathrm{mean}_s \, \tfrac{1}{D} \|g_{T,s}\|^2, \qquad
        L_{\mathrm{path}} = \mathrm{mean}_s \sum_{t=1}^{T} \tfrac{1}{D} \|g_{t,s}\|^2

    summed over solutions. The paper adds it to the task's loss with weight 1 for a global readout
    and :math:`10^{-4}` for local aggregation::

        loss = task_loss + 1.0 * auxiliary_loss(model.pool) + 1e-4 * auxiliary_loss(model.convs)

    Args:
        source: a module that holds at least one ``EAAggregation``: the solutions of its last
            forward pass count, twice those of a layer that was called twice in it. Or solutions
            (``return_solution=True``).
        reading: ``"final"``, of the last gradient step, or ``"path"``, the sum over the steps that
            Listing 2 accumulates.

    Returns:
        A scalar; a solution without non-empty segments counts as 0.

    Raises:
        ValueError: when ``source`` holds no ``EAAggregation`` or solution, or ``reading`` is
            unknown.
        RuntimeError: when a layer has not been called yet.

    Warns:
        UserWarning: when a layer in training was called without a graph, so that its loss is a
            constant (under ``no_grad``, or in ``checkpoint(..., use_reentrant=True)``).
    """
    if reading not in ("final", "path"):
        raise ValueError(f"reading must be 'final' or 'path', got {reading!r}")
    if isinstance(source, Solution):
        solutions = [source]
    elif isinstance(source, nn.Module):
        solutions = _last_solutions(source)
    else:
        solutions = list(source)
    if not solutions:
        raise ValueError("no solution was given: pass at least one, or a module that was called")
    return torch.stack([_loss(solution, reading) for solution in solutions]).sum()


def _last_solutions(model: nn.Module) -> list[Solution]:
    """The solutions of the last forward pass of a model."""
    found = []
    for layer in layers_in(model):
        if not layer.solutions:
            raise RuntimeError("EAAggregation has no solution yet: call the layer first")
        found += layer.solutions
        trained = any(parameter.requires_grad for parameter in layer.parameters())
        constant = not any(s.gradient_mean_square.requires_grad for s in layer.solutions)
        if torch.is_grad_enabled() and layer.training and trained and constant:
            warnings.warn(
                "the auxiliary loss of an EAAggregation is a constant, since the layer was called "
                "without a graph: call it with gradients enabled, and in activation checkpointing "
                "with use_reentrant=False",
                stacklevel=3,
            )
    return found


def _loss(solution: Solution, reading: str) -> Tensor:
    if reading == "final":
        mean_square = solution.gradient_mean_square
    else:
        mean_square = solution.path_mean_square
    occupied = solution.occupied
    return torch.where(occupied, mean_square, 0.0).sum() / occupied.sum().clamp(min=1)
