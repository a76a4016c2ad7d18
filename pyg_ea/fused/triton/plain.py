"""The kernels' functions in torch operations: what they compute, on any device and in any dtype.

They read and write the same buffers, except that padding and unused rows may differ.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pyg_ea.fused.triton.work import ROWS, Backward, Forward, Work
from pyg_ea.potentials.closed_form import OUTPUTS
from pyg_ea.potentials.tanh_norm import EPS


class Norm:
    """tanh(norm(u)) of each element, its tangent, and the derivatives of both.

    Args:
        u: ``[N, K]``, centred.
        du: tangent of u, ``[N, K]``.
        gamma: ``[K]``.
        beta: ``[K]``.
    """

    def __init__(self, u: Tensor, du: Tensor, gamma: Tensor, beta: Tensor) -> None:
        self.gamma, self.inv = gamma, torch.rsqrt(_mean(u * u) + EPS)
        self.n = u * self.inv
        self.t = torch.tanh(gamma * self.n + beta)
        self.slope = 1 - self.t.square()
        self.a = _mean(self.n * du)
        self.dn = self.inv * (du - self.n * self.a)
        self.dt = self.slope * gamma * self.dn

    def pull(self, d: Tensor) -> Tensor:
        """The gradient of ``<d, t>`` in u."""
        return self._j(self.gamma * self.slope * d)

    def pull_both(self, e: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of ``<e, t> + <d, dt>`` in u, and in gamma and beta by element."""
        w = self.gamma * self.slope * d
        q = self.slope * (e - 2 * self.t * self.gamma * self.dn * d)
        of_u = self._j(self.gamma * q) - self.a * self.inv * self._j(w)
        of_u = of_u - self.inv * (_mean(w * self.n) * self.dn + _mean(w * self.dn) * self.n)
        return of_u, q * self.n + self.slope * d * self.dn, q

    def _j(self, g: Tensor) -> Tensor:
        return self.inv * (g - self.n * _mean(g * self.n))


def stage1(w: Work) -> None:
    r""":math:`t_1` and its tangent, from ``from_y`` and ``fixed``."""
    norm, wide = _norm1(w), 2 * w.hidden
    w.t1[: w.elements, :wide] = norm.t
    if w.tangents:
        w.t1[w.elements :, :wide] = norm.dt


def stage2(w: Work) -> None:
    r""":math:`\delta_{23}` and their sums, from ``from_y``, ``fixed`` and ``v``; with tangents also
    :math:`\eta_{23}`, :math:`t_2`, its tangent, and the gradients of the norm and of ``fixed``.
    """
    hidden, n, wide, output = w.hidden, w.elements, w.wide, slice(0, OUTPUTS)
    second = slice(OUTPUTS, OUTPUTS + hidden)
    u, du = _gather(w, wide)
    u, du = u + w.v[:n], du + (w.v[n:] if w.tangents else 0)
    u[:, output] += w.fixed[:, 3 * hidden :]
    u[:, second] += w.fixed[:, 2 * hidden : 3 * hidden]
    norm, dtype = Norm(u[:, second], du[:, second], w.gamma2, w.beta2), w.w3.dtype
    w3 = w.w3[:, :hidden].to(u.dtype)

    def through_w3(t: Tensor) -> Tensor:
        return t.to(dtype).to(u.dtype) @ w3.T

    d3 = (u[:, output] + through_w3(norm.t)) * (2 / OUTPUTS)
    to_t2 = d3.to(dtype).to(u.dtype) @ w3
    d23 = torch.cat([d3, norm.pull(to_t2)], dim=1)
    _sum(w, d23, wide, tangent=w.tangents)
    w.d23[len(w.d23) - n :, : OUTPUTS + hidden] = d23
    if isinstance(w, Backward):
        w.t2[:n, :hidden], w.t2[n:, :hidden] = norm.t, norm.dt
        h3 = (du[:, output] + through_w3(norm.dt)) * (2 / OUTPUTS)
        h2, of_gamma, of_beta = norm.pull_both(h3.to(dtype).to(u.dtype) @ w3, to_t2)
        h23 = torch.cat([h3, h2], dim=1)
        _sum(w, h23, wide, tangent=False)
        w.d23[:n, : OUTPUTS + hidden] = h23
        w.d_fixed[:, 2 * hidden :] += torch.cat([h2, h3], dim=1)
        w.d_norm2[:1] += torch.stack([of_gamma.sum(0), of_beta.sum(0)])


def stage3(w: Work) -> None:
    r"""Sums of :math:`\delta_1`, from ``from_y``, ``fixed`` and ``to_t1``; with tangents also of
    :math:`\eta_1`, and the gradients of the norm and of ``fixed``.
    """
    norm, wide, n = _norm1(w), 2 * w.hidden, w.elements
    to_t1 = w.to_t1[:, :wide].to(norm.t.dtype)
    _sum(w, norm.pull(to_t1[len(to_t1) - n :]), 0, tangent=w.tangents)
    if isinstance(w, Backward):
        h1, of_gamma, of_beta = norm.pull_both(to_t1[:n], to_t1[n:])
        _sum(w, h1, 0, tangent=False)
        w.d_fixed[:, :wide] += h1
        w.d_norm1[:1] += torch.stack([of_gamma.sum(0), of_beta.sum(0)])


def reduce(w: Work) -> None:
    """Sums of ``partial`` over the blocks of each segment."""
    total = w.partial.new_zeros(w.total.shape)
    for k, partial in enumerate(w.partial.chunk(1 + w.tangents)):
        for s, (begin, end) in enumerate(zip(w.ptr[:-1].tolist(), w.ptr[1:].tolist(), strict=True)):
            blocks = range(begin // ROWS, -(-end // ROWS)) if end > begin else range(0)
            for block in blocks:
                total[k * w.segments + s] += partial[block + s]
    used = torch.arange(w.width, device=total.device)
    used = (used < 2 * w.hidden) | ((used >= w.wide) & (used < w.wide + OUTPUTS + w.hidden))
    w.total.copy_(torch.where(used, total, 0.0))


def update(w: Forward, state: Tensor, after: Tensor) -> None:
    """One step of the solver, from ``state [3, S, Dp]``, whose gradient it sets, to ``after``; and
    the next look-ahead points.
    """
    channels, (lr, mu, prior_weight) = w.channels, w.scalars
    y, v, g = state[:, :, :channels].clone()
    product = w.to_ahead[:, :channels].to(y.dtype)
    g = w.scale[:, None] * (2 * prior_weight * (y + mu * v) + product)
    largest = g.abs().amax(dim=1)
    v = mu * v - lr * g
    y = y + torch.where((largest < w.gtol)[:, None], 0.0, v)
    y = y.clamp(-w.clip, w.clip) if w.clip else y
    state[2, :, :channels], after[0, :, :channels], after[1, :, :channels] = g, y, v
    w.ahead[:, :channels] = y + mu * v
    square, first = g.square().mean(dim=1), w.stats[2]
    w.stats.copy_(
        torch.stack([square, w.stats[1] + square, torch.where(first > 0, first, largest), largest])
    )
    w.counts += ~(largest < w.gtol)
    w.flags.copy_(torch.stack([largest < w.gtol, ~y.isfinite().all(dim=1)]))


def turn(w: Backward, t: int) -> None:
    """Between two steps backward: the cotangents of y and velocity after step ``t``, if there is
    one, and the look-ahead points and directions of step ``t - 1``, if there is one.
    """
    channels, s, (lr, mu, prior_weight) = w.channels, w.segments, w.scalars
    to_y, to_v = w.to_y[:, :channels], w.to_v[:, :channels]

    def direction(t: int) -> Tensor:
        of_g = (2 / channels * w.squares[t])[:, None] * w.states[t, 2, :, :channels] - lr * to_v
        return w.scale[:, None] * of_g

    if t < len(w.squares):
        to_ahead = 2 * prior_weight * direction(t) + w.to_ahead[:, :channels]
        to_v += to_ahead
        w.d_scalars[1] += (to_v * w.states[t, 1, :, :channels]).sum(dim=1)
        to_y += to_ahead
        to_v *= mu
    if t > 0:
        y, v, g = w.states[t - 1, :, :, :channels]
        moves = ~(g.abs().amax(dim=1) < w.gtol)[:, None]
        if w.clip:
            free = y + torch.where(moves, mu * v - lr * g, 0.0)
            to_y *= free.abs() <= w.clip
        to_v += torch.where(moves, to_y, 0.0)
        ahead, dy = y + mu * v, direction(t - 1)
        w.ahead[:s, :channels], w.ahead[s:, :channels] = ahead, dy
        w.d_scalars[0] -= (to_v * g).sum(dim=1)
        w.d_scalars[2] += 2 * (dy * ahead).sum(dim=1)


def _norm1(w: Work) -> Norm:
    u, du = _gather(w, 0)
    wide = 2 * w.hidden
    return Norm(u[:, :wide] + w.fixed[:, :wide], du[:, :wide], w.gamma1, w.beta1)


def _gather(w: Work, first: int) -> tuple[Tensor, Tensor]:
    """Columns of ``from_y`` from ``first`` on, by element: values and tangents, 0 without."""
    columns = slice(0, w.wide) if first == 0 else slice(w.wide, w.width)
    from_y = w.from_y[:, columns].to(w.partial.dtype)
    u = from_y[w.index]
    return u, from_y[w.index + w.segments] if w.tangents else torch.zeros_like(u)


def _sum(w: Work, rows: Tensor, first: int, tangent: bool) -> None:
    """Sums over each pair of a block and a segment, to columns of ``partial`` from ``first`` on."""
    partial = w.partial.chunk(1 + w.tangents)[int(tangent)]
    place = torch.arange(w.elements, device=rows.device) // ROWS + w.index
    sums = partial.new_zeros(len(partial), rows.shape[1]).index_add_(0, place, rows)
    partial[:, first : first + rows.shape[1]] = sums


def _mean(x: Tensor) -> Tensor:
    return x.mean(dim=1, keepdim=True)
