"""Equilibrium Aggregation at a learning rate of its own."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pyg_ea.aggregation import layers_in


def parameter_groups(model: nn.Module, ea_lr: float) -> list[dict[str, Any]]:
    """Groups for an optimiser of ``torch.optim``: EA's parameters at ``ea_lr``, the others at its
    own rate::

        optimizer = torch.optim.Adam(parameter_groups(model, ea_lr=1e-3), lr=1e-2)

    The solver runs through the same potential at each of its steps, so a change of its weights acts
    many times over: at a rate that suits the rest of a network EA can be learning far too fast. A
    scheduler scales both rates alike.

    Args:
        model: a module holding at least one :class:`EAAggregation`.
        ea_lr: learning rate of the parameters of potential, prior and solver.

    Returns:
        The other parameters, if there are any, and those of EA, each parameter once and in the
        order of ``model.parameters()``.

    Raises:
        ValueError: when ``model`` holds no ``EAAggregation``, or the rate is not positive.
    """
    if not 0 < ea_lr < math.inf:
        raise ValueError(f"ea_lr must be positive, got {ea_lr}")
    of_ea = {parameter for layer in layers_in(model) for parameter in layer.parameters()}
    others = [p for p in model.parameters() if p not in of_ea]
    ours = [p for p in model.parameters() if p in of_ea]
    groups: list[dict[str, Any]] = [{"params": others}] if others else []
    return [*groups, {"params": ours, "lr": ea_lr}]
