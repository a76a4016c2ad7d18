r"""The two passes over the elements that the gradient of Listing 1 and its derivative are made of.

Notation and formulas are those of :class:`pyg_ea.potentials.resnet.BoundResNet` and
:class:`pyg_ea.potentials.resnet_gradient.GradientByHand`. Here in torch's operations, for every
device; :mod:`pyg_ea.potentials.native_passes` has the same in C, for CPUs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pyg_ea.potentials.tanh_norm import FusedTanhNorm

OUTPUTS = 32  # width of the last layer, whose mean square is the potential (Listing 1)
CHUNK = 2**19  # values of the widest layer worked on at a time: what a CPU's cache holds of each


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

    @property
    def split(self) -> list[int]:
        """Sizes of ``u1`` and of ``u2, u3`` together."""
        return [self.gamma1.shape[0], self.gamma2.shape[0] + OUTPUTS]


class FromSegments(NamedTuple):
    """``A_y y`` of the segments, or the same of a tangent, in two parts."""

    of_u1: Tensor
    """``[S, 2H]``"""
    of_u23: Tensor
    """``[S, H+32]``"""

    @classmethod
    def of(cls, rows: Tensor, weights: Weights) -> FromSegments:
        """That of ``y [S, Dy]``."""
        a1, a23 = weights.a_y.split(weights.split)
        return cls(rows @ a1.T, rows @ a23.T)


class Kept(NamedTuple):
    """What the pass back needs of the pass forth; it makes the outputs of the two tanh again."""

    u2: Tensor
    """``[N, H]``"""
    d23: Tensor
    """``[N, H+32]``"""
    to_t1: Tensor
    """``[N, 2H]``"""

    @staticmethod
    def widths(weights: Weights) -> tuple[int, int, int]:
        """Sizes of the three."""
        wide, hidden, outputs = weights.widths
        return hidden, hidden + outputs, wide

    @classmethod
    def room(cls, fixed: Tensor, weights: Weights) -> Kept:
        """Memory for it, for as many elements as ``fixed [N, 3H+32]`` has."""
        return cls(*(fixed.new_empty(len(fixed), width) for width in cls.widths(weights)))

    def of(self, rows: slice) -> Kept:
        """That of some elements."""
        return Kept(*(tensor[rows] for tensor in self))


class Scratch:
    """Memory for what lies between two products, the same for every chunk: it stays in the cache,
    and the system need not be asked for it.

    Args:
        like: a tensor of its device and dtype.
    """

    def __init__(self, like: Tensor) -> None:
        self.like = like
        self.memory: dict[str, Tensor] = {}

    def __call__(self, name: str, rows: int, width: int) -> Tensor:
        """The memory of that name, ``[rows, width]``; the first chunk is the largest."""
        if name not in self.memory:
            self.memory[name] = self.like.new_empty(rows, width)
        return self.memory[name][:rows]


class Passes:
    """The two passes. Both work on a chunk of elements at a time."""

    @staticmethod
    def forth(
        from_y: FromSegments, fixed: Tensor, index: Tensor, weights: Weights, kept: Kept | None
    ) -> Tensor:
        r"""The segments' sums of :math:`\delta`, ``[S, 3H+32]``. Fills ``kept``, if given."""
        total1, total23 = map(torch.zeros_like, from_y)
        scratch, widths = Scratch(fixed), Kept.widths(weights)
        for rows in _chunks(fixed, weights):
            if kept is None:
                size = rows.stop - rows.start
                out = Kept(*map(scratch, Kept._fields, 3 * [size], widths))
            else:
                out = kept.of(rows)
            d1 = _chunk_forth(from_y, fixed[rows], index[rows], weights, scratch, out)
            total1.index_add_(0, index[rows], d1)
            total23.index_add_(0, index[rows], out.d23)
        return torch.cat([total1, total23], dim=1)

    @staticmethod
    def back(
        from_y1: Tensor,
        from_dy: FromSegments,
        fixed: Tensor,
        index: Tensor,
        weights: Weights,
        kept: Kept,
        d_fixed: Tensor,
    ) -> tuple[Tensor, list[Tensor]]:
        r"""The segments' sums of :math:`\eta`, ``[S, 3H+32]``, and the derivatives in the weights
        but ``a_y``. Adds :math:`\eta` to ``d_fixed [N, 3H+32]``.
        """
        total = fixed.new_zeros(len(from_y1), fixed.shape[1])
        sums = [torch.zeros_like(weight) for weight in weights[1:]]
        scratch = Scratch(fixed)
        for rows in _chunks(fixed, weights):
            chunk = fixed[rows], index[rows], kept.of(rows)
            h, *derivatives = _chunk_back(from_y1, from_dy, *chunk, weights, scratch)
            d_fixed[rows] += h
            total.index_add_(0, index[rows], h)
            for sum_, part in zip(sums, derivatives, strict=True):
                sum_ += part
        return total, sums


def _chunk_forth(
    from_y: FromSegments,
    fixed: Tensor,
    segment: Tensor,
    weights: Weights,
    scratch: Scratch,
    kept: Kept,
) -> Tensor:
    r""":math:`\delta_1` ``[n, 2H]`` of a chunk of ``n`` elements; fills ``kept`` with the rest."""
    _, b, w3, gamma1, beta1, gamma2, beta2 = weights
    (wide, hidden), n = weights.widths[:2], len(fixed)
    u1 = torch.index_select(from_y.of_u1, 0, segment, out=scratch("u1", n, wide))
    u1 += fixed[:, :wide]
    stage1 = FusedTanhNorm.at(u1, gamma1, beta1)
    u23 = torch.index_select(from_y.of_u23, 0, segment, out=scratch("u23", n, hidden + OUTPUTS))
    u23 += fixed[:, wide:]
    u23.addmm_(stage1.output, b.T)
    u2 = kept.u2.copy_(u23[:, :hidden])  # [n, H]
    stage2 = FusedTanhNorm.at(u2, gamma2, beta2)
    d2, d3 = kept.d23.split([hidden, OUTPUTS], dim=1)  # [n, H], [n, 32]
    torch.addmm(u23[:, hidden:], stage2.output, w3.T, out=d3).mul_(2 / OUTPUTS)
    stage2.pull(torch.mm(d3, w3, out=scratch("to_t2", n, hidden)), out=d2)
    d1 = scratch("d1", n, wide)
    stage1.pull(torch.mm(kept.d23, b, out=kept.to_t1), out=d1)
    return d1


def _chunk_back(
    from_y1: Tensor,
    from_dy: FromSegments,
    fixed: Tensor,
    segment: Tensor,
    kept: Kept,
    weights: Weights,
    scratch: Scratch,
) -> tuple[Tensor, ...]:
    r""":math:`\eta` ``[n, 3H+32]`` of a chunk, and its derivatives in the weights but a_y."""
    _, b, w3, gamma1, beta1, gamma2, beta2 = weights
    (wide, hidden), n = weights.widths[:2], len(fixed)
    u1 = torch.index_select(from_y1, 0, segment, out=scratch("u1", n, wide))
    u1 += fixed[:, :wide]
    stage1 = FusedTanhNorm.at(u1, gamma1, beta1)
    stage2 = FusedTanhNorm.at(kept.u2, gamma2, beta2)
    d3 = kept.d23[:, hidden:]  # [n, 32]

    dt1 = stage1.push(from_dy.of_u1.index_select(0, segment))
    du23 = torch.index_select(from_dy.of_u23, 0, segment, out=scratch("du23", n, hidden + OUTPUTS))
    du23.addmm_(dt1, b.T)
    dt2 = stage2.push(du23[:, :hidden])
    do = du23[:, hidden:].addmm_(dt2, w3.T)  # [n, 32]

    h = scratch("h", n, fixed.shape[1])
    h1, h2, h3 = h.split(weights.widths, dim=1)
    h23 = h[:, wide:]  # [n, H+32]
    torch.mul(do, 2 / OUTPUTS, out=h3)
    to_t2 = torch.mm(h3, w3, out=scratch("to_t2", n, hidden))
    to_dt2 = torch.mm(d3, w3, out=scratch("to_dt2", n, hidden))
    d_norm2 = stage2.pull_both(to_t2, to_dt2, out=h2)
    to_t1 = torch.mm(h23, b, out=scratch("to_t1", n, wide))
    d_norm1 = stage1.pull_both(to_t1, kept.to_t1, out=h1)
    d_b = torch.addmm(h23.T @ stage1.output, kept.d23.T, dt1)  # [H+32, 2H]
    d_w3 = torch.addmm(h3.T @ stage2.output, d3.T, dt2)  # [32, H]
    return h, d_b, d_w3, *d_norm1, *d_norm2


def _chunks(fixed: Tensor, weights: Weights) -> Iterator[slice]:
    """Rows to work on at a time: a cacheful on a CPU, elsewhere all."""
    rows = len(fixed)
    size = max(CHUNK // weights.widths[0], 1) if fixed.device.type == "cpu" else max(rows, 1)
    return (slice(i, min(i + size, rows)) for i in range(0, rows, size))
