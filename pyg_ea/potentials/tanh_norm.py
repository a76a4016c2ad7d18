"""``tanh(LayerNorm(u))`` and its transposed derivative in plain operations."""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ea.tensors import state_dtype

EPS = 1e-5  # nn.LayerNorm's default


class TanhNorm:
    r"""``tanh(LayerNorm(u))`` at one point, differentiable at every order.

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

    def pull(self, d: Tensor) -> Tensor:
        """The pullback of ``d [N, D]``: the transposed derivative times d."""
        w = self.gamma * (1 - self.output.square()) * d  # [N, D]
        along = (w * self.normed).mean(dim=1, keepdim=True)  # [N, 1]
        return self.inv_std * (w - w.mean(dim=1, keepdim=True) - self.normed * along)
