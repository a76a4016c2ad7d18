"""The auxiliary loss of equation (5)."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from pyg_ea.aggregation import EAAggregation, layers_in


def auxiliary_loss(model: nn.Module, reading: Literal["final", "path"] = "final") -> Tensor:
    r"""How far the inner loops of ``model`` stopped from a minimum, from their last forward pass.

    For each :class:`EAAggregation` inside ``model`` (itself included), with :math:`g_t` the
    gradient of step :math:`t` and the mean taken over non-empty segments,

    .. math::
        L_{\mathrm{final}} = \mathrm{mean}_s \, \tfrac{1}{D} \|g_{T,s}\|^2, \qquad
        L_{\mathrm{path}} = \mathrm{mean}_s \sum_{t=1}^{T} \tfrac{1}{D} \|g_{t,s}\|^2

    summed over layers. The paper adds it to the task's loss with weight 1 for a global readout and
    :math:`10^{-4}` for local aggregation::

        loss = task_loss + 1.0 * auxiliary_loss(model.pool) + 1e-4 * auxiliary_loss(model.convs)

    Call it after the forward pass and before the next one: a layer used twice in one pass counts
    with its last use.

    Args:
        model: a module holding at least one ``EAAggregation`` that has been called.
        reading: ``"final"``, the norm of the last gradient step, or ``"path"``, the sum over the
            steps that Listing 2 accumulates.

    Returns:
        A scalar, 0 for a layer without non-empty segments.

    Raises:
        ValueError: when ``model`` holds no ``EAAggregation``, or ``reading`` is unknown.
        RuntimeError: when one of them has not been called yet.
    """
    if reading not in ("final", "path"):
        raise ValueError(f"reading must be 'final' or 'path', got {reading!r}")
    return torch.stack([_layer_loss(layer, reading) for layer in layers_in(model)]).sum()


def _layer_loss(layer: EAAggregation, reading: str) -> Tensor:
    solution = layer.solution
    norm = solution.final_norm if reading == "final" else solution.path_norm
    occupied = layer.occupied
    return torch.where(occupied, norm, 0.0).sum() / occupied.sum().clamp(min=1)
