r"""Steps of a solve forward and backward, in torch operations.

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

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_ea.fused.problem import Inputs, Problem, Scalars, Settings
from pyg_ea.fused.torch.elements import FusedTanhNorm, Pair, hessian_product
from pyg_ea.potentials.closed_form import Activations, gradient
from pyg_ea.potentials.tanh_norm import TanhNorm
from pyg_ea.solver import Solution, nesterov_step
from pyg_ea.tensors import without_autocast


class State(NamedTuple):
    """State of the solver before a step, saved for backward."""

    y: Tensor
    """``[S, D]``"""
    velocity: Tensor
    """``[S, D]``"""


class Cotangents(NamedTuple):
    """Cotangents of y ``[S, D]``, velocity ``[S, D]`` and mean square of the gradient ``[S]``."""

    y: Tensor
    velocity: Tensor
    mean_square: Tensor


def step(
    problem: Problem, state: Solution, settings: Settings, tanh_norm: type[TanhNorm] | Any
) -> tuple[Solution, Tensor, Activations]:
    """One step of the solver, the gradient of the energy ``[S, D]``, and its activations."""
    inputs, activations = problem.inputs, []

    def energy_gradient(y: Tensor) -> Tensor:
        potential, found = gradient(y, inputs.fixed, problem.segments, inputs.weights, tanh_norm)
        activations.append(found)
        return problem.scale[:, None] * (2 * inputs.scalars.prior_weight * y + potential)

    constants = inputs.scalars.lr, inputs.scalars.momentum, settings.gtol, settings.clip
    after, g = nesterov_step(energy_gradient, state, *constants)
    return after, g, activations[0]


def plain_steps(problem: Problem, settings: Settings) -> Solution:
    """All steps in plain operations, differentiable at every order."""
    problem = problem._replace(inputs=_cast(problem.inputs))
    state = Solution.at_rest(problem.inputs.start)
    wanted = torch.is_grad_enabled()
    for t in range(settings.steps):
        with torch.set_grad_enabled(wanted and t >= settings.steps - settings.last):
            state, *_ = step(problem, state, settings, TanhNorm)
    return state


class TorchBackend:
    """Backend in torch operations.

    Products run in the dtype of ``fixed``, everything else in the dtype of ``start``.
    """

    name = "torch"

    def unsupported(self, problem: Problem) -> str | None:
        """None: it takes every problem."""
        return None

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and the tensors saved for backward if ``save``."""
        saved: list[Tensor] = []
        with torch.no_grad(), without_autocast(problem.inputs.start):
            problem = problem._replace(inputs=_cast(problem.inputs))
            state = Solution.at_rest(problem.inputs.start)
            for t in range(settings.steps):
                after, g, activations = step(problem, state, settings, FusedTanhNorm)
                if save and t >= settings.steps - settings.last:
                    saved += [state.y, state.velocity]
                    saved += [] if settings.recompute else [g, *activations]
                state = after
        return state, saved

    def backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Inputs:
        """Gradients for the cotangents of y, velocity and both mean squares."""
        to_y, to_velocity, to_last, to_path = (tensor.contiguous() for tensor in cotangents)
        with without_autocast(problem.inputs.start):
            problem = problem._replace(inputs=_cast(problem.inputs))
            gradients = _Gradients(problem)
            to = Cotangents(to_y, to_velocity, to_path + to_last)
            size = len(saved) // settings.last
            for t in reversed(range(settings.last)):
                y, velocity, *rest = saved[t * size : (t + 1) * size]
                if settings.recompute:
                    state = Solution.at_rest(y)._replace(velocity=velocity)
                    _, g, activations = step(problem, state, settings, FusedTanhNorm)
                else:
                    g, activations = rest[0], Activations(*rest[1:])
                to = gradients.add_step(State(y, velocity), g, activations, to, settings)
                to = to._replace(mean_square=to_path)
            return gradients.result(to.y)


class _Gradients:
    """Gradients of the inputs, summed over steps. Scalars are kept by segment until the end."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        inputs, zeros = problem.inputs, problem.inputs.start.new_zeros
        self.scalars = Scalars(*(zeros(problem.scale.shape) for _ in inputs.scalars))
        self.fixed = zeros(inputs.fixed.shape)
        self.weights = type(inputs.weights)(*(zeros(w.shape) for w in inputs.weights))

    def add_step(
        self,
        before: State,
        g: Tensor,
        activations: Activations,
        to: Cotangents,
        settings: Settings,
    ) -> Cotangents:
        """Adds one step's gradients and returns the cotangents before the step."""
        lr, mu, prior_weight = self.problem.inputs.scalars
        a_y, gtol, clip = self.problem.inputs.weights.a_y, settings.gtol, settings.clip
        to_y, moves = to.y, ~(g.abs().amax(dim=1) < gtol)[:, None]
        if clip is not None:
            velocity = torch.addcmul(mu * before.velocity, lr, g, value=-1)
            free = before.y + torch.where(moves, velocity, 0.0)
            to_y = torch.where(free.abs() <= clip, to_y, 0.0)
        to_velocity = to.velocity + torch.where(moves, to_y, 0.0)
        to_g = (2 / g.shape[1] * to.mean_square)[:, None] * g - lr * to_velocity
        dy = self.problem.scale[:, None] * to_g
        hessian = hessian_product(self.problem, dy.to(a_y.dtype) @ a_y.T, activations)
        ahead = torch.addcmul(before.y, mu, before.velocity)
        to_ahead = 2 * prior_weight * dy + (hessian.total.to(a_y.dtype) @ a_y).to(dy.dtype)
        self.scalars.lr.sub_((to_velocity * g).sum(dim=1))
        to_velocity = to_velocity + to_ahead
        self.scalars.momentum.add_((to_velocity * before.velocity).sum(dim=1))
        self.scalars.prior_weight.add_(2 * (dy * ahead).sum(dim=1))
        self.fixed.add_(hessian.fixed)
        _add_products(self.weights.a_y, [(hessian.total, ahead), (activations.total, dy)], a_y)
        _add_products(self.weights.b, hessian.b, a_y)
        _add_products(self.weights.w3, hessian.w3, a_y)
        weights = self.weights
        norms = (weights.gamma1, weights.beta1, weights.gamma2, weights.beta2)
        for total, part in zip(norms, hessian.norms, strict=True):
            total.add_(part)
        return Cotangents(to_y + to_ahead, mu * to_velocity, to.mean_square)

    def result(self, start: Tensor) -> Inputs:
        """All gradients; ``start [S, D]`` is the cotangent of y before the first step."""
        scalars = Scalars(*(of_segment.sum() for of_segment in self.scalars))
        return Inputs(start, scalars, self.fixed, self.weights)


def _add_products(total: Tensor, pairs: list[Pair], like: Tensor) -> None:
    """Adds ``left.T @ right`` of each pair, computed in the dtype of ``like``."""
    for left, right in pairs:
        left, right = left.to(like.dtype), right.to(like.dtype)
        if left.dtype == total.dtype:
            total.addmm_(left.T, right)
        else:
            total.add_(left.T @ right)


def _cast(inputs: Inputs) -> Inputs:
    """The inputs with the matrices in the dtype of products."""
    matrices = {name: getattr(inputs.weights, name) for name in ("a_y", "b", "w3")}
    cast = {name: matrix.to(inputs.fixed.dtype) for name, matrix in matrices.items()}
    return inputs._replace(weights=inputs.weights._replace(**cast))
