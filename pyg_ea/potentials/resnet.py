r"""The potential of the paper (Listing 1) and the closed form of its gradient in y."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pyg_ea.potentials.base import Potential
from pyg_ea.potentials.tanh_norm import TanhNorm
from pyg_ea.segments import Segments
from pyg_ea.tensors import without_autocast

OUTPUTS = 32  # width of the last layer, whose mean square is the potential (Listing 1)


class ResNetPotential(Potential):
    r"""The learned potential of "Equilibrium Aggregation" (arXiv 2202.12795, Listing 1).

    A residual network on :math:`z_0 = [x, y]` with widths :math:`2H, H, 32`:

    .. math::
        z_1 &= R_1 z_0 + \tanh(\mathrm{LN}(L_1 z_0)) \\
        z_2 &= R_2 z_1 + \tanh(\mathrm{LN}(L_2 z_1)) \\
        z_3 &= R_3 z_2 + L_3 z_2, \qquad F(x, y) = \frac{1}{32} \sum_{c=1}^{32} z_{3,c}^2

    Every :math:`L` and :math:`R` is affine; :math:`R` is the identity where widths agree
    (:math:`D_x + D_y = 2H` for the first). :math:`F \ge 0`, so the energy is bounded below. Weights
    start as a normal of standard deviation :math:`1/\sqrt{\text{fan-in}}` truncated at two of them,
    biases at zero.

    :meth:`Potential.bind` gives the closed-form gradient, so no autograd runs inside the solver's
    loop. With the default prior and solver the whole solve runs in the fused layer,
    ``pyg_ea.fused``.

    Args:
        in_channels: size :math:`D_x` of an element.
        out_channels: size :math:`D_y` of the output.
        hidden_channels: :math:`H`; the potential has about :math:`2H(D_x + D_y) + 4H^2` weights,
            and :math:`2H(D_x + D_y)` more where the first skip is projected.

    Shapes:
        - **x:** :math:`(N, D_x)`, **y:** :math:`(N, D_y)`
        - **output:** :math:`(N)`
    """

    def __init__(self, in_channels: int, out_channels: int, hidden_channels: int) -> None:
        super().__init__()
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.hidden_channels = hidden_channels
        widths = [in_channels + out_channels, 2 * hidden_channels, hidden_channels, OUTPUTS]
        self.layer1, self.layer2, self.layer3 = (nn.Linear(n, m) for n, m in pairwise(widths))
        self.skip1, self.skip2, self.skip3 = (
            nn.Identity() if n == m else nn.Linear(n, m) for n, m in pairwise(widths)
        )
        self.norm1 = nn.LayerNorm(2 * hidden_channels)
        self.norm2 = nn.LayerNorm(hidden_channels)
        self.compiled: Any = None  # the compiled inner step, see EAAggregation.compile
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Re-initialises all parameters as the paper's framework does."""
        for module in self.children():
            if isinstance(module, nn.Linear):
                std = module.in_features**-0.5
                nn.init.trunc_normal_(module.weight, std=std, a=-2 * std, b=2 * std)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """The potential of each element, layer by layer: ``[N, Dx], [N, Dy] -> [N]``."""
        z = torch.cat([x, y], dim=-1)
        z = self.skip1(z) + _tanh_norm(self.layer1(z), self.norm1)
        z = self.skip2(z) + _tanh_norm(self.layer2(z), self.norm2)
        z = self.skip3(z) + self.layer3(z)
        return z.square().mean(dim=-1)

    def bind(self, x: Tensor, segments: Segments) -> BoundResNet:
        """Fixes the elements; see :class:`BoundResNet`."""
        return BoundResNet(self, x, segments)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "compiled": None}  # compiled code cannot be copied or pickled

    def extra_repr(self) -> str:
        """Sizes, for ``repr``."""
        return f"{self.in_channels}, {self.out_channels}, hidden_channels={self.hidden_channels}"


class Composed(NamedTuple):
    """The potential's parameters as its gradient needs them; see :class:`BoundResNet`."""

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


class BoundResNet:
    r"""Closed form of :math:`\sum_{i \in s} \partial F(x_i, y_s) / \partial y_s` of Listing 1.

    Every path from :math:`z_0 = [x, y]` to a pre-activation or to the output that meets no tanh is
    affine, so it composes in advance. With :math:`W_3 = R_3 + L_3`,

    .. math::
        A = \begin{bmatrix} L_1 \\ L_2 R_1 \\ W_3 R_2 R_1 \end{bmatrix}, \quad
        B = \begin{bmatrix} L_2 \\ W_3 R_2 \end{bmatrix}, \qquad
        [u_1, u_2, u_3] = A_x x + A_y y + a

    one element's potential and gradient are

    .. math::
        t_1 &= \tanh(\mathrm{LN}(u_1)), \quad [v_2, v_3] = B t_1 \\
        t_2 &= \tanh(\mathrm{LN}(u_2 + v_2)), \quad o = u_3 + v_3 + W_3 t_2 \\
        F &= \overline{o^2}, \quad \delta_3 = \tfrac{2}{32} o, \quad
        \delta_2 = \mathrm{pull}_2(W_3^T \delta_3), \quad
        \delta_1 = \mathrm{pull}_1(B^T [\delta_2, \delta_3]) \\
        \partial F / \partial y &= A_y^T [\delta_1, \delta_2, \delta_3]

    where pull is the transposed derivative of tanh(LN(.)). :math:`A_x x + a` (``fixed``) is
    computed once for all steps, and what concerns :math:`y` alone on S rows rather than N. Cost for
    each element and step: about :math:`4 H^2` multiply-adds.
    """

    def __init__(self, potential: ResNetPotential, x: Tensor, segments: Segments) -> None:
        with without_autocast(x):
            a_x, a_y, offset, b, w3 = _composed(potential)
        norm1, norm2 = potential.norm1, potential.norm2
        self.weights = Composed(a_y, b, w3, norm1.weight, norm1.bias, norm2.weight, norm2.bias)
        self.fixed = F.linear(x, a_x, offset)  # [N, 3H+32]
        self.segments = segments
        self.compiled = potential.compiled

    def value(self, y: Tensor) -> Tensor:
        """Sum of the potential over each segment: ``[S, Dy] -> [S]``."""
        output, *_ = _forward(y, self.fixed, self.segments, self.weights)
        return self.segments.sum(output.square().mean(dim=1))

    def gradient(self, y: Tensor) -> Tensor:
        """Its gradient in y: ``[S, Dy] -> [S, Dy]``."""
        return gradient_in_y(y, self.fixed, self.segments, self.weights)


def gradient_in_y(y: Tensor, fixed: Tensor, segments: Segments, weights: Composed) -> Tensor:
    r"""The closed form of :class:`BoundResNet`, differentiable at every order.

    Shapes:
        - **y:** :math:`(S, D_y)`; **fixed:** :math:`(N, 3H + 32)`, that is :math:`A_x x + a`
        - **output:** :math:`(S, D_y)`
    """
    output, pull1, pull2 = _forward(y, fixed, segments, weights)
    d3 = output * (2 / OUTPUTS)  # [N, 32]
    d2 = pull2(F.linear(d3, weights.w3.T))  # [N, H]
    d1 = pull1(F.linear(torch.cat([d2, d3], dim=1), weights.b.T))  # [N, 2H]
    total = segments.sum(torch.cat([d1, d2, d3], dim=1))  # [S, 3H+32]
    gradient = F.linear(total.to(weights.a_y.dtype), weights.a_y.T)  # [S, Dy]
    return gradient.to(total.dtype)


def _forward(
    y: Tensor, fixed: Tensor, segments: Segments, weights: Composed
) -> tuple[Tensor, TanhNorm, TanhNorm]:
    """The last layer's output ``[N, 32]`` and the two stages before it."""
    from_y = F.linear(y.to(weights.a_y.dtype), weights.a_y)  # [S, 3H+32]
    u = fixed + segments.gather(from_y)  # [N, 3H+32]
    wide, hidden = len(weights.gamma1), len(weights.gamma2)
    u1, u2, u3 = u.split([wide, hidden, OUTPUTS], dim=1)
    stage1 = TanhNorm(u1, weights.gamma1, weights.beta1)
    t1 = stage1.output.to(u.dtype)  # [N, 2H]
    v2, v3 = F.linear(t1, weights.b).split([hidden, OUTPUTS], dim=1)  # [N, H], [N, 32]
    stage2 = TanhNorm(u2 + v2, weights.gamma2, weights.beta2)
    output = u3 + v3 + F.linear(stage2.output.to(u.dtype), weights.w3)  # [N, 32]
    return output, stage1, stage2


def _composed(p: ResNetPotential) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """``A_x [3H+32, Dx], A_y [3H+32, Dy], a [3H+32], B [H+32, 2H], W3 [32, H]``."""
    l1, l2, l3 = p.layer1, p.layer2, p.layer3
    if isinstance(p.skip3, nn.Linear):
        w3, c3 = l3.weight + p.skip3.weight, l3.bias + p.skip3.bias
    else:
        w3, c3 = l3.weight + l3.weight.new_ones(OUTPUTS).diag(), l3.bias
    w3_r2, c2 = _after(w3, p.skip2, c3)
    b = torch.cat([l2.weight, w3_r2])
    b_r1, c1 = _after(b, p.skip1, torch.cat([l2.bias, c2]))
    a = torch.cat([l1.weight, b_r1])
    a_x, a_y = a.split([p.in_channels, p.out_channels], dim=1)
    return a_x, a_y, torch.cat([l1.bias, c1]), b, w3


def _after(weight: Tensor, skip: nn.Module, offset: Tensor) -> tuple[Tensor, Tensor]:
    """``weight @ skip(z) + offset`` as a matrix and an offset on z."""
    if isinstance(skip, nn.Linear):
        return weight @ skip.weight, torch.addmv(offset, weight, skip.bias)
    return weight, offset


def _tanh_norm(u: Tensor, norm: nn.LayerNorm) -> Tensor:
    return TanhNorm(u, norm.weight, norm.bias).output.to(u.dtype)
