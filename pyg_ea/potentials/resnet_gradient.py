r"""The inner gradient of Listing 1 as a function of tensors, and its derivative by hand.

Notation and formula are those of :class:`pyg_ea.potentials.resnet.BoundResNet`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx
from torch.nn import functional as F

from pyg_ea.potentials.collector import Collected, Collector, collect
from pyg_ea.potentials.native import gather_add, tanh_norm_for
from pyg_ea.potentials.tanh_norm import TanhNorm
from pyg_ea.segments import Segments

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
    return _sum_pulled(_from_segments(y, weights), fixed, index, weights) @ weights.a_y


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

    On a CPU a few hundred elements at a time go through the whole network, so that what lies
    between two products stays in the cache. Where backward is to be differentiated again, it goes
    through :func:`plain_gradient_in_y` instead.
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
        from_y = _from_segments(y, weights)
        kept = Kept(*(fixed.new_empty(len(fixed), width) for width in Kept.widths(weights)))
        total = _sum_pulled(from_y, fixed, index, weights, kept)
        ctx.num_segments, ctx.collector = num_segments, collector  # type: ignore[attr-defined]
        ctx.save_for_backward(y, fixed, index, *composed, total, from_y[0], *kept)
        return total @ weights.a_y

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        """The derivative along ``dy [S, Dy]`` and back; see the class."""
        y, fixed, index, *rest = ctx.saved_tensors
        size = len(Weights._fields)
        weights, (total, from_y1, *parts) = Weights(*rest[:size]), rest[size:]
        if torch.is_grad_enabled():
            return _again(dy, y, fixed, index, ctx.num_segments, weights)
        from_dy = _from_segments(dy, weights)
        d_fixed, one = ctx.collector.take_part(fixed)  # [N, 3H+32], []
        h_total = torch.zeros_like(total)  # [S, 3H+32]
        sums = [torch.zeros_like(weight) for weight in weights[1:]]
        kept, scratch = Kept(*parts), Scratch(fixed)
        for rows in _chunks(fixed, weights):
            chunk = fixed[rows], index[rows], kept.of(rows)
            h, *derivatives = _back(from_y1, from_dy, *chunk, weights, scratch)
            d_fixed[rows] += h
            h_total.index_add_(0, index[rows], h)
            for sum_, part in zip(sums, derivatives, strict=True):
                sum_ += part
        d_a = torch.addmm(h_total.T @ y, total.T, dy)  # [3H+32, Dy]
        return h_total @ weights.a_y, None, one, None, None, None, d_a, *sums


class Kept(NamedTuple):
    """What backward needs of the elements; the outputs of the two tanh are made again."""

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


def _from_segments(rows: Tensor, weights: Weights) -> tuple[Tensor, Tensor]:
    """``A_y y``, or the same of a tangent: ``[S, Dy] -> [S, 2H], [S, H+32]``."""
    a1, a23 = weights.a_y.split(weights.split)
    return rows @ a1.T, rows @ a23.T


def _sum_pulled(
    from_y: tuple[Tensor, Tensor],
    fixed: Tensor,
    index: Tensor,
    weights: Weights,
    kept: Kept | None = None,
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
        d1 = _forth(from_y, fixed[rows], index[rows], weights, scratch, out)
        total1.index_add_(0, index[rows], d1)
        total23.index_add_(0, index[rows], out.d23)
    return torch.cat([total1, total23], dim=1)


def _forth(
    from_y: tuple[Tensor, Tensor],
    fixed: Tensor,
    segment: Tensor,
    weights: Weights,
    scratch: Scratch,
    kept: Kept,
) -> Tensor:
    r""":math:`\delta_1` ``[n, 2H]`` of a chunk of ``n`` elements; fills ``kept`` with the rest."""
    _, b, w3, gamma1, beta1, gamma2, beta2 = weights
    (wide, hidden), n = weights.widths[:2], len(fixed)
    tanh_norm = tanh_norm_for(fixed)
    u1 = gather_add(from_y[0], segment, fixed[:, :wide], out=scratch("u1", n, wide))
    stage1 = tanh_norm.at(u1, gamma1, beta1, scratch("t1", n, wide))
    u23 = gather_add(from_y[1], segment, fixed[:, wide:], out=scratch("u23", n, hidden + OUTPUTS))
    u23.addmm_(stage1.output, b.T)
    u2 = kept.u2.copy_(u23[:, :hidden])  # [n, H]
    stage2 = tanh_norm.at(u2, gamma2, beta2, scratch("t2", n, hidden))
    d2, d3 = kept.d23.split([hidden, OUTPUTS], dim=1)  # [n, H], [n, 32]
    torch.addmm(u23[:, hidden:], stage2.output, w3.T, out=d3).mul_(2 / OUTPUTS)
    stage2.pull(torch.mm(d3, w3, out=scratch("to_t2", n, hidden)), out=d2)
    d1 = scratch("d1", n, wide)
    stage1.pull(torch.mm(kept.d23, b, out=kept.to_t1), out=d1)
    return d1


def _back(
    from_y1: Tensor,
    from_dy: tuple[Tensor, Tensor],
    fixed: Tensor,
    segment: Tensor,
    kept: Kept,
    weights: Weights,
    scratch: Scratch,
) -> tuple[Tensor, ...]:
    r""":math:`\eta` ``[n, 3H+32]`` of a chunk, and its derivatives in the weights but a_y."""
    _, b, w3, gamma1, beta1, gamma2, beta2 = weights
    (wide, hidden), n = weights.widths[:2], len(fixed)
    tanh_norm = tanh_norm_for(fixed)
    u1 = gather_add(from_y1, segment, fixed[:, :wide], out=scratch("u1", n, wide))
    stage1 = tanh_norm.at(u1, gamma1, beta1, scratch("t1", n, wide))
    stage2 = tanh_norm.at(kept.u2, gamma2, beta2, scratch("t2", n, hidden))
    d3 = kept.d23[:, hidden:]  # [n, 32]

    dt1 = stage1.push(from_dy[0], segment, scratch("dt1", n, wide))
    du23 = torch.index_select(from_dy[1], 0, segment, out=scratch("du23", n, hidden + OUTPUTS))
    du23.addmm_(dt1, b.T)
    dt2 = stage2.push(du23[:, :hidden], scratch=scratch("dt2", n, hidden))
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


def _again(
    dy: Tensor, y: Tensor, fixed: Tensor, index: Tensor, num_segments: int, weights: Weights
) -> tuple[Tensor | None, ...]:
    """The same derivative by autograd, which can differentiate it again.

    In aliases of the inputs: ``y`` comes from earlier steps, and with it from the other inputs.
    """
    inputs = [tensor.view_as(tensor) for tensor in (y, fixed, *weights)]
    y, fixed, *composed = inputs
    gradient = plain_gradient_in_y(y, fixed, index, num_segments, Weights(*composed))
    wanted = [tensor for tensor in inputs if tensor.requires_grad]
    got = iter(torch.autograd.grad(gradient, wanted, dy, create_graph=True))
    d_y, d_fixed, *d_weights = (next(got) if t.requires_grad else None for t in inputs)
    return d_y, d_fixed, None, None, None, None, *d_weights
