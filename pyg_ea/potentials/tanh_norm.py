"""``tanh(LayerNorm(u))`` in plain operations, with first and second derivatives by hand."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ea.segments import state_dtype


class TanhNorm:
    r"""``tanh(LayerNorm(u))`` at one point and, by calling it, its transposed derivative.

    With :math:`n = (u - \bar u) / \sigma`, :math:`t = \tanh(\gamma n + \beta)` and
    :math:`w = \gamma (1 - t^2) d`, the pullback of :math:`d` is
    :math:`(w - \bar w - n \, \overline{w n}) / \sigma`, bars being means over the row. In plain
    operations, because torch's fused layer norm has a wrong third derivative.

    Args:
        u: ``[N, D]``.
        gamma: scale ``[D]``.
        beta: offset ``[D]``.
    """

    def __init__(self, u: Tensor, gamma: Tensor, beta: Tensor) -> None:
        u = u.to(state_dtype(u.dtype))
        centred = u - u.mean(dim=1, keepdim=True)  # [N, D]
        variance = centred.square().mean(dim=1, keepdim=True)  # [N, 1]
        self.inv_std = torch.rsqrt(variance + 1e-5)  # nn.LayerNorm's default eps
        self.normed = centred * self.inv_std  # [N, D]
        self.gamma = gamma
        self.output = torch.tanh(torch.addcmul(beta, gamma, self.normed))  # [N, D]

    def __call__(self, d: Tensor) -> Tensor:
        """The pullback of ``d [N, D]``."""
        w = self.gamma * (1 - self.output.square()) * d  # [N, D]
        along = (w * self.normed).mean(dim=1, keepdim=True)  # [N, 1]
        pulled = self.inv_std * (w - w.mean(dim=1, keepdim=True) - self.normed * along)
        return pulled.to(d.dtype)


class TanhNormTangent:
    r"""The derivative of :class:`TanhNorm` along ``du``, and the way back through both.

    With :math:`a = \overline{n \dot u}`, the tangents are

    .. math::
        \dot n = (\dot u - \bar{\dot u} - n a) / \sigma, \qquad
        \dot t = (1 - t^2) \gamma \dot n

    Not differentiable itself: it works in place.

    Args:
        normed: :math:`n`, ``[N, D]``.
        inv_std: :math:`1 / \sigma`, ``[N, 1]``.
        output: :math:`t`, ``[N, D]``.
        gamma: ``[D]``.
        du: :math:`\dot u`, ``[N, D]``.
    """

    def __init__(
        self, normed: Tensor, inv_std: Tensor, output: Tensor, gamma: Tensor, du: Tensor
    ) -> None:
        self.normed, self.inv_std, self.output, self.gamma = normed, inv_std, output, gamma
        self.du = du
        self.slope = 1 - output.square()  # [N, D]
        self.along = (normed * du).mean(dim=1, keepdim=True)  # a, [N, 1]
        centred = du - du.mean(dim=1, keepdim=True)
        self.dn = centred.addcmul_(normed, self.along, value=-1).mul_(inv_std)  # [N, D]
        self.gamma_dn = gamma * self.dn  # [N, D]
        self.dt = self.slope * self.gamma_dn  # [N, D]

    def pull(self, e: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        r"""Gradient of :math:`\langle e, t \rangle + \langle d, \dot t \rangle` in u, gamma, beta.

        With :math:`w = \gamma (1 - t^2) d` and
        :math:`q = (1 - t^2)(e - 2 t \gamma \dot n d)`,

        .. math::
            \partial_\beta &= \textstyle\sum q, \qquad
            \partial_\gamma = \sum q n + (1 - t^2) d \dot n \\
            p &= \gamma q - (a w + \overline{w n} \, \dot u) / \sigma \\
            \partial_u &= (p - \bar p - n (\overline{p n} + \overline{w \dot n})) / \sigma

        Spends the tangent: call it once. ``e`` is overwritten.
        """
        n, inv_std = self.normed, self.inv_std
        slope_d = self.slope * d  # [N, D]
        w = self.gamma * slope_d
        q = e.addcmul_(self.output, self.gamma_dn.mul_(d), value=-2).mul_(self.slope)
        d_beta = q.sum(dim=0)  # [D]
        d_gamma = (q * n).addcmul_(slope_d, self.dn).sum(dim=0)  # [D]
        w_along = (w * n).mean(dim=1, keepdim=True)  # [N, 1]
        w_tangent = self.dn.mul_(w).mean(dim=1, keepdim=True)  # [N, 1]
        p = q.mul_(self.gamma)
        p.addcmul_(w, inv_std * self.along, value=-1)
        p.addcmul_(self.du, inv_std * w_along, value=-1)
        along = (p * n).mean(dim=1, keepdim=True) + w_tangent  # [N, 1]
        d_u = p.sub_(p.mean(dim=1, keepdim=True)).addcmul_(n, along, value=-1).mul_(inv_std)
        return d_u, d_gamma, d_beta
