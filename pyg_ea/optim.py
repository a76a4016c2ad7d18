"""Parameter groups: EA's learning rate, and no weight decay on its step size and regulariser."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from pyg_ea.aggregation import EAAggregation
from pyg_ea.energy import L2Prior


def parameter_groups(model: nn.Module, ea_lr: float | None = None) -> list[dict[str, Any]]:
    """Parameter groups for an optimiser of ``torch.optim``::

        optimizer = torch.optim.AdamW(
            parameter_groups(model, ea_lr=1e-3), lr=1e-2, weight_decay=0.01
        )

    The solver evaluates the same potential at each of its steps, so a change of its weights acts
    many times. A learning rate that suits the rest of a network can be too high for EA. A scheduler
    scales all rates alike.

    The solver's step size and momentum and the weight of :class:`L2Prior` are stored as raw values,
    on which weight decay would act wrongly: it would pull the step size towards softplus(0) = 0.69,
    momentum towards sigmoid(0) = 0.5 and the weight towards 0.69. Their group has no weight decay.

    Args:
        model: a module with at least one :class:`EAAggregation`.
        ea_lr: learning rate of the parameters of potential, prior and solver. Default: the
            optimiser's.

    Returns:
        Up to three groups in this order. Empty ones are left out.

        1. the parameters outside of EA;
        2. those of potentials and priors, at ``ea_lr``;
        3. the raw step sizes, momenta and prior weights, at ``ea_lr``, with ``weight_decay`` 0.

        Each parameter is in one group, in the order of ``model.parameters()``.

    Raises:
        ValueError: when ``model`` has no ``EAAggregation``, or the rate is not positive.
    """
    if ea_lr is not None and not 0 < ea_lr < math.inf:
        raise ValueError(f"ea_lr must be positive, got {ea_lr}")
    layers = [module for module in model.modules() if isinstance(module, EAAggregation)]
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no EAAggregation")
    of_ea = {parameter for layer in layers for parameter in layer.parameters()}
    raw = {parameter for layer in layers for parameter in _raw_parameters(layer)}
    rate = {} if ea_lr is None else {"lr": ea_lr}
    everything = list(model.parameters())
    groups: list[dict[str, Any]] = [
        {"params": [p for p in everything if p not in of_ea]},
        {"params": [p for p in everything if p in of_ea and p not in raw], **rate},
        {"params": [p for p in everything if p in raw], **rate, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def _raw_parameters(layer: EAAggregation) -> list[nn.Parameter]:
    """Parameters whose effective value is their softplus or sigmoid."""
    prior = layer.prior
    return [*layer.solver.parameters(), *([prior.raw_weight] if isinstance(prior, L2Prior) else [])]
