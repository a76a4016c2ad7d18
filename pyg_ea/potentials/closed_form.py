r"""Closed form of the gradient of Listing 1 in y.

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

where pull is the transposed derivative of tanh(LN(.)). :math:`A_x x + a` (``fixed``) is computed
once for all steps, and products with :math:`A_y` on S rows rather than N. Cost for each element and
step: about :math:`4 H^2` multiply-adds.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pyg_ea.potentials.tanh_norm import TanhNorm
from pyg_ea.segments import Segments
from pyg_ea.tensors import without_autocast

OUTPUTS = 32  # width of the last layer, whose mean square is the potential (Listing 1)


class Affine(NamedTuple):
    """``matrix @ z + offset``."""

    matrix: Tensor
    offset: Tensor


class Weights(NamedTuple):
    """The composed matrices, and scales and offsets of the norms."""

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


class Activations(NamedTuple):
    """Intermediate results of a gradient."""

    from_y: Tensor
    """``[S, 3H+32]``, :math:`A_y y`"""
    u2: Tensor
    """``[N, H]``, input of the second norm"""
    d23: Tensor
    r"""``[N, H+32]``, :math:`[\delta_2, \delta_3]`"""
    to_t1: Tensor
    r"""``[N, 2H]``, :math:`B^T [\delta_2, \delta_3]`"""
    total: Tensor
    r"""``[S, 3H+32]``, sums of :math:`\delta` over each segment"""


class ClosedForm:
    r"""Listing 1 bound to its elements: :math:`\sum_{i \in s} F(x_i, y_s)` and its gradient.

    Args:
        x: ``[N, Dx]``.
        segments: of the elements.
        layer1, layer2, layer3: the affine maps :math:`L_1, L_2, L_3`.
        skip1, skip2, skip3: the affine maps :math:`R_1, R_2, R_3`, None for the identity.
        norm1, norm2: scale and offset of each norm.
    """

    def __init__(
        self,
        x: Tensor,
        segments: Segments,
        layer1: Affine,
        layer2: Affine,
        layer3: Affine,
        skip1: Affine | None,
        skip2: Affine | None,
        skip3: Affine | None,
        norm1: Affine,
        norm2: Affine,
    ) -> None:
        x, self.segments = segments.sort(x)
        with without_autocast(x):
            if skip3 is None:
                w3, c3 = layer3.matrix + layer3.matrix.new_ones(OUTPUTS).diag(), layer3.offset
            else:
                w3, c3 = layer3.matrix + skip3.matrix, layer3.offset + skip3.offset
            w3_r2, c2 = _after(w3, c3, skip2)
            b = torch.cat([layer2.matrix, w3_r2])
            b_r1, c1 = _after(b, torch.cat([layer2.offset, c2]), skip1)
            a = torch.cat([layer1.matrix, b_r1])
            offset = torch.cat([layer1.offset, c1])
        a_x, a_y = a.split([x.shape[1], a.shape[1] - x.shape[1]], dim=1)
        self.weights = Weights(a_y, b, w3, *norm1, *norm2)
        self.fixed = F.linear(x, a_x, offset)  # [N, 3H+32]

    def value(self, y: Tensor) -> Tensor:
        """Sum of the potential over each segment: ``[S, Dy] -> [S]``."""
        from_y = y.to(self.weights.a_y.dtype) @ self.weights.a_y.T
        *_, output = _evaluate(from_y, self.fixed, self.segments, self.weights)
        return self.segments.sum(output.square().mean(dim=1))

    def gradient(self, y: Tensor) -> Tensor:
        """Its gradient in y: ``[S, Dy] -> [S, Dy]``."""
        return gradient(y, self.fixed, self.segments, self.weights)[0]


def gradient(
    y: Tensor,
    fixed: Tensor,
    segments: Segments,
    weights: Weights,
    tanh_norm: type[TanhNorm] | Any = TanhNorm,
) -> tuple[Tensor, Activations]:
    r"""The segments' gradients ``[S, Dy]`` at ``y [S, Dy]``, and the activations.

    Args:
        y: ``[S, Dy]``.
        fixed: ``[N, 3H+32]``, :math:`A_x x + a`.
        segments: of the elements.
        weights: of the potential. Products run in the dtype of the matrices.
        tanh_norm: the implementation of tanh(LN(.)). With :class:`TanhNorm` the result is
            differentiable at every order.
    """
    from_y = y.to(weights.a_y.dtype) @ weights.a_y.T  # [S, 3H+32]
    stage1, stage2, u2, output = _evaluate(from_y, fixed, segments, weights, tanh_norm)
    d3 = output * (2 / OUTPUTS)  # [N, 32]
    d2 = stage2.pull(d3 @ weights.w3)  # [N, H]
    d23 = torch.cat([d2.to(d3.dtype), d3], dim=1)
    to_t1 = d23 @ weights.b  # [N, 2H]
    # one sum after the other: putting the elements' rows side by side moves far more memory
    total = torch.cat([segments.sum(stage1.pull(to_t1)), segments.sum(d23)], dim=1)  # [S, 3H+32]
    result = (total.to(weights.a_y.dtype) @ weights.a_y).to(total.dtype)
    return result, Activations(from_y, u2, d23, to_t1, total)


def _evaluate(
    from_y: Tensor,
    fixed: Tensor,
    segments: Segments,
    weights: Weights,
    tanh_norm: type[TanhNorm] | Any = TanhNorm,
) -> tuple[Any, Any, Tensor, Tensor]:
    """Both stages, the second one's input ``[N, H]``, and the output of the network ``[N, 32]``."""
    wide, hidden = len(weights.gamma1), len(weights.gamma2)
    u = segments.gather(from_y) + fixed  # [N, 3H+32]
    stage1 = tanh_norm(u[:, :wide], weights.gamma1, weights.beta1)
    u23 = torch.addmm(u[:, wide:], stage1.output.to(u.dtype), weights.b.T)  # [N, H+32]
    u2 = u23[:, :hidden].contiguous()
    stage2 = tanh_norm(u2, weights.gamma2, weights.beta2)
    output = torch.addmm(u23[:, hidden:], stage2.output.to(u.dtype), weights.w3.T)  # [N, 32]
    return stage1, stage2, u2, output


def _after(matrix: Tensor, offset: Tensor, skip: Affine | None) -> tuple[Tensor, Tensor]:
    """``matrix @ skip(z) + offset`` as a matrix and an offset on z."""
    if skip is None:
        return matrix, offset
    return matrix @ skip.matrix, torch.addmv(offset, matrix, skip.offset)
