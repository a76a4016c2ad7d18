r"""Work on the elements in torch operations, for every device: the gradient and its derivative.

Notation is that of :class:`pyg_ea.potentials.resnet.BoundResNet`. For a cotangent :math:`\dot y` of
the gradient :math:`G(y)`,
:math:`\langle \dot y, G \rangle = \tfrac{2}{32} \sum_i \langle o_i, \dot o_i \rangle` with
:math:`\dot o` the derivative of :math:`o` along :math:`\dot y`. So backward runs the network
forward once more, for tangents (dotted), and then backward through values and tangents.
:math:`\delta`, known from the gradient itself, is the cotangent of the tangents, and :math:`\eta`
that of the values:

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

from pyg_ea.potentials.resnet import OUTPUTS, Composed
from pyg_ea.potentials.tanh_norm import EPS
from pyg_ea.tensors import state_dtype


class Activations(NamedTuple):
    """Activations saved for backward; the outputs of both tanh are computed again."""

    u2: Tensor
    """``[N, H]``"""
    d23: Tensor
    """``[N, H+32]``"""
    to_t1: Tensor
    """``[N, 2H]``"""


def forward(
    from_y: Tensor, fixed: Tensor, index: Tensor, weights: Composed
) -> tuple[Tensor, Activations]:
    r"""The segments' sums of :math:`\delta`, ``[S, 3H+32]``, for ``from_y [S, 3H+32]``, that is
    :math:`A_y y`, and ``fixed [N, 3H+32]``, both in the dtype of products.
    """
    wide, hidden, dtype = len(weights.gamma1), len(weights.gamma2), weights.b.dtype
    u = from_y.index_select(0, index) + fixed  # [N, 3H+32]
    stage1 = FusedTanhNorm.at(u[:, :wide], weights.gamma1, weights.beta1)
    u23 = torch.addmm(u[:, wide:], stage1.output.to(dtype), weights.b.T)  # [N, H+32]
    u2 = u23[:, :hidden].contiguous()  # [N, H]
    stage2 = FusedTanhNorm.at(u2, weights.gamma2, weights.beta2)
    output = torch.addmm(u23[:, hidden:], stage2.output.to(dtype), weights.w3.T)
    d3 = output * (2 / OUTPUTS)  # [N, 32]
    d23 = torch.cat([stage2.pull(d3 @ weights.w3).to(dtype), d3], dim=1)  # [N, H+32]
    to_t1 = d23 @ weights.b  # [N, 2H]
    total = _sums([stage1.pull(to_t1), d23], index, len(from_y))
    return total, Activations(u2, d23, to_t1)


def backward(
    from_y: Tensor,
    from_dy: Tensor,
    fixed: Tensor,
    index: Tensor,
    weights: Composed,
    saved: Activations,
) -> tuple[Tensor, Tensor, list[Tensor], list[tuple[Tensor, Tensor]]]:
    r"""The segments' sums of :math:`\eta` ``[S, 3H+32]``, :math:`\eta` itself ``[N, 3H+32]``, the
    gradients of the norms' scales and offsets, and factors of those of ``b`` and ``w3``: two pairs
    for each, whose products ``left.T @ right`` sum to it. ``from_dy [S, 3H+32]`` is
    :math:`A_y \dot y`.
    """
    wide, hidden, b, w3 = len(weights.gamma1), len(weights.gamma2), weights.b, weights.w3
    dtype = b.dtype
    u1 = from_y[:, :wide].index_select(0, index) + fixed[:, :wide]
    stage1 = FusedTanhNorm.at(u1, weights.gamma1, weights.beta1)
    stage2 = FusedTanhNorm.at(saved.u2, weights.gamma2, weights.beta2)
    d3 = saved.d23[:, hidden:]  # [N, 32]

    du = from_dy.index_select(0, index)  # [N, 3H+32]
    dt1 = stage1.push(du[:, :wide]).to(dtype)
    du23 = torch.addmm(du[:, wide:], dt1, b.T)
    dt2 = stage2.push(du23[:, :hidden]).to(dtype)
    h3 = torch.addmm(du23[:, hidden:], dt2, w3.T) * (2 / OUTPUTS)  # [N, 32]

    h2, *of_norm2 = stage2.pull_both(h3 @ w3, d3 @ w3)
    h23 = torch.cat([h2.to(dtype), h3], dim=1)  # [N, H+32]
    h1, *of_norm1 = stage1.pull_both(h23 @ b, saved.to_t1)
    of_b = [(h23, stage1.output), (saved.d23, dt1)]
    of_w3 = [(h3, stage2.output), (d3, dt2)]
    total = _sums([h1, h23], index, len(from_y))
    h = torch.cat([h1, h23], dim=1)  # [N, 3H+32]
    return total, h, [*of_norm1, *of_norm2], [*of_b, *of_w3]


def add_product(c: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``c + a @ b`` in the dtype of c, with the product in that of b."""
    return torch.addmm(c, a, b) if b.dtype == c.dtype else c + a.to(b.dtype) @ b


def _sums(parts: list[Tensor], index: Tensor, segments: int) -> Tensor:
    """Sums over each segment, side by side and in float32 or wider: ``[N, D] ... -> [S, D+...]``.

    One by one, since putting the elements' rows side by side would move far more memory.
    """
    sums = []
    for part in parts:
        rows = part.to(state_dtype(part.dtype))
        sums.append(rows.new_zeros(segments, rows.shape[1]).index_add_(0, index, rows))
    return torch.cat(sums, dim=1)


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
        gamma: scale ``[D]``.
        beta: offset ``[D]``.
        output: :math:`t`, ``[N, D]``.
        mean: of each row, ``[N, 1]``.
        inv_std: :math:`1 / \sigma` of each row, ``[N, 1]``.
    """

    def __init__(
        self,
        u: Tensor,
        gamma: Tensor,
        beta: Tensor,
        output: Tensor,
        mean: Tensor,
        inv_std: Tensor,
    ) -> None:
        self.u, self.gamma, self.beta = u, gamma, beta
        self.output, self.mean, self.inv_std = output, mean, inv_std

    @classmethod
    def at(cls, u: Tensor, gamma: Tensor, beta: Tensor) -> FusedTanhNorm:
        """Evaluates it at ``u [N, D]``, in the dtype of gamma."""
        u = u.to(gamma.dtype).contiguous()
        normed, mean, inv_std = torch.native_layer_norm(u, gamma.shape, gamma, beta, EPS)
        return cls(u, gamma, beta, torch.tanh(normed), mean, inv_std)

    def pull(self, d: Tensor) -> Tensor:
        r"""The pullback :math:`J(\gamma (1 - t^2) d)` of ``d [N, D]``."""
        return self._normal(_tanh_backward(d.to(self.u.dtype), self.output), self.gamma)

    def push(self, du: Tensor) -> Tensor:
        r"""The tangent :math:`\dot t` along ``du [N, D]``, which it keeps."""
        self.du = du.to(self.u.dtype).contiguous()
        self.dn = self._normal(self.du, None)  # [N, D]
        return _tanh_backward(self.gamma * self.dn, self.output)

    def pull_both(self, e: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Gradient of :math:`\langle e, t \rangle + \langle d, \dot t \rangle` in u ``[N, D]``,
        gamma and beta ``[D]``.

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
