"""``tanh(LayerNorm(u))``: in plain operations, and by hand with two derivatives."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ea.segments import state_dtype

EPS = 1e-5  # nn.LayerNorm's default


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
        self.inv_std = torch.rsqrt(variance + EPS)
        self.normed = centred * self.inv_std  # [N, D]
        self.gamma = gamma
        self.output = torch.tanh(torch.addcmul(beta, gamma, self.normed))  # [N, D]

    def __call__(self, d: Tensor) -> Tensor:
        """The pullback of ``d [N, D]``."""
        w = self.gamma * (1 - self.output.square()) * d  # [N, D]
        along = (w * self.normed).mean(dim=1, keepdim=True)  # [N, 1]
        pulled = self.inv_std * (w - w.mean(dim=1, keepdim=True) - self.normed * along)
        return pulled.to(d.dtype)


class FusedTanhNorm:
    r"""The same on torch's fused kernels, with a second derivative by hand; not differentiable.

    :meth:`pull` is the transposed derivative; :meth:`push` the derivative along a tangent
    :math:`\dot u`, and :meth:`pull_both`, once after it, the way back through both. With
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
        """Evaluates it at ``u [N, D]``."""
        u = u.contiguous()
        double, mean, inv_std = torch.native_layer_norm(u, gamma.shape, 2 * gamma, 2 * beta, EPS)
        output = double.sigmoid_().mul_(2).sub_(1)  # tanh, at half the price on a CPU
        return cls(u, gamma, beta, output, mean, inv_std)

    def pull(self, d: Tensor, out: Tensor) -> None:
        r"""The pullback :math:`J(\gamma (1 - t^2) d)` of ``d [N, D]``, to ``out [N, D]``."""
        out.copy_(self._normal(_tanh_backward(d, self.output), self.gamma))

    def push(self, du: Tensor) -> Tensor:
        r"""The tangent :math:`\dot t` along ``du [N, D]``, which it keeps."""
        self.du = du.contiguous()
        self.dn = self._normal(self.du, None)  # [N, D]
        self.gamma_dn = self.gamma * self.dn  # [N, D]
        return _tanh_backward(self.gamma_dn, self.output)

    def pull_both(self, e: Tensor, d: Tensor, out: Tensor) -> tuple[Tensor, Tensor]:
        r"""Gradient of :math:`\langle e, t \rangle + \langle d, \dot t \rangle` in u, gamma, beta.

        That in u goes to ``out [N, D]``; those in gamma and beta are returned, ``[D]``.

        With :math:`a = \overline{n \dot u}`, :math:`s = (1 - t^2) d`, :math:`w = \gamma s` and
        :math:`q = (1 - t^2)(e - 2 t \gamma \dot n d)`,

        .. math::
            \partial_\beta &= \textstyle\sum q, \qquad
            \partial_\gamma = \sum q n + s \dot n \\
            \partial_u &= J(\gamma (q - a s / \sigma))
                - (\overline{w n} \, \dot n + \overline{w \dot n} \, n) / \sigma

        Spends the tangent and overwrites ``e``.
        """
        n = (self.u - self.mean).mul_(self.inv_std)  # [N, D]
        s = _tanh_backward(d, self.output)  # [N, D]
        e.addcmul_(self.output, self.gamma_dn.mul_(d), value=-2)
        q = _tanh_backward(e, self.output)  # [N, D]
        d_beta = q.sum(dim=0)  # [D]
        d_gamma = torch.mul(q, n, out=e).addcmul_(s, self.dn).sum(dim=0)  # [D]
        w = torch.mul(self.gamma, s, out=self.gamma_dn)  # [N, D]
        along, w_along, w_tangent = (
            torch.mul(one, other, out=e).mean(dim=1, keepdim=True).mul_(self.inv_std)
            for one, other in ((n, self.du), (w, n), (w, self.dn))
        )  # a and the two means of w, each over sigma, [N, 1]
        d_u = self._normal(q.addcmul_(s, along, value=-1), self.gamma)
        d_u.addcmul_(self.dn, w_along, value=-1)
        torch.addcmul(d_u, n, w_tangent, value=-1, out=out)
        return d_gamma, d_beta

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
