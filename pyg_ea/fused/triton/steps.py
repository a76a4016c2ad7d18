"""Steps of a solve forward and backward: library products, and kernels between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from pyg_ea.fused.problem import Inputs, Problem, Scalars, Settings
from pyg_ea.fused.triton.work import Backward, Forward, Work, scratch
from pyg_ea.potentials.closed_form import OUTPUTS, Weights
from pyg_ea.solver import Solution


class Kernels(Protocol):
    """The functions of :mod:`pyg_ea.fused.triton.plain`."""

    def stage1(self, w: Work) -> None: ...  # noqa: D102
    def stage2(self, w: Work) -> None: ...  # noqa: D102
    def stage3(self, w: Work) -> None: ...  # noqa: D102
    def reduce(self, w: Work) -> None: ...  # noqa: D102
    def update(self, w: Forward, state: Tensor, after: Tensor) -> None: ...  # noqa: D102
    def turn(self, w: Backward, t: int) -> None: ...  # noqa: D102


def forward(
    kernels: Kernels, problem: Problem, settings: Settings, save: bool
) -> tuple[Solution, list[Tensor]]:
    """The solution and, if ``save``, the states of the last steps and the packed weights."""
    problem = problem._replace(inputs=centred(problem.inputs))
    w, start = Forward(problem, settings), problem.inputs.start
    kept = settings.last if save else 0
    states = start.new_zeros(kept + 1, 3, w.segments, w.padded)
    states[0, 0, :, : w.channels] = start
    w.ahead[:, : w.channels] = start
    places = [max(0, t - settings.steps + kept) for t in range(settings.steps + 1)]
    slots = states.unbind()
    for before, after in pairwise(places):
        _gradient(kernels, w)
        torch.mm(w.total, w.a_y, out=w.to_ahead)
        kernels.update(w, slots[before], slots[after])
    y, velocity = states[-1, :2, :, : w.channels].clone()
    flags, occupied = w.flags.bool(), torch.ones_like(w.counts, dtype=torch.bool)
    fields = [y, velocity, *w.stats, w.counts, *flags, occupied]
    return Solution._make(fields), [states, w.a_y, w.b, w.w3] if save else []


def backward(
    kernels: Kernels,
    problem: Problem,
    settings: Settings,
    saved: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> Inputs:
    """Gradients for the cotangents of y, velocity and both mean squares."""
    problem = problem._replace(inputs=centred(problem.inputs))
    w = Backward(problem, settings, saved, cotangents)
    of_h, products = w.total[: w.segments], _Products(w)
    kernels.turn(w, settings.last)
    for t in reversed(range(settings.last)):
        _gradient(kernels, w)
        products.add()
        torch.mm(of_h, w.a_y, out=w.to_ahead)
        kernels.turn(w, t)
    weights = Weights(*w.packing.unpack(w.totals), *w.d_norm1.sum(dim=0), *w.d_norm2.sum(dim=0))
    scalars = Scalars(*w.d_scalars.sum(dim=1))
    fixed = w.d_fixed.to(w.fixed.dtype)
    return centred(Inputs(w.to_y[:, : w.channels], scalars, fixed, weights))


def centred(inputs: Inputs) -> Inputs:
    """The inputs with the mean over the width of each norm subtracted, which the norm does anyway.

    Then :math:`u_1` and :math:`u_2` have mean 0, and the norms are RMS norms. The operation is its
    own transpose, so it takes gradients back, too.
    """
    (_, _, fixed, weights), hidden = inputs, len(inputs.weights.gamma2)
    widths = [2 * hidden, hidden, OUTPUTS]
    u1, u2, u3 = fixed.split(widths, dim=1)
    fixed = torch.cat([u1 - u1.mean(dim=1, keepdim=True), u2 - u2.mean(dim=1, keepdim=True), u3], 1)
    a1, a2, a3 = weights.a_y.split(widths)
    b2, b3 = weights.b.split(widths[1:])
    a_y = torch.cat([a1 - a1.mean(dim=0), a2 - a2.mean(dim=0), a3])
    b = torch.cat([b2 - b2.mean(dim=0), b3])
    return inputs._replace(fixed=fixed, weights=weights._replace(a_y=a_y, b=b))


def _gradient(kernels: Kernels, w: Work) -> None:
    """Sums over the segments at ``ahead``."""
    torch.mm(w.ahead, w.a_y_t, out=w.from_y)
    kernels.stage1(w)
    torch.mm(w.t1, w.b_t, out=w.v)
    kernels.stage2(w)
    torch.mm(w.d23, w.b, out=w.to_t1)
    kernels.stage3(w)
    kernels.reduce(w)


class _Products:
    """Adds products of cotangents and values to the gradients of the matrices."""

    def __init__(self, w: Backward) -> None:
        pairs = (w.total.T, w.ahead), (w.d23.T, w.t1), (w.d23[:, :OUTPUTS].T, w.t2)
        self.products = list(zip(w.totals, pairs, strict=True))
        self.direct = w.fixed.dtype == w.scale.dtype
        self.of_step = [] if self.direct else [scratch(t, *t.shape) for t in w.totals]

    def add(self) -> None:
        """Adds the products of a step, in the dtype of the state."""
        if self.direct:
            for total, (left, right) in self.products:
                total.addmm_(left, right)
            return
        for out, (total, (left, right)) in zip(self.of_step, self.products, strict=True):
            if out.is_cuda:
                torch.mm(left, right, out_dtype=total.dtype, out=out)
            else:
                out.copy_(left @ right)
        torch._foreach_add_([total for total, _ in self.products], self.of_step)
