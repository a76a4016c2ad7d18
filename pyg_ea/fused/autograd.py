"""One autograd Function for a whole solve, by one of the backends."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from pyg_ea.energy import Energy
from pyg_ea.fused.backends import Backend, choose
from pyg_ea.fused.problem import Inputs, Problem, Settings
from pyg_ea.fused.torch import plain_steps
from pyg_ea.segments import Segments
from pyg_ea.solver import DIFFERENTIABLE, NesterovSolver, Solution
from pyg_ea.tensors import is_concrete


def solve(
    solver: NesterovSolver,
    energy: Energy,
    y: Tensor,
    steps: int,
    last: int | None = None,
    recompute: bool = False,
) -> Solution | None:
    """``steps`` steps from ``y [S, D]``, of which the ``last`` are differentiated (default all).

    None where no backend supports the solve: the caller then runs it in plain PyTorch.

    Args:
        solver: the solver.
        energy: the energy that it minimises.
        y: start.
        steps: number of steps.
        last: number of last steps that are differentiated.
        recompute: keep the states of some steps only, and compute activations again in backward.
    """
    chosen = choose(solver, energy, y)
    if chosen is None:
        return None
    backend, problem = chosen
    last = steps if last is None else min(last, steps)
    settings = Settings(steps, solver.gtol, solver.clip, last, recompute)
    tensors = problem.inputs.flatten()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        constants = problem.scale, problem.segments
        return Solution(*FusedSolve.apply(backend, settings, *constants, *tensors))
    return backend.forward(problem, settings, save=False)[0]


class FusedSolve(torch.autograd.Function):
    """A whole solve as one autograd node.

    Where backward is to be differentiated again, it differentiates the plain steps instead.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        backend: Backend,
        settings: Settings,
        scale: Tensor,
        segments: Segments,
        *tensors: Tensor,
    ) -> tuple[Tensor, ...]:
        """The fields of a :class:`Solution`."""
        problem = Problem(Inputs.unflatten(tensors), scale, segments)
        solution, saved = backend.forward(problem, settings, save=True)
        ctx.backend, ctx.settings = backend, settings  # type: ignore[attr-defined]
        ctx.size = 3 + len(tensors)  # type: ignore[attr-defined]
        assert segments.ptr is not None
        ctx.save_for_backward(scale, segments.index, segments.ptr, *tensors, *saved)
        results = zip(Solution._fields, solution, strict=True)
        ctx.mark_non_differentiable(*(t for name, t in results if name not in DIFFERENTIABLE))
        return tuple(solution)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors of :class:`Inputs`."""
        tensors = ctx.saved_tensors  # read once: activation checkpointing allows no more
        scale, index, ptr, *inputs = tensors[: ctx.size]
        segments = Segments(index, len(scale), ptr)
        problem, saved = Problem(Inputs.unflatten(inputs), scale, segments), tensors[ctx.size :]
        by_name = dict(zip(Solution._fields, cotangents, strict=True))
        of_results = [by_name[name] for name in DIFFERENTIABLE]
        if torch.is_grad_enabled() or not is_concrete(*of_results):  # or a batch of cotangents
            gradients = _backward_by_autograd(problem, ctx.settings, of_results)
        else:
            found = ctx.backend.backward(problem, ctx.settings, saved, of_results)
            gradients = found.flatten()
        return None, None, None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> None:
        """Refused."""
        raise NotImplementedError(
            "the fused solve has no forward-mode derivative; call the layer inside "
            'pyg_ea.solve_backend("plain"), which has one'
        )


def _backward_by_autograd(
    problem: Problem, settings: Settings, cotangents: list[Tensor]
) -> list[Tensor | None]:
    """Gradients that can be differentiated again, of the plain steps by autograd.

    With respect to aliases of the inputs: one of them may have been computed from another.
    """
    with torch.enable_grad():
        aliases = [tensor.view_as(tensor) for tensor in problem.inputs.flatten()]
        solution = plain_steps(problem._replace(inputs=Inputs.unflatten(aliases)), settings)
    results = [getattr(solution, name) for name in DIFFERENTIABLE]
    wanted = [tensor for tensor in aliases if tensor.requires_grad]
    found = iter(
        torch.autograd.grad(results, wanted, cotangents, create_graph=True, allow_unused=True)
    )
    return [next(found) if tensor.requires_grad else None for tensor in aliases]
