r"""Work on the elements in backward: the product of the potential's Hessian with a vector.

Notation is that of :mod:`pyg_ea.potentials.closed_form`. For a cotangent :math:`\dot y` of the
gradient :math:`G(y)`,
:math:`\langle \dot y, G \rangle = \tfrac{2}{32} \sum_i \langle o_i, \dot o_i \rangle` with
:math:`\dot o` the derivative of :math:`o` along :math:`\dot y`. So backward runs the network
forward once more, for tangents (dotted), and then backward through values and tangents.
:math:`\delta`, known from the gradient itself, is the cotangent of the tangents, and :math:`\eta`
the cotangent of the values:

.. math::
    \dot u &= A_y \dot y, \quad [\dot v_2, \dot v_3] = B \dot t_1, \quad
    \dot o = \dot u_3 + \dot v_3 + W_3 \dot t_2 \\
    \eta_3 &= \tfrac{2}{32} \dot o, \quad
    \eta_2 = \mathrm{pull}_2(W_3^T \eta_3, W_3^T \delta_3), \quad
    \eta_1 = \mathrm{pull}_1(B^T [\eta_2, \eta_3], B^T [\delta_2, \delta_3]) \\
    \partial_B &= [\eta_2, \eta_3]^T t_1 + [\delta_2, \delta_3]^T \dot t_1, \quad
    \partial_{W_3} = \eta_3^T t_2 + \delta_3^T \dot t_2, \quad
    \partial_{A_y} = \eta^T y + \delta^T \dot y, \quad
    \partial_{\mathrm{fixed}} = \eta

with pull of :meth:`FusedTanhNorm.pull_both`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ea.fused.problem import Problem
from pyg_ea.potentials.closed_form import OUTPUTS, Activations
from pyg_ea.potentials.tanh_norm import EPS

Pair = tuple[Tensor, Tensor]
"""Factors whose product ``left.T @ right`` is added to the gradient of a matrix."""


class HessianProduct(NamedTuple):
    """The Hessian of the potential times a vector, and gradients of its inner product."""

    total: Tensor
    r"""``[S, 3H+32]``, sums of :math:`\eta` over each segment"""
    fixed: Tensor
    r"""``[N, 3H+32]``, :math:`\eta`"""
    norms: list[Tensor]
    """Gradients of gamma1, beta1, gamma2 and beta2"""
    b: list[Pair]
    w3: list[Pair]


def hessian_product(problem: Problem, from_dy: Tensor, saved: Activations) -> HessianProduct:
    r"""The product at the point that ``saved`` belongs to.

    Args:
        problem: of the solve.
        from_dy: :math:`A_y \dot y`, ``[S, 3H+32]``.
        saved: activations of the gradient.
    """
    fixed, weights, segments = problem.inputs.fixed, problem.inputs.weights, problem.segments
    wide, hidden, b, w3 = len(weights.gamma1), len(weights.gamma2), weights.b, weights.w3
    dtype = b.dtype
    u1 = segments.gather(saved.from_y[:, :wide]) + fixed[:, :wide]
    stage1 = FusedTanhNorm(u1, weights.gamma1, weights.beta1)
    stage2 = FusedTanhNorm(saved.u2, weights.gamma2, weights.beta2)
    d3 = saved.d23[:, hidden:]  # [N, 32]

    du = segments.gather(from_dy)  # [N, 3H+32]
    dt1 = stage1.push(du[:, :wide]).to(dtype)
    du23 = torch.addmm(du[:, wide:], dt1, b.T)
    dt2 = stage2.push(du23[:, :hidden]).to(dtype)
    h3 = torch.addmm(du23[:, hidden:], dt2, w3.T) * (2 / OUTPUTS)  # [N, 32]

    h2, *of_norm2 = stage2.pull_both(h3 @ w3, d3 @ w3)
    h23 = torch.cat([h2.to(dtype), h3], dim=1)  # [N, H+32]
    h1, *of_norm1 = stage1.pull_both(h23 @ b, saved.to_t1)
    return HessianProduct(
        total=torch.cat([segments.sum(h1), segments.sum(h23)], dim=1),
        fixed=torch.cat([h1, h23], dim=1),
        norms=[of_row.sum(dim=0) for of_row in (*of_norm1, *of_norm2)],
        b=[(h23, stage1.output.to(dtype)), (saved.d23, dt1)],
        w3=[(h3, stage2.output.to(dtype)), (d3, dt2)],
    )


class FusedTanhNorm:
    r"""``tanh(LayerNorm(u))`` on torch's fused kernels, with two derivatives in closed form.

    :meth:`pull` is the transposed derivative; :meth:`push` the derivative along a tangent
    :math:`\dot u`, and :meth:`pull_both`, once after it, backward through both. With
    :math:`J(g) = (g - \bar g - n \, \overline{g n}) / \sigma`, the symmetric derivative of the
    normalisation:

    .. math::
        \dot n = J(\dot u), \qquad \dot t = (1 - t^2) \gamma \dot n

    Args:
        u: ``[N, D]``.
        gamma: scale ``[D]``, whose dtype the results have.
        beta: offset ``[D]``.
    """

    def __init__(self, u: Tensor, gamma: Tensor, beta: Tensor) -> None:
        self.u, self.gamma, self.beta = u.to(gamma.dtype).contiguous(), gamma, beta
        normed, self.mean, self.inv_std = torch.native_layer_norm(
            self.u, gamma.shape, gamma, beta, EPS
        )  # [N, D], [N, 1], [N, 1]
        self.output = torch.tanh(normed)

    def pull(self, d: Tensor) -> Tensor:
        r"""The pullback :math:`J(\gamma (1 - t^2) d)` of ``d [N, D]``."""
        return self._normal(_tanh_backward(d.to(self.u.dtype), self.output), self.gamma)

    def push(self, du: Tensor) -> Tensor:
        r"""The tangent :math:`\dot t` along ``du [N, D]``. Kept for :meth:`pull_both`."""
        self.du = du.to(self.u.dtype).contiguous()
        self.dn = self._normal(self.du, None)  # [N, D]
        return _tanh_backward(self.gamma * self.dn, self.output)

    def pull_both(self, e: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Gradient of :math:`\langle e, t \rangle + \langle d, \dot t \rangle` in u, and in gamma
        and beta element by element, each ``[N, D]``.

        With :math:`a = \overline{n \dot u}`, :math:`s = (1 - t^2) d`, :math:`w = \gamma s` and
        :math:`q = (1 - t^2)(e - 2 t \gamma \dot n d)`,

        .. math::
            \partial_\beta &= \textstyle\sum q, \qquad
            \partial_\gamma = \sum q n + s \dot n \\
            \partial_u &= J(\gamma (q - a s / \sigma))
                - (\overline{w n} \, \dot n + \overline{w \dot n} \, n) / \sigma
        """
        e, d = e.to(self.u.dtype), d.to(self.u.dtype)
        n = (self.u - self.mean) * self.inv_std  # [N, D]
        s = _tanh_backward(d, self.output)  # [N, D]
        bend = self.output * (self.gamma * self.dn * d)
        q = _tanh_backward(torch.sub(e, bend, alpha=2), self.output)  # [N, D]
        w = self.gamma * s  # [N, D]
        along, w_along, w_tangent = (
            (one * other).mean(dim=1, keepdim=True) * self.inv_std
            for one, other in ((n, self.du), (w, n), (w, self.dn))
        )  # a and the two means of w, each over sigma, [N, 1]
        d_u = self._normal(torch.addcmul(q, s, along, value=-1), self.gamma)
        d_u = d_u - self.dn * w_along - n * w_tangent
        return d_u, torch.addcmul(q * n, s, self.dn), q

    def _normal(self, g: Tensor, gamma: Tensor | None) -> Tensor:
        r""":math:`J(\gamma g)`, or :math:`J(g)` without gamma: ``[N, D]``."""
        statistics = (list(self.gamma.shape), self.mean, self.inv_std)
        only_u = [True, False, False]
        beta = None if gamma is None else self.beta
        return torch.ops.aten.native_layer_norm_backward(
            g, self.u, *statistics, gamma, beta, only_u
        )[0]


def _tanh_backward(d: Tensor, output: Tensor) -> Tensor:
    """``(1 - output ** 2) * d`` in one pass."""
    return torch.ops.aten.tanh_backward(d, output)
