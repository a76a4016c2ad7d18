"""The inner solver (Listing 2). It sees only a gradient: no graph, no potential, no autograd."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyg_ea.tensors import is_concrete
from pyg_ea.transforms import inverse_softplus, logit, reshape_scalars, scalar_parameter, shown

Gradient = Callable[[Tensor], Tensor]  # y [S, D] -> dE/dy [S, D]

STEPS = 5  # solver steps of a layer by default; Listing 2 has 5
GROWTH = 10.0  # a gradient this many times the first one's size raises suspicion of divergence


class Solution(NamedTuple):
    """State of the solver for each segment; after the last step, its result.

    Gradients are those the steps were taken with, that is at the look-ahead point.
    """

    y: Tensor
    """``[S, D]``, the output."""
    velocity: Tensor
    """``[S, D]``"""
    gradient_mean_square: Tensor
    """``[S]``, mean over channels of the squared gradient of the last step."""
    path_mean_square: Tensor
    """``[S]``, the same summed over all steps."""
    first_gradient_max: Tensor
    """``[S]``, largest absolute entry of the first step's gradient."""
    gradient_max: Tensor
    """``[S]``, largest absolute entry of the last step's gradient."""
    steps: Tensor
    """``[S]``, int64. Steps in which y moved."""
    converged: Tensor
    """``[S]``, bool. Whether ``gradient_max`` is below ``gtol``, the rule that stops y."""
    diverged: Tensor
    """``[S]``, bool. Whether y is not finite or, on a CPU, the energy rose; see ``diagnose``."""
    occupied: Tensor
    """``[S]``, bool. Whether the segment is non-empty. Set by the layer; True until then."""

    @property
    def suspect(self) -> Tensor:
        """``[S]``, whether the gradient is not finite or grew tenfold since the first step.

        A start on flat ground does the same, so this only says where to look at the energy.
        """
        growth = torch.sub(self.gradient_max, self.first_gradient_max, alpha=GROWTH)
        calm = (growth <= 0) | self.converged  # neither where a gradient is NaN or infinite
        return self.diverged | ~calm

    @classmethod
    def at_rest(cls, y: Tensor) -> Solution:
        """The state before the first step: ``y [S, D]``, without velocity."""
        zeros, size = y.new_zeros, y.shape[:1]
        return cls(
            y=y,
            velocity=torch.zeros_like(y),
            gradient_mean_square=zeros(size),
            path_mean_square=zeros(size),
            first_gradient_max=zeros(size),
            gradient_max=zeros(size),
            steps=zeros(size, dtype=torch.long),
            converged=zeros(size, dtype=torch.bool),
            diverged=zeros(size, dtype=torch.bool),
            occupied=y.new_ones(size, dtype=torch.bool),
        )


DIFFERENTIABLE = ("y", "velocity", "gradient_mean_square", "path_mean_square")
"""Fields of :class:`Solution` that have a gradient."""


def nesterov_step(
    gradient: Gradient,
    state: Solution,
    lr: Tensor,
    mu: Tensor,
    gtol: float,
    clip: float | None,
) -> tuple[Solution, Tensor]:
    """One step of :class:`NesterovSolver` from ``state``, and the gradient it was taken with.

    Differentiable at every order; ``lr`` and ``mu`` are scalars.
    """
    g = gradient(torch.addcmul(state.y, mu, state.velocity))  # [S, D], at the look-ahead point
    largest = g.detach().abs().amax(dim=1)  # [S], NaN where an entry is
    velocity = torch.addcmul(mu * state.velocity, lr, g, value=-1)
    converged = largest < gtol  # not where it is NaN: y becomes NaN too
    y = state.y + torch.where(converged[:, None], 0.0, velocity)
    if clip is not None:
        y = y.clamp(-clip, clip)
    mean_square = g.square().mean(dim=1)
    first = state.first_gradient_max
    after = Solution(
        y=y,
        velocity=velocity,
        gradient_mean_square=mean_square,
        path_mean_square=state.path_mean_square + mean_square,
        first_gradient_max=torch.where(first > 0, first, largest),
        gradient_max=largest,
        steps=state.steps + ~converged,
        converged=converged,
        diverged=~y.detach().isfinite().all(dim=1),
        occupied=state.occupied,
    )
    return after, g


class NesterovSolver(nn.Module):
    r"""Gradient descent with Nesterov momentum, trained step size and momentum (Listing 2).

    From :math:`y = m = 0`, each step is

    .. math::
        g &= \nabla E(y + \mu m), \qquad a_s = [\max_d |g_{s,d}| \ge \mathrm{gtol}] \\
        m &\leftarrow \mu m - \eta g, \qquad y \leftarrow \mathrm{clip}(y + a \, m)

    with :math:`\eta = \mathrm{softplus}(\cdot)` and :math:`\mu = \mathrm{sigmoid}(\cdot)` of
    trained scalars. A segment below ``gtol`` keeps its y while its velocity goes on changing. On a
    quadratic of curvature :math:`L` the steps are stable for
    :math:`\eta L < (2 + 2\mu) / (1 + 2\mu)`, that is 1.36 at :math:`\mu = 0.9`.

    Args:
        lr: effective step size :math:`\eta` at the start, > 0.
        momentum: effective momentum :math:`\mu` at the start, in (0, 1); 0 (plain gradient
            descent) needs ``trainable=False``.
        gtol: tolerance on the largest gradient entry of a segment, >= 0; 0 never stops.
        clip: if given, y is clipped to ``[-clip, clip]`` after each step.
        trainable: whether step size and momentum are trained.
    """

    def __init__(
        self,
        lr: float = 0.125,
        momentum: float = 0.9,
        gtol: float = 1e-3,
        clip: float | None = None,
        trainable: bool = True,
    ) -> None:
        super().__init__()
        if not (lr > 0 and math.isfinite(lr)):
            raise ValueError(f"lr must be positive and finite, got {lr}")
        if not (0 < momentum < 1 or (momentum == 0 and not trainable)):
            raise ValueError(
                f"momentum must lie in (0, 1), got {momentum}; "
                "for plain gradient descent pass momentum=0 with trainable=False"
            )
        if not gtol >= 0:
            raise ValueError(f"gtol must be 0 or more, got {gtol}")
        if clip is not None and not clip > 0:
            raise ValueError(f"clip must be positive or None, got {clip}")
        self.initial_lr, self.initial_momentum = lr, momentum
        self.gtol, self.clip = gtol, clip
        self.raw_lr, self.raw_momentum = scalar_parameter(trainable), scalar_parameter(trainable)
        self.register_load_state_dict_pre_hook(reshape_scalars)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Sets step size and momentum back to their start."""
        nn.init.constant_(self.raw_lr, inverse_softplus(self.initial_lr))
        nn.init.constant_(self.raw_momentum, logit(self.initial_momentum))

    @property
    def lr(self) -> Tensor:
        """The effective step size."""
        return F.softplus(self.raw_lr).squeeze()

    @property
    def momentum(self) -> Tensor:
        """The effective momentum."""
        return torch.sigmoid(self.raw_momentum).squeeze()

    def run(
        self, gradient: Gradient, state: Solution, steps: int, may_stop: bool = True
    ) -> Solution:
        """Takes ``steps`` further steps; each costs one gradient.

        On a CPU without a graph it ends as soon as no segment would move again, for one gradient
        more, if it ``may_stop``. Elsewhere it always takes all steps: the test would make a GPU
        wait. The fused solve always takes all steps too; y is the same.
        """
        lr, mu = self.lr, self.momentum
        may_stop = may_stop and state.y.device.type == "cpu" and not torch.is_grad_enabled()
        for _ in range(steps):
            state, g = nesterov_step(gradient, state, lr, mu, self.gtol, self.clip)
            if not (may_stop and is_concrete(state.y)):
                continue
            if state.converged.all() and self._at_rest(gradient, g, state.y):
                break
        return state

    def _at_rest(self, gradient: Gradient, g: Tensor, y: Tensor) -> bool:
        r"""Whether segments that all stand still now will go on doing so.

        While y stands still the velocity tends to :math:`m = -\eta g / (1 - \mu)`, where
        :math:`m = \mu m - \eta g`. If the gradient there is below ``gtol`` too, so it is, to
        first order, at all look-ahead points on the way.
        """
        look_ahead = y - self.momentum * self.lr / (1 - self.momentum) * g
        return bool((gradient(look_ahead).abs() < self.gtol).all())

    def extra_repr(self) -> str:
        """Settings, for ``repr``."""
        clip = "" if self.clip is None else f", clip={self.clip}"
        return f"lr={shown(self.lr)}, momentum={shown(self.momentum)}, gtol={self.gtol}{clip}"
