"""One autograd Function for a whole solve of ``ResNetPotential`` under ``NesterovSolver``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from pyg_ea.energy import Energy, L2Prior, NoPrior
from pyg_ea.fused import native
from pyg_ea.fused.native import NativeSolve
from pyg_ea.fused.problem import Problem, Settings
from pyg_ea.fused.torch_solve import TorchSolve, compiled_steps
from pyg_ea.potentials.resnet import BoundResNet, gradient_in_y
from pyg_ea.segments import Segments
from pyg_ea.solver import NesterovSolver, Solution, nesterov_step
from pyg_ea.tensors import autocasts, is_wrapped

BackendName = Literal["auto", "native", "torch", "plain"]
Backend = NativeSolve | TorchSolve
_chosen: ContextVar[BackendName] = ContextVar("solve_backend", default="auto")


@contextmanager
def solve_backend(name: BackendName) -> Iterator[None]:
    """Chooses the implementation of the solve for a block of code.

    All give the same results to rounding::

        with pyg_ea.solve_backend("plain"):
            layer(x, index)

    Args:
        name: ``"auto"`` (default), the fastest that supports the inputs: the fused solve in C on a
            CPU, in compiled torch operations on a GPU; ``"native"`` and ``"torch"``, the fused
            solve in C or in torch operations where it supports the inputs; ``"plain"``, plain
            PyTorch, which autograd differentiates step by step.

    Raises:
        ValueError: for another name.
        RuntimeError: for ``"native"`` where the C code was not built.
    """
    if name not in get_args(BackendName):
        raise ValueError(f"name must be one of {list(get_args(BackendName))}, got {name!r}")
    if name == "native" and native.LIBRARY is None:
        raise RuntimeError("the C code is not there: install pyg_ea where there is a C compiler")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def is_supported(solver: NesterovSolver, energy: Energy, y: Tensor) -> bool:
    """Whether the fused solve takes this energy from ``y [S, D]`` on.

    It takes :class:`ResNetPotential` with :class:`L2Prior` or :class:`NoPrior` under
    :class:`NesterovSolver`, all of one dtype but for what autocast computes, in eager mode and
    outside ``torch.func`` transforms.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _chosen.get() == "plain":
        return False
    bound, prior = energy.potential, energy.prior
    if not (
        isinstance(bound, BoundResNet)
        and type(solver) is NesterovSolver
        and isinstance(prior, nn.Module)
        and type(prior) in (L2Prior, NoPrior)
    ):
        return False
    small = (solver.raw_lr, solver.raw_momentum, *prior.parameters())
    tensors = (*bound.weights, *small, energy.scale)
    return (
        not energy.scale.requires_grad
        and (bound.fixed.dtype == y.dtype or autocasts(y))
        and y.dtype in native.DTYPES
        and all(tensor.dtype == y.dtype for tensor in tensors)
        and not any(map(is_wrapped, (bound.fixed, *tensors)))
    )


def solve(
    solver: NesterovSolver,
    energy: Energy,
    y: Tensor,
    steps: int,
    last: int | None = None,
    recompute: bool = False,
) -> Solution:
    """``steps`` steps from ``y [S, D]`` on, of which the ``last`` are differentiated (default all).

    ``recompute`` keeps the states of some steps only and computes activations again in backward.
    """
    bound = energy.potential
    assert isinstance(bound, BoundResNet)
    prior = energy.prior
    decay = prior.weight if isinstance(prior, L2Prior) else y.new_zeros(())
    fixed, weights, index = bound.fixed, bound.weights, bound.segments.index
    problem = Problem(y, solver.lr, solver.momentum, decay, fixed, *weights, energy.scale, index)
    last = steps if last is None else min(last, steps)
    settings = Settings(steps, solver.gtol, solver.clip, last, recompute)
    backend: Backend
    if bound.compiled is not None:
        backend = TorchSolve(bound.compiled)
    elif _chosen.get() != "torch" and fixed.dtype == y.dtype and native.is_supported(problem):
        backend = NativeSolve()
    elif _chosen.get() == "auto" and y.device.type == "cuda":
        backend = TorchSolve(compiled_steps())
    else:
        backend = TorchSolve()
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in problem):
        return Solution(*FusedSolve.apply(backend, settings, *problem))
    return backend.forward(problem, settings, save=False)[0]


class FusedSolve(torch.autograd.Function):
    """A whole solve as one autograd node, by one of the backends.

    Where backward is to be differentiated again, it differentiates the plain solve instead.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx, backend: Backend, settings: Settings, *tensors: Tensor
    ) -> tuple[Tensor, ...]:
        """The fields of a :class:`Solution`."""
        solution, saved = backend.forward(Problem(*tensors), settings, save=True)
        ctx.backend, ctx.settings = backend, settings  # type: ignore[attr-defined]
        ctx.save_for_backward(*tensors, *saved)
        ctx.mark_non_differentiable(*solution[4:])
        return tuple(solution)

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the tensors of :class:`Problem`."""
        size, tensors = len(Problem._fields), ctx.saved_tensors  # checkpoint lets them be read once
        problem, saved = Problem(*tensors[:size]), tensors[size:]
        if torch.is_grad_enabled():
            gradients = _backward_by_autograd(problem, ctx.settings, cotangents[:4])
        else:
            gradients = ctx.backend.backward(problem, ctx.settings, saved, cotangents[:4])
        return None, None, *gradients

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor) -> None:
        """Refused."""
        raise NotImplementedError(
            "the fused solve has no forward-mode derivative; call the layer inside "
            'pyg_ea.solve_backend("plain"), which has one'
        )


def plain_solve(problem: Problem, settings: Settings) -> Solution:
    """The same in plain operations, differentiable at every order."""
    segments = Segments(problem.segment_index, len(problem.start))
    weights = problem.weights

    def gradient(y: Tensor) -> Tensor:
        potential = gradient_in_y(y, problem.fixed, segments, weights)
        return problem.scale[:, None] * (2 * problem.decay * y + potential)

    state = Solution.at_rest(problem.start)
    for t in range(settings.steps):
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and t >= settings.steps - settings.last
        ):
            constants = problem.lr, problem.momentum, settings.gtol, settings.clip
            state, _ = nesterov_step(gradient, state, *constants)
    return state


def _backward_by_autograd(
    problem: Problem, settings: Settings, cotangents: tuple[Tensor, ...]
) -> Problem:
    """Gradients that can be differentiated again, of the plain solve by autograd.

    With respect to aliases of the inputs: one of them may have been computed from another.
    """
    aliases = [tensor.view_as(tensor) for tensor in problem.differentiable]
    solution = plain_solve(Problem._make([*aliases, *problem[-2:]]), settings)
    wanted = [tensor for tensor in aliases if tensor.requires_grad]
    found = iter(
        torch.autograd.grad(solution[:4], wanted, cotangents, create_graph=True, allow_unused=True)
    )
    gradients = [next(found) if tensor.requires_grad else None for tensor in aliases]
    return Problem._make([*gradients, None, None])
