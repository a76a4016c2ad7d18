"""Constrained scalars, stored as free parameters of one entry."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from pyg_ea.tensors import is_concrete


def inverse_softplus(value: float) -> float:
    """The argument at which softplus is ``value`` > 0."""
    return value + math.log(-math.expm1(-value))


def logit(value: float) -> float:
    """The argument at which the sigmoid is ``value`` in [0, 1)."""
    return math.log(value / (1 - value)) if value else -math.inf


def scalar_parameter(trainable: bool) -> nn.Parameter:
    """A parameter of one entry, not initialised. FSDP takes no parameter without a dimension."""
    return nn.Parameter(torch.empty(1), requires_grad=trainable)


def shown(scalar: Tensor) -> str:
    """A scalar for ``repr``, to three digits; its device where that holds no values."""
    return f"{scalar.item():.3g}" if is_concrete(scalar) else str(scalar.device)


def reshape_scalars(module: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Pre-hook of ``load_state_dict``: reads scalars saved without a dimension."""
    for name, parameter in module.named_parameters(recurse=False):
        saved = state_dict.get(prefix + name)
        if parameter.shape == (1,) and isinstance(saved, torch.Tensor) and saved.dim() == 0:
            state_dict[prefix + name] = saved.reshape(1)
