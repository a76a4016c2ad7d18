"""One step of the solver as a function of tensors, and its derivative by hand."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pyg_ea.native import call, serves
from pyg_ea.second_order import backward_by_autograd

GRAIN = 2**15  # values for which another thread pays


class Step(NamedTuple):
    """Where a step leads, and what it tells of each segment."""

    y: Tensor
    """``[S, D]``"""
    momentum: Tensor
    """``[S, D]``, the velocity."""
    ahead: Tensor
    r"""``[S, D]``, the next look-ahead point, :math:`y + \mu m`."""
    norm: Tensor
    """``[S]``, mean square of the gradient."""
    largest: Tensor
    """``[S]``, its largest absolute entry, NaN where one is; without a derivative."""
    diverged: Tensor
    """``[S]``, bool: whether y is not finite."""


def step(
    y: Tensor,
    momentum: Tensor,
    g: Tensor,
    lr: Tensor,
    mu: Tensor,
    gtol: float,
    clip: float | None = None,
) -> Step:
    """The step of :class:`pyg_ea.solver.NesterovSolver` from ``y, momentum [S, D]`` with the
    gradient ``g [S, D]`` of the look-ahead point; ``lr``, ``mu``: scalars.

    By :class:`StepByHand` where the code in C serves, as :func:`plain_step` otherwise; the same
    values, to rounding.
    """
    tensors = y, momentum, g, lr, mu
    if clip is None and not torch.compiler.is_compiling() and serves(*tensors):
        return Step(*StepByHand.apply(*tensors, gtol))
    return plain_step(*tensors, gtol, clip)


def plain_step(
    y: Tensor,
    momentum: Tensor,
    g: Tensor,
    lr: Tensor,
    mu: Tensor,
    gtol: float,
    clip: float | None = None,
) -> Step:
    """The same in plain operations, differentiable at every order."""
    largest = _largest(g)  # [S]
    velocity = torch.addcmul(mu * momentum, lr, g, value=-1)  # [S, D]
    y = y + torch.where((largest >= gtol)[:, None], velocity, 0.0)
    if clip is not None:
        y = y.clamp(-clip, clip)
    return Step(
        y=y,
        momentum=velocity,
        ahead=torch.addcmul(y, mu, velocity),
        norm=g.square().mean(dim=1),
        largest=largest,
        diverged=~_largest(y).isfinite(),
    )


class StepByHand(torch.autograd.Function):
    r"""The same in C (``pyg_ea/native/step.h``), in one pass over memory, and so its derivative.

    For cotangents :math:`\bar y, \bar m, \bar l, \bar n` of the new y, velocity and look-ahead
    point and of the norm, with :math:`a` the mask of segments that move:

    .. math::
        \partial_y &= \bar y + \bar l, \qquad
        \bar v = \bar m + \mu \bar l + a \, \partial_y \\
        \partial_m &= \mu \bar v, \qquad
        \partial_g = \tfrac{2}{D} \bar n \, g - \eta \bar v \\
        \partial_\eta &= -\langle \bar v, g \rangle, \qquad
        \partial_\mu = \langle \bar v, m \rangle + \langle \bar l, m_{new} \rangle

    Where backward is to be differentiated again, it goes through :func:`plain_step` instead.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        y: Tensor,
        momentum: Tensor,
        g: Tensor,
        lr: Tensor,
        mu: Tensor,
        gtol: float,
    ) -> tuple[Tensor, ...]:
        """See :func:`step`."""
        y, momentum, g = y.contiguous(), momentum.contiguous(), g.contiguous()
        matrices = [torch.empty_like(y) for _ in range(3)]
        norm, largest = y.new_empty(len(y)), y.new_empty(len(y))
        diverged = torch.empty_like(norm, dtype=torch.bool)
        results = *matrices, norm, largest, diverged
        call("step", y.dtype, *_division(y), gtol, lr, mu, y, momentum, g, *results)
        ctx.mark_non_differentiable(largest, diverged)
        ctx.gtol = gtol  # type: ignore[attr-defined]
        ctx.save_for_backward(momentum, g, lr, mu, matrices[1], largest)
        return results

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """See the class."""
        momentum, g, lr, mu, velocity, largest = ctx.saved_tensors
        if torch.is_grad_enabled():

            def plain(
                y: Tensor, m: Tensor, g: Tensor, lr: Tensor, mu: Tensor
            ) -> tuple[Tensor, ...]:
                return plain_step(y, m, g, lr, mu, ctx.gtol)[:4]

            y = torch.zeros_like(g).requires_grad_()  # any: a step only adds to it
            inputs = y, momentum, g, lr, mu
            return *backward_by_autograd(plain, inputs, cotangents[:4]), None
        given = [cotangent.contiguous() for cotangent in cotangents[:4]]
        results = [torch.empty_like(g) for _ in range(3)]
        threads, *size = _division(g)
        sums = torch.zeros(threads, 2, dtype=torch.float64)
        kept = momentum, g, velocity, largest
        call("step_back", g.dtype, threads, *size, ctx.gtol, lr, mu, *kept, *given, *results, sums)
        return *results, *sums.sum(dim=0).to(g.dtype), None


def _division(y: Tensor) -> tuple[int, int, int]:
    """Threads, rows and columns of a call."""
    rows, columns = y.shape
    return min(torch.get_num_threads(), 1 + y.numel() // GRAIN), rows, columns


def _largest(rows: Tensor) -> Tensor:
    """Largest absolute entry of each row, NaN where one is; a constant: ``[S, D] -> [S]``."""
    return rows.detach().abs().amax(dim=1)
