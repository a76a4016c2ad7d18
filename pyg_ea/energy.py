"""The energy whose minimiser is the output: scaling, prior and potentials put together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn.inits import reset

from pyg_ea.potentials.base import BoundPotential, gradient_in_y, is_unchanged
from pyg_ea.transforms import inverse_softplus, reshape_scalars, scalar_parameter, shown

Scaling = Callable[[Tensor], Tensor]  # counts n [S] (float) -> scales [S]


def log_scaling(count: Tensor) -> Tensor:
    r""":math:`\log_2(n + 1) / (n + 10^{-8})`, equation (C.1); 0 for an empty segment.

    Gradients grow with the logarithm of the set's size, so one step size suits all sizes while the
    result still depends on the size.
    """
    return torch.log2(count + 1) / (count + 1e-8)


def mean_scaling(count: Tensor) -> Tensor:
    r""":math:`1 / n`, 0 for an empty segment: the energy is a mean, blind to the set's size."""
    return (count > 0) / count.clamp(min=1)


def unit_scaling(count: Tensor) -> Tensor:
    """1: the energy is the plain sum; an empty segment is left to the prior."""
    return torch.ones_like(count)


class Prior(nn.Module):
    """Base class of priors R(y), the part of the energy that does not see the elements.

    Only :meth:`forward` is needed; any module or function with its signature serves as well.
    """

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Gives a subclass with its own forward alone the gradient of that, by autograd."""
        super().__init_subclass__(**keywords)
        if "forward" in vars(cls) and "gradient" not in vars(cls):
            cls.gradient = Prior.gradient  # type: ignore[method-assign]

    def forward(self, y: Tensor) -> Tensor:
        """``[S, Dy] -> [S]``."""
        raise NotImplementedError

    def gradient(self, y: Tensor) -> Tensor:
        """Gradient in y, by autograd unless overridden: ``[S, Dy] -> [S, Dy]``."""
        return gradient_in_y(self, y)

    def reset_parameters(self) -> None:
        """Re-initialises the layers inside; override it for parameters of its own."""
        for layer in self.children():
            reset(layer)


class L2Prior(Prior):
    r""":math:`R(y) = \mathrm{softplus}(\rho) \|y\|^2`, with trained :math:`\rho`.

    Args:
        weight: :math:`\mathrm{softplus}(\rho)` at the start, > 0 (the effective value, not rho).
        trainable: whether :math:`\rho` is trained.
    """

    def __init__(self, weight: float = 0.1, trainable: bool = True) -> None:
        super().__init__()
        if not weight > 0:
            raise ValueError(f"weight must be positive, got {weight}; use NoPrior() for none")
        self.initial_weight = weight
        self.raw_weight = scalar_parameter(trainable)
        self.register_load_state_dict_pre_hook(reshape_scalars)
        self.reset_parameters()

    @property
    def weight(self) -> Tensor:
        r"""The effective weight :math:`\mathrm{softplus}(\rho)`."""
        return F.softplus(self.raw_weight).squeeze()

    def reset_parameters(self) -> None:
        """Sets the weight back to its start."""
        nn.init.constant_(self.raw_weight, inverse_softplus(self.initial_weight))

    def forward(self, y: Tensor) -> Tensor:
        """``[S, Dy] -> [S]``."""
        return self.weight * y.square().sum(dim=-1)

    def gradient(self, y: Tensor) -> Tensor:
        r""":math:`2 \, \mathrm{softplus}(\rho) \, y`."""
        return 2 * self.weight * y

    def extra_repr(self) -> str:
        """Settings, for ``repr``."""
        return f"weight={shown(self.weight)}"


class NoPrior(Prior):
    """R(y) = 0."""

    def forward(self, y: Tensor) -> Tensor:
        """``[S, Dy] -> [S]``."""
        return y.new_zeros(y.shape[0])

    def gradient(self, y: Tensor) -> Tensor:
        """Zero."""
        return torch.zeros_like(y)


@dataclass(frozen=True)
class Energy:
    r"""The energy of every segment, (2) and (C.1) of the paper.

    .. math::
        E_s(y) = \mathrm{scale}(n_s) \Big( R(y_s) + \sum_{i \in s} F(x_i, y_s) \Big)

    One number a segment, and segments never mix: the energy of a set does not depend on what else
    is in the batch.

    Args:
        potential: the potentials with their elements fixed.
        prior: :math:`R`, ``[S, Dy] -> [S]``.
        scale: ``[S]``.
    """

    potential: BoundPotential
    prior: Callable[[Tensor], Tensor]
    scale: Tensor

    def value(self, y: Tensor) -> Tensor:
        """``[S, Dy] -> [S]``."""
        return self.scale * (self.prior(y) + self.potential.value(y))

    def gradient(self, y: Tensor) -> Tensor:
        """``[S, Dy] -> [S, Dy]``, differentiable where gradients are enabled."""
        if isinstance(self.prior, Prior) and is_unchanged(self.prior):
            prior = self.prior.gradient(y)
        else:
            prior = gradient_in_y(self.prior, y)
        return self.scale[:, None] * (prior + self.potential.gradient(y))
