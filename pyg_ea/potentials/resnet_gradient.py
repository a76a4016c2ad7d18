r"""The inner gradient of Listing 1 as a function of tensors, and its derivative by hand.

Notation and formula are those of :class:`pyg_ea.potentials.resnet.BoundResNet`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from pyg_ea.potentials.collector import Collected, Collector, collect
from pyg_ea.potentials.native_passes import passes_for
from pyg_ea.potentials.resnet_passes import OUTPUTS, FromSegments, Kept, Weights
from pyg_ea.potentials.tanh_norm import TanhNorm
from pyg_ea.second_order import backward_by_autograd
from pyg_ea.segments import Segments


def gradient_in_y(
    y: Tensor,
    fixed: Tensor,
    index: Tensor,
    num_segments: int,
    weights: Weights,
    collected: Collected | None = None,
) -> Tensor:
    """The gradient by the code that fits the occasion; same values either way.

    By hand (:class:`GradientByHand`) in eager mode, in plain operations where torch.compile fuses
    them anyway and under autocast. Steps that share ``collected`` add up their gradients of
    ``fixed`` there.

    Shapes:
        - **y:** :math:`(S, D_y)`; **fixed:** :math:`(N, 3H + 32)`, that is :math:`A_x x + a`
        - **output:** :math:`(S, D_y)`
    """
    by_hand = (
        not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(y.device.type)
        and all(tensor.dtype == y.dtype for tensor in (fixed, *weights))
    )
    if not by_hand:
        return plain_gradient_in_y(y, fixed, index, num_segments, weights)
    if torch.is_grad_enabled():
        token, collector = collected or collect(fixed)
        return GradientByHand.apply(y, fixed, token, collector, index, num_segments, *weights)
    from_y = FromSegments.of(y, weights)
    total = passes_for(fixed).forth(from_y, fixed, index, weights, None)
    return total @ weights.a_y


def plain_gradient_in_y(
    y: Tensor, fixed: Tensor, index: Tensor, num_segments: int, weights: Weights
) -> Tensor:
    """The formula in plain operations, differentiable at every order; see above for shapes."""
    segments = Segments(index, num_segments)
    output, pull1, pull2 = forward(y, fixed, segments, weights)
    d3 = output * (2 / OUTPUTS)  # [N, 32]
    d2 = pull2(F.linear(d3, weights.w3.T))  # [N, H]
    d1 = pull1(F.linear(torch.cat([d2, d3], dim=1), weights.b.T))  # [N, 2H]
    total = segments.sum(torch.cat([d1, d2, d3], dim=1))  # [S, 3H+32]
    gradient = F.linear(total.to(weights.a_y.dtype), weights.a_y.T)  # [S, Dy]
    return gradient.to(total.dtype)


def forward(
    y: Tensor, fixed: Tensor, segments: Segments, weights: Weights
) -> tuple[Tensor, TanhNorm, TanhNorm]:
    """The last layer's output ``[N, 32]`` and the two stages before it."""
    from_y = F.linear(y.to(weights.a_y.dtype), weights.a_y)  # [S, 3H+32]
    u = fixed + segments.gather(from_y)  # [N, 3H+32]
    u1, u2, u3 = u.split(weights.widths, dim=1)
    stage1 = TanhNorm(u1, weights.gamma1, weights.beta1)
    t1 = stage1.output.to(u.dtype)  # [N, 2H]
    v2, v3 = F.linear(t1, weights.b).split(weights.widths[1:], dim=1)  # [N, H], [N, 32]
    stage2 = TanhNorm(u2 + v2, weights.gamma2, weights.beta2)
    output = u3 + v3 + F.linear(stage2.output.to(u.dtype), weights.w3)  # [N, 32]
    return output, stage1, stage2


class GradientByHand(torch.autograd.Function):
    r"""The same gradient :math:`G(y)`, with its derivative by hand: less time, less memory.

    For a cotangent :math:`\dot y` of :math:`G`,
    :math:`\langle \dot y, G \rangle = \tfrac{2}{32} \sum_i \langle o_i, \dot o_i \rangle` with
    :math:`\dot o` the derivative of :math:`o` along :math:`\dot y`. So backward runs the network
    forward once more, for tangents (dotted), and then backward through values and tangents:
    :math:`\delta`, known from the gradient itself, is the cotangent of the tangents, and
    :math:`\eta` that of the values:

    .. math::
        \dot u &= A_y \dot y, \quad [\dot v_2, \dot v_3] = B \dot t_1, \quad
        \dot o = \dot u_3 + \dot v_3 + W_3 \dot t_2 \\
        \eta_3 &= \tfrac{2}{32} \dot o, \quad
        \eta_2 = \mathrm{pull}_2(W_3^T \eta_3, W_3^T \delta_3), \quad
        \eta_1 = \mathrm{pull}_1(B^T [\eta_2, \eta_3], B^T [\delta_2, \delta_3]) \\
        \partial_B &= [\eta_2, \eta_3]^T t_1 + [\delta_2, \delta_3]^T \dot t_1, \quad
        \partial_{W_3} = \eta_3^T t_2 + \delta_3^T \dot t_2, \quad
        \partial_{A_y} = \eta^T y + \delta^T \dot y

    with pull of :meth:`FusedTanhNorm.pull_both`; :math:`\partial_{\mathrm{fixed}} = \eta`, which
    :class:`Collector` adds up over the steps.

    On a CPU a part of the elements at a time goes through the whole network, so that what lies
    between two products stays in the cache (:mod:`pyg_ea.potentials.resnet_passes`). Where backward
    is to be differentiated again, it goes through :func:`plain_gradient_in_y` instead.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        y: Tensor,
        fixed: Tensor,
        token: Tensor,
        collector: Collector,
        index: Tensor,
        num_segments: int,
        *composed: Tensor,
    ) -> Tensor:
        """See :func:`gradient_in_y`; ``composed`` are the :class:`Weights`."""
        weights = Weights(*composed)
        from_y, kept = FromSegments.of(y, weights), Kept.room(fixed, weights)
        total = passes_for(fixed).forth(from_y, fixed, index, weights, kept)
        ctx.num_segments, ctx.collector = num_segments, collector  # type: ignore[attr-defined]
        ctx.save_for_backward(y, fixed, index, *composed, total, from_y.of_u1, *kept)
        return total @ weights.a_y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative along ``dy [S, Dy]`` and back; see the class."""
        y, fixed, index, *rest = ctx.saved_tensors
        size = len(Weights._fields)
        weights, (total, from_y1, *parts) = Weights(*rest[:size]), rest[size:]
        if torch.is_grad_enabled():

            def plain(y: Tensor, fixed: Tensor, *composed: Tensor) -> tuple[Tensor]:
                weights = Weights(*composed)
                return (plain_gradient_in_y(y, fixed, index, ctx.num_segments, weights),)

            d_y, d_fixed, *d_weights = backward_by_autograd(plain, (y, fixed, *weights), [dy])
            return d_y, d_fixed, None, None, None, None, *d_weights
        from_dy = FromSegments.of(dy, weights)
        d_fixed, one = ctx.collector.take_part(fixed)  # [N, 3H+32], []
        h_total, derivatives = passes_for(fixed).back(
            from_y1, from_dy, fixed, index, weights, Kept(*parts), d_fixed
        )
        d_a = torch.addmm(h_total.T @ y, total.T, dy)  # [3H+32, Dy]
        d_y = h_total @ weights.a_y if ctx.needs_input_grad[0] else None  # the first y is constant
        return d_y, None, one, None, None, None, d_a, *derivatives
