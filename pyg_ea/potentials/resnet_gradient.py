r"""The inner gradient of Listing 1 as a function of tensors, and its derivative by hand.

Notation and formula are those of :class:`pyg_ea.potentials.resnet.BoundResNet`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from pyg_ea.potentials.tanh_norm import TanhNorm, TanhNormTangent
from pyg_ea.segments import Segments

OUTPUTS = 32  # width of the last layer, whose mean square is the potential (Listing 1)


class Weights(NamedTuple):
    """What the gradient needs of the potential's parameters, composed."""

    a_y: Tensor
    """``[3H+32, Dy]``"""
    b: Tensor
    """``[H+32, 2H]``"""
    w3: Tensor
    """``[32, H]``"""
    gamma1: Tensor
    """``[2H]``, like ``beta1``; ``gamma2`` and ``beta2`` are ``[H]``."""
    beta1: Tensor
    gamma2: Tensor
    beta2: Tensor

    @property
    def widths(self) -> list[int]:
        """Sizes of ``u1, u2, u3``."""
        return [self.gamma1.shape[0], self.gamma2.shape[0], OUTPUTS]


def gradient_in_y(
    y: Tensor, fixed: Tensor, index: Tensor, num_segments: int, weights: Weights
) -> Tensor:
    """The gradient with the derivative that fits the occasion; same values either way.

    Derived by hand (:class:`GradientByHand`) in eager training, by autograd where torch.compile
    fuses anyway, under autocast, and where no derivative is taken.

    Shapes:
        - **y:** :math:`(S, D_y)`; **fixed:** :math:`(N, 3H + 32)`, that is :math:`A_x x + a`
        - **output:** :math:`(S, D_y)`
    """
    by_hand = (
        torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch.is_autocast_enabled(y.device.type)
        and y.dtype == fixed.dtype == weights.a_y.dtype
    )
    if by_hand:
        return GradientByHand.apply(y, fixed, index, num_segments, *weights)
    return plain_gradient_in_y(y, fixed, index, num_segments, weights)


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

    with pull of :class:`TanhNormTangent`; :math:`\partial_{\mathrm{fixed}} = \eta`. Where backward
    is to be differentiated again, it goes through :func:`plain_gradient_in_y` instead.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        y: Tensor,
        fixed: Tensor,
        index: Tensor,
        num_segments: int,
        *composed: Tensor,
    ) -> Tensor:
        """See :func:`gradient_in_y`; ``composed`` are the :class:`Weights`."""
        weights, segments = Weights(*composed), Segments(index, num_segments)
        output, stage1, stage2 = forward(y, fixed, segments, weights)
        d3 = output.mul_(2 / OUTPUTS)  # [N, 32]
        to_t2 = d3 @ weights.w3  # [N, H]
        d23 = torch.cat([stage2(to_t2), d3], dim=1)  # [N, H+32]
        to_t1 = d23 @ weights.b  # [N, 2H]
        total = torch.cat([segments.sum(stage1(to_t1)), segments.sum(d23)], dim=1)  # [S, 3H+32]
        ctx.num_segments = num_segments  # type: ignore[attr-defined]
        stages = (part for s in (stage1, stage2) for part in (s.normed, s.inv_std, s.output))
        ctx.save_for_backward(y, fixed, index, *composed, *stages, to_t1, to_t2, d23, total)
        return total @ weights.a_y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative along ``dy [S, Dy]`` and back; see the class."""
        y, fixed, index, *rest = ctx.saved_tensors
        size = len(Weights._fields)
        weights, rest = Weights(*rest[:size]), rest[size:]
        if torch.is_grad_enabled():
            return _again(dy, y, fixed, index, ctx.num_segments, weights)
        normed1, inv1, t1, normed2, inv2, t2, to_t1, to_t2, d23, total = rest
        segments = Segments(index, ctx.num_segments)
        hidden = weights.widths[1]

        du1, du2, du3 = segments.gather(dy @ weights.a_y.T).split(weights.widths, dim=1)
        stage1 = TanhNormTangent(normed1, inv1, t1, weights.gamma1, du1)
        dv2, dv3 = (stage1.dt @ weights.b.T).split(weights.widths[1:], dim=1)
        stage2 = TanhNormTangent(normed2, inv2, t2, weights.gamma2, du2 + dv2)
        do = torch.addmm(du3 + dv3, stage2.dt, weights.w3.T)  # [N, 32]

        h3 = do.mul_(2 / OUTPUTS)
        h2, d_gamma2, d_beta2 = stage2.pull(h3 @ weights.w3, to_t2)  # [N, H], [H], [H]
        h23 = torch.cat([h2, h3], dim=1)
        h1, d_gamma1, d_beta1 = stage1.pull(h23 @ weights.b, to_t1)  # [N, 2H], [2H], [2H]
        d_b = torch.addmm(h23.T @ t1, d23.T, stage1.dt)  # [H+32, 2H]
        d_w3 = torch.addmm(h3.T @ t2, d23[:, hidden:].T, stage2.dt)  # [32, H]
        d_fixed = torch.cat([h1, h23], dim=1)  # [N, 3H+32]
        h_total = segments.sum(d_fixed)  # [S, 3H+32]
        d_a = torch.addmm(h_total.T @ y, total.T, dy)  # [3H+32, Dy]
        d_weights = Weights(d_a, d_b, d_w3, d_gamma1, d_beta1, d_gamma2, d_beta2)
        return h_total @ weights.a_y, d_fixed, None, None, *d_weights


def _again(
    dy: Tensor, y: Tensor, fixed: Tensor, index: Tensor, num_segments: int, weights: Weights
) -> tuple[Tensor | None, ...]:
    """The same derivative by autograd, which can differentiate it again."""
    gradient = plain_gradient_in_y(y, fixed, index, num_segments, weights)
    inputs = (y, fixed, *weights)
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    got = iter(torch.autograd.grad(gradient, wanted, dy, create_graph=True))
    d_y, d_fixed, *d_weights = (next(got) if t.requires_grad else None for t in inputs)
    return d_y, d_fixed, None, None, *d_weights
