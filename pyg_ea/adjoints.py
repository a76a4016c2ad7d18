"""Adjoints: how the backward pass differentiates the inner loop."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.utils.checkpoint import checkpoint

from pyg_ea.checks import positive_integer
from pyg_ea.energy import Energy
from pyg_ea.fused import solve
from pyg_ea.solver import NesterovSolver, Solution
from pyg_ea.tensors import in_transform


class Adjoint(Protocol):
    """Runs the solver on the energy and decides how the result is differentiated."""

    def solve(self, solver: NesterovSolver, energy: Energy, y: Tensor, steps: int) -> Solution:
        """``steps`` solver steps from ``y [S, D]``. All adjoints return the same values."""


class _StepAdjoint:
    """Gradient of the steps: by a backend that supports the solve, else step by step."""

    def solve(self, solver: NesterovSolver, energy: Energy, y: Tensor, steps: int) -> Solution:
        """See :meth:`Adjoint.solve`."""
        solution = solve(solver, energy, y, steps, **self._options())
        return self._plain(solver, energy, y, steps) if solution is None else solution

    def _options(self) -> dict[str, Any]:
        """Further arguments of the fused solve."""
        return {}

    def _plain(self, solver: NesterovSolver, energy: Energy, y: Tensor, steps: int) -> Solution:
        """The solve in plain PyTorch, which autograd differentiates."""
        return solver.run(energy.gradient, Solution.at_rest(y), steps)


@dataclass(frozen=True)
class Unrolled(_StepAdjoint):
    """Exact gradient of the steps taken, through all of them (the paper's choice).

    Backward costs about two forward passes; memory grows with the number of steps.
    """


@dataclass(frozen=True)
class Checkpointed(_StepAdjoint):
    """The gradient of :class:`Unrolled`, to rounding, in the memory of a few steps.

    Only y and velocity of some steps are kept (``[S, D]``, small); backward computes activations
    again, which costs about one more forward pass (``docs/benchmarks.md``). Outside the fused solve
    this is ``torch.utils.checkpoint``, which reads the module's own parameters: not for use inside
    ``torch.func.functional_call``.
    """

    def _options(self) -> dict[str, Any]:
        return {"recompute": True}

    def _plain(self, solver: NesterovSolver, energy: Energy, y: Tensor, steps: int) -> Solution:
        if not torch.is_grad_enabled():
            return super()._plain(solver, energy, y, steps)
        state = Solution.at_rest(y)
        for _ in range(steps):
            state = checkpoint(solver.run, energy.gradient, state, 1, use_reentrant=False)
        return state


@dataclass(frozen=True)
class Truncated(_StepAdjoint):
    """Gradient of the last ``last`` steps only; earlier steps count as constants.

    Time and memory of backward are those of ``last`` steps. The gradient is biased, less so the
    closer the loop comes to convergence. Where it does not converge, training drove a learned
    potential further away from convergence, and failed (``docs/records.md``). With ``last`` at
    least the number of steps it is :class:`Unrolled`.

    Args:
        last: number of steps differentiated.
    """

    last: int

    def __post_init__(self) -> None:
        positive_integer("last", self.last)

    def _options(self) -> dict[str, Any]:
        return {"last": self.last}

    def _plain(self, solver: NesterovSolver, energy: Energy, y: Tensor, steps: int) -> Solution:
        state = Solution.at_rest(y)
        head = max(steps - self.last, 0)
        may_stop = not torch.is_grad_enabled()  # otherwise the values are those of Unrolled
        with torch.no_grad():
            state = _constant(solver.run(energy.gradient, state, head, may_stop))
        return solver.run(energy.gradient, state, steps - head)


class ImplicitReport(dict[str, Tensor]):
    """Report on the last backward pass of :class:`Implicit`, segment by segment.

    ``residual``: relative residual of the linear solve. ``indefinite``: whether curvature that is
    not positive was met, so that the segment's solve stopped there. ``unconverged``: whether y
    was not within the solver's tolerance, so that the formula holds only approximately.
    """


class ImplicitGradientWarning(UserWarning):
    """The implicit gradient of some segments is not to be trusted."""


@dataclass(frozen=True)
class Implicit:
    r"""Gradient at the minimiser by the implicit function theorem.

    .. math::
        \frac{dL}{d\theta} = -\Big(\frac{\partial^2 E}{\partial\theta \, \partial y}\Big)^T
        \Big(\frac{\partial^2 E}{\partial y^2} + \lambda I\Big)^{-1} \frac{dL}{dy}

    The solve is one of conjugate gradients for each segment, all at once. Memory is that of a few
    gradients whatever the number of steps; time is the time of the steps without a graph plus one
    gradient of a gradient an iteration.

    Right only where the solver converged and the energy is convex at its end. Where it is not, the
    segment's solve stops at the first direction without positive curvature; this and a y above
    tolerance are warned of, and described segment by segment in ``report``.

    Step size and momentum get no gradient from y, on which they have no influence at the minimum.
    The solution's mean squares come from two further unrolled steps, so the auxiliary loss still
    trains both; without that loss, fix them: ``NesterovSolver(trainable=False)``. First derivatives
    only.

    Args:
        max_iterations: most conjugate-gradient iterations.
        tolerance: relative residual at which a segment's solve ends.
        damping: :math:`\lambda \ge 0`.
    """

    max_iterations: int = 20
    tolerance: float = 1e-6
    damping: float = 0.0
    report: ImplicitReport = field(default_factory=ImplicitReport, compare=False, repr=False)

    def __post_init__(self) -> None:
        positive_integer("max_iterations", self.max_iterations)
        if not self.damping >= 0:
            raise ValueError(f"damping must be 0 or more, got {self.damping}")

    def solve(self, solver: NesterovSolver, energy: Energy, y: Tensor, steps: int) -> Solution:
        """See :meth:`Adjoint.solve`."""
        state = Truncated(2).solve(solver, energy, y, steps)
        if in_transform():
            raise RuntimeError("Implicit does not support torch.func transforms: use Unrolled()")
        if not state.y.requires_grad:  # nothing to differentiate
            return state
        minimiser = state.y.detach().requires_grad_()
        gradient = _gradient(energy, minimiser)
        if not gradient.requires_grad:  # nothing but y to differentiate in
            return state._replace(y=minimiser.detach())
        attached = gradient - gradient.detach()  # zero, and the way to the parameters
        unconverged = ~state.converged
        occupied = (energy.scale != 0)[:, None]  # y of an empty segment is the constant 0

        def pull(v: Tensor) -> Tensor:
            return self._pull(torch.where(occupied, v, 0.0), gradient, minimiser, unconverged)

        attached.register_hook(pull)
        return state._replace(y=minimiser.detach() + attached)

    def _pull(self, v: Tensor, gradient: Tensor, y: Tensor, unconverged: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            raise RuntimeError("Implicit has first derivatives only; use Unrolled or Checkpointed")

        def hessian(p: Tensor) -> Tensor:
            (product,) = torch.autograd.grad(gradient, y, p, retain_graph=True)
            return product + self.damping * p

        solution, residual, indefinite = _conjugate_gradients(
            hessian, v, self.max_iterations, self.tolerance
        )
        self.report.update(residual=residual, indefinite=indefinite, unconverged=unconverged)
        bad = (indefinite | unconverged | (residual > self.tolerance)) & (v != 0).any(dim=1)
        if bad.any():
            warnings.warn(
                "the implicit gradient of some segments is approximate (see Implicit.report): "
                "take more steps, raise max_iterations or damping, or use Unrolled",
                ImplicitGradientWarning,
                stacklevel=2,
            )
        return -solution


def _gradient(energy: Energy, y: Tensor) -> Tensor:
    """The energy's gradient at ``y [S, D]``: the first step of size 1 moves y by its negative."""
    unit = NesterovSolver(lr=1.0, momentum=0.0, gtol=0.0, trainable=False).to(y)
    return -Unrolled().solve(unit, energy, y, 1).velocity


def _constant(state: Solution) -> Solution:
    """``state``, computed without a graph, without tangents of forward-mode AD either."""
    if torch.compiler.is_compiling():
        return state
    return Solution(*(forward_ad.unpack_dual(field).primal for field in state))


def _conjugate_gradients(
    operator: Callable[[Tensor], Tensor], v: Tensor, max_iterations: int, tolerance: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Solves ``operator(u) = v`` row by row: ``u [S, D]``, relative residual, indefinite ``[S]``.

    A row ends when its residual is small enough or its search direction has no positive curvature.
    """
    u, r = torch.zeros_like(v), v
    p, rr = r, r.square().sum(dim=1)
    target = tolerance**2 * rr
    indefinite = torch.zeros_like(rr, dtype=torch.bool)
    for _ in range(max_iterations):
        running = (rr > target) & ~indefinite
        if not running.any():
            break
        hp = operator(p)
        curvature = (p * hp).sum(dim=1)
        indefinite = indefinite | (running & ~(curvature > 0))
        running = running & ~indefinite
        step = torch.where(running, rr / curvature, 0.0)[:, None]
        u, r = u + step * p, r - step * hp
        rr_new = r.square().sum(dim=1)
        beta = torch.where(running, rr_new / rr, 0.0)[:, None]
        p, rr = torch.where(running[:, None], r + beta * p, p), rr_new
    norm = v.square().sum(dim=1)
    residual = torch.where(norm > 0, rr / norm, 0.0).sqrt()
    return u, residual, indefinite
