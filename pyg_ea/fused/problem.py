"""Inputs of a fused solve, common to its backends."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from pyg_ea.potentials.resnet import Composed


class Problem(NamedTuple):
    """Tensors that a solve of Listing 1 depends on, of one dtype but ``segment_index`` and, under
    autocast, ``fixed``.

    Their gradients are a ``Problem`` too, with None for the last two.
    """

    start: Tensor
    """``[S, D]``, y before the first step."""
    lr: Tensor
    """Step size, scalar like ``momentum`` and ``decay``, the weight of the L2 prior."""
    momentum: Tensor
    decay: Tensor
    fixed: Tensor
    r"""``[N, 3H+32]``, :math:`A_x x + a`. Matrix products run in its dtype."""
    a_y: Tensor
    b: Tensor
    w3: Tensor
    gamma1: Tensor
    beta1: Tensor
    gamma2: Tensor
    beta2: Tensor
    scale: Tensor
    """``[S]``, without a gradient."""
    segment_index: Tensor
    """``[N]``, int64: segment of each element."""

    @property
    def weights(self) -> Composed:
        """The potential's weights, the matrices in the dtype of products."""
        matrices = (matrix.to(self.fixed.dtype) for matrix in self[5:8])
        return Composed._make([*matrices, *self[8:12]])

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        """All but the last two."""
        return self[:-2]


class Settings(NamedTuple):
    """Constants of a solve."""

    steps: int
    gtol: float
    clip: float | None
    last: int
    """Number of last steps that are differentiated."""
    recompute: bool = False
    """Whether backward computes the activations again instead of saving them."""
