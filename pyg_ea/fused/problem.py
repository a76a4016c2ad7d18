"""Inputs of a fused solve, common to its backends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from torch import Tensor

from pyg_ea.potentials.closed_form import Weights
from pyg_ea.segments import Segments


class Scalars(NamedTuple):
    """Trained scalars of solver and prior, each ``[]``."""

    lr: Tensor
    momentum: Tensor
    prior_weight: Tensor
    """Weight of the L2 prior, 0 for none."""


class Inputs(NamedTuple):
    """Differentiable inputs of a solve. Their gradients have the same form."""

    start: Tensor
    """``[S, D]``, y before the first step."""
    scalars: Scalars
    fixed: Tensor
    r"""``[N, 3H+32]``, :math:`A_x x + a`. Matrix products run in its dtype."""
    weights: Weights

    @classmethod
    def unflatten(cls, tensors: Iterable[Tensor]) -> Inputs:
        """The inverse of :meth:`flatten`."""
        start, lr, momentum, prior_weight, fixed, *weights = tensors
        return cls(start, Scalars(lr, momentum, prior_weight), fixed, Weights(*weights))

    def flatten(self) -> tuple[Tensor, ...]:
        """All tensors in one tuple."""
        return (self.start, *self.scalars, self.fixed, *self.weights)


class Problem(NamedTuple):
    """All tensors that a solve of Listing 1 depends on.

    One dtype, except that ``inputs.fixed`` may have a lower precision (autocast).
    """

    inputs: Inputs
    scale: Tensor
    """``[S]``, without a gradient."""
    segments: Segments
    """Sorted: ``segments.ptr`` is known."""


class Settings(NamedTuple):
    """Constants of a solve."""

    steps: int
    gtol: float
    clip: float | None
    last: int
    """Number of last steps that are differentiated."""
    recompute: bool = False
    """Whether backward computes the activations again instead of saving them."""
