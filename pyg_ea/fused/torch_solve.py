r"""The fused solve in torch operations, for every device: steps forward and steps backward.

For cotangents :math:`\bar y, \bar m` after a step and :math:`\bar n` of the mean square of its
gradient, with :math:`a` the mask of segments that move and :math:`y` not clipped:

.. math::
    \bar v &= \bar m + a \, \bar y, \qquad \bar g = \tfrac{2}{D} \bar n \, g - \eta \bar v, \qquad
    \bar l = \nabla^2 E(l) \, \bar g \\
    \bar y &\leftarrow \bar y + \bar l, \qquad \bar m \leftarrow \mu (\bar v + \bar l) \\
    \partial_\eta &= -\langle \bar v, g \rangle, \qquad
    \partial_\mu = \langle \bar v + \bar l, m \rangle

with :math:`l = y + \mu m` the look-ahead point and :math:`m` the velocity before the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_ea.fused import elements
from pyg_ea.fused.elements import Activations
from pyg_ea.fused.problem import Problem, Settings
from pyg_ea.solver import Solution, nesterov_step


class Elements(NamedTuple):
    """The work on the elements, as it is or compiled; see :mod:`pyg_ea.fused.elements`."""

    forward: Callable[..., tuple[Tensor, Activations]] = elements.forward
    backward: Callable[..., tuple[Tensor, Tensor, list[Tensor]]] = elements.backward

    @classmethod
    def compiled(cls, **options: Any) -> Elements:
        """Both functions through ``torch.compile`` with these options."""
        forward, backward = cls()
        return cls(torch.compile(forward, **options), torch.compile(backward, **options))


class Step(NamedTuple):
    """What backward needs of a step."""

    y: Tensor
    """``[S, D]`` before the step, like ``momentum``."""
    momentum: Tensor
    g: Tensor
    """``[S, D]``, the energy's gradient at the look-ahead point."""
    total: Tensor
    r"""``[S, 3H+32]``, sums of :math:`\delta`, like ``from_y``, that is :math:`A_y l`."""
    from_y: Tensor
    activations: Activations


class TorchSolve:
    """Backend of the fused solve in torch operations.

    Args:
        elements: the work on the elements.
    """

    def __init__(self, elements: Elements = Elements()) -> None:  # noqa: B008, a constant
        self.elements = elements

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and what backward needs of it, if ``save``."""
        saved: list[Tensor] = []
        state = Solution.at_rest(problem.start)
        for t in range(settings.steps):
            after, step = self._step(problem, settings, state)
            if save and t >= settings.steps - settings.last:
                saved += step[:2] if settings.recompute else [*step[:5], *step.activations]
            state = after
        return state, saved

    def backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Problem:
        """Gradients for the cotangents of y, momentum and both mean squares."""
        to_y, to_m, to_last, to_path = cotangents
        zeros = [torch.zeros_like(tensor) for tensor in problem.differentiable]
        sums = Problem._make([*zeros, None, None])
        size = len(saved) // settings.last
        for t in reversed(range(settings.last)):
            parts = saved[t * size : (t + 1) * size]
            if settings.recompute:
                state = Solution.at_rest(parts[0])._replace(momentum=parts[1])
                _, step = self._step(problem, settings, state)
            else:
                step = Step._make([*parts[:5], Activations(*parts[5:])])
            to_square = to_path + to_last if t == settings.last - 1 else to_path
            to_y, to_m = self._step_backward(problem, settings, step, to_y, to_m, to_square, sums)
        return sums._replace(start=to_y)

    def _step(self, problem: Problem, settings: Settings, state: Solution) -> tuple[Solution, Step]:
        of_elements: list[Any] = []

        def gradient(ahead: Tensor) -> Tensor:
            from_y = ahead @ problem.a_y.T
            elements = problem.fixed, problem.segment_index, problem.weights
            total, activations = self.elements.forward(from_y, *elements)
            of_elements[:] = total, from_y, activations
            prior = 2 * problem.decay * ahead
            return problem.scale[:, None] * torch.addmm(prior, total, problem.a_y)

        constants = problem.lr, problem.momentum, settings.gtol, settings.clip
        after, g = nesterov_step(gradient, state, *constants)
        return after, Step(state.y, state.momentum, g, *of_elements)

    def _step_backward(
        self,
        problem: Problem,
        settings: Settings,
        step: Step,
        to_y: Tensor,
        to_m: Tensor,
        to_square: Tensor,
        sums: Problem,
    ) -> tuple[Tensor, Tensor]:
        """The cotangents of y and momentum before the step; adds to ``sums`` in place."""
        lr, mu, decay, g = problem.lr, problem.momentum, problem.decay, step.g
        moves = (g.abs().amax(dim=1) >= settings.gtol)[:, None]
        if settings.clip is not None:
            velocity = torch.addcmul(mu * step.momentum, lr, g, value=-1)
            free = step.y + torch.where(moves, velocity, 0.0)
            to_y = torch.where(free.abs() <= settings.clip, to_y, 0.0)
        to_v = to_m + torch.where(moves, to_y, 0.0)
        to_g = (2 / g.shape[1] * to_square)[:, None] * g - lr * to_v
        dy = problem.scale[:, None] * to_g
        from_dy = dy @ problem.a_y.T
        elements = problem.fixed, problem.segment_index, problem.weights, step.activations
        h_total, h, d_weights = self.elements.backward(step.from_y, from_dy, *elements)
        ahead = torch.addcmul(step.y, mu, step.momentum)
        to_ahead = torch.addmm(2 * decay * dy, h_total, problem.a_y)
        sums.lr.sub_((to_v * g).sum())
        sums.momentum.add_(((to_v + to_ahead) * step.momentum).sum())
        sums.decay.add_(2 * (dy * ahead).sum())
        sums.fixed.add_(h)
        sums.a_y.addmm_(h_total.T, ahead).addmm_(step.total.T, dy)
        for total, part in zip(sums.weights[1:], d_weights, strict=True):
            total.add_(part)
        return to_y + to_ahead, mu * (to_v + to_ahead)
