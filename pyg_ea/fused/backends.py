"""The table of backends: which one solves a problem, and why another does not."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor, nn

from pyg_ea.energy import Energy, L2Prior, NoPrior
from pyg_ea.fused.native import NativeBackend
from pyg_ea.fused.problem import Inputs, Problem, Scalars, Settings
from pyg_ea.fused.torch import TorchBackend
from pyg_ea.fused.triton import TritonBackend
from pyg_ea.potentials.base import is_unchanged
from pyg_ea.potentials.closed_form import ClosedForm
from pyg_ea.solver import NesterovSolver, Solution
from pyg_ea.tensors import autocasts, in_transform


class Backend(Protocol):
    """Solves a :class:`Problem`, and differentiates the solve."""

    name: str

    def unsupported(self, problem: Problem) -> str | None:
        """Why it does not take this problem; None if it does."""

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and the tensors saved for backward if ``save``."""

    def backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Inputs:
        """Gradients for the cotangents of y, velocity and both mean squares."""


BACKENDS: tuple[Backend, ...] = (NativeBackend(), TorchBackend(), TritonBackend())
"""In order of preference. Triton is last, so chosen by name only: it is not measured yet."""

BackendName = Literal["auto", "native", "torch", "triton", "plain"]
_chosen: ContextVar[BackendName] = ContextVar("solve_backend", default="auto")


@contextmanager
def solve_backend(name: BackendName) -> Iterator[None]:
    """Chooses the implementation of the solve for a block of code.

    All give the same results to rounding::

        with pyg_ea.solve_backend("plain"):
            layer(x, index)

    Args:
        name: ``"auto"`` (default), the fastest backend that supports the inputs, else plain
            PyTorch; ``"native"``, the backend in C for CPUs; ``"torch"``, the backend in torch
            operations for any device; ``"triton"``, the backend in Triton for CUDA devices, not
            measured yet; ``"plain"``, plain PyTorch, which autograd differentiates step by step.
            Code under ``torch.compile`` or ``torch.export`` always runs the latter.

    Raises:
        ValueError: for another name.
        RuntimeError: by a layer called inside, for ``"native"``, ``"torch"`` or ``"triton"`` where
            the backend does not support its inputs; the message says why.
    """
    if name not in get_args(BackendName):
        raise ValueError(f"name must be one of {list(get_args(BackendName))}, got {name!r}")
    token = _chosen.set(name)
    try:
        yield
    finally:
        _chosen.reset(token)


def choose(solver: NesterovSolver, energy: Energy, y: Tensor) -> tuple[Backend, Problem] | None:
    """The backend for a solve from ``y [S, D]`` and the problem for it; None for plain PyTorch.

    Raises:
        RuntimeError: where the backend chosen by name does not support it.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or _chosen.get() == "plain":
        return None
    reason = _not_fused(solver, energy, y)
    if reason is None:
        problem = _problem(solver, energy, y)
        for backend in BACKENDS:
            if _chosen.get() in ("auto", backend.name):
                reason = backend.unsupported(problem)
                if reason is None:
                    return backend, problem
    if _chosen.get() == "auto":
        return None
    raise RuntimeError(
        f'solve_backend("{_chosen.get()}") does not support this solve: {reason}; '
        'use solve_backend("auto")'
    )


def _problem(solver: NesterovSolver, energy: Energy, y: Tensor) -> Problem:
    bound, prior = energy.potential, energy.prior
    assert isinstance(bound, ClosedForm)
    prior_weight = prior.weight if isinstance(prior, L2Prior) else y.new_zeros(())
    scalars = Scalars(solver.lr, solver.momentum, prior_weight)
    return Problem(Inputs(y, scalars, bound.fixed, bound.weights), energy.scale, bound.segments)


def _not_fused(solver: NesterovSolver, energy: Energy, y: Tensor) -> str | None:
    """Why no backend takes the solve; None if one does."""
    bound, prior = energy.potential, energy.prior
    if not isinstance(bound, ClosedForm):
        return "the potential is not an unmodified ResNetPotential"
    if type(solver) is not NesterovSolver:
        return f"the solver is {type(solver).__name__}, not NesterovSolver"
    if not isinstance(prior, nn.Module) or type(prior) not in (L2Prior, NoPrior):
        return f"the prior is {type(prior).__name__}, not L2Prior or NoPrior"
    if not is_unchanged(prior):
        return "the prior has hooks, or another forward"
    if energy.scale.requires_grad:
        return "the scaling has trained parameters"
    scalars = (solver.raw_lr, solver.raw_momentum, *prior.parameters())
    tensors = (*bound.weights, *scalars, energy.scale)
    for tensor in tensors:
        if tensor.dtype != y.dtype:
            return f"the solver's state is {y.dtype}, but a parameter is {tensor.dtype}"
    if bound.fixed.dtype != y.dtype and not autocasts(y):
        return f"the solver's state is {y.dtype}, but the elements are {bound.fixed.dtype}"
    if in_transform():
        return "it runs inside a torch.func transform"
    return None
