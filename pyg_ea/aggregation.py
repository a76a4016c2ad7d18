"""Equilibrium Aggregation as a PyG aggregation."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.inits import reset

from pyg_ea.adjoints import Adjoint, Unrolled
from pyg_ea.checks import (
    check_elements,
    check_function,
    check_method,
    check_validate,
    checked_segments,
    one_each,
    positive_integer,
    reads_values,
    refuse_tracing,
)
from pyg_ea.diagnostics import Diagnostics, DivergenceWarning
from pyg_ea.energy import Energy, L2Prior, Scaling, log_scaling
from pyg_ea.potentials import ResNetPotential, bind
from pyg_ea.segments import Segments
from pyg_ea.solutions import collect
from pyg_ea.solver import STEPS, NesterovSolver, Solution
from pyg_ea.tensors import is_concrete, state_dtype

T = TypeVar("T")
LIBRARIES = ("pyg_ea.", "torch.", "torch_geometric.")


class EAAggregation(Aggregation):
    r"""Equilibrium Aggregation: a set's vector is the minimiser of a learned energy.

    From "Equilibrium Aggregation: Encoding Sets via Optimization" (Bartunov, Fuchs and Lillicrap,
    UAI 2022, arXiv 2202.12795):

    .. math::
        y_s = \arg\min_y \frac{\log_2(n_s + 1)}{n_s + 10^{-8}}
        \Big( R(y) + \sum_{i \in s} F(x_i, y) \Big)

    approximated by ``steps`` Nesterov steps from zero. Works wherever PyG takes an aggregation:
    ``aggr=EAAggregation(...)`` of any convolution, inside ``MultiAggregation``, as readout. The
    result of a set depends on that set alone, not on the order of its elements nor on the rest of
    the batch, and is 0 for an empty set.

    Args:
        in_channels: size :math:`D_x` of an element.
        out_channels: size :math:`D_y` of the result.
        hidden_channels: hidden width :math:`H` of the default potential; ``in_channels`` if not
            given. Run time grows with :math:`H^2`, and only linearly with ``out_channels``. Not
            beside ``potential``.
        steps: solver steps :math:`T`. Time is proportional to it, and so is memory in training
            unless ``adjoint`` says otherwise.
        eval_steps: solver steps in eval mode; ``steps`` if not given. Use more than ``steps`` only
            if the inner loop converges.
        potential: :math:`F`, any module or function ``(x [N, Dx], y [N, Dy]) -> [N]``. Default:
            :class:`ResNetPotential`.
        prior: :math:`R`, any module or function ``(y [S, Dy]) -> [S]``. Default:
            :class:`L2Prior`.
        solver: default :class:`NesterovSolver`.
        adjoint: how backward goes through the solver. Default: :class:`Unrolled`.
        scaling: the factor in front, a function of counts ``[S]``. Default:
            :func:`~pyg_ea.energy.log_scaling`.
        validate: whether the values of inputs are checked (NaN, range of ``index``) and divergence
            is reported. Default None: on a CPU only. On a GPU each check makes the host wait; there
            an index out of range ends in a device assertion of torch.

    Shapes:
        - **x:** :math:`(*, N, D_x)`, floating; leading dimensions are further, independent batches
        - **index:** :math:`(N)`, int64, in any order, or **ptr:** :math:`(S + 1)`; neither: one
          set. Pass ``dim_size`` where the last sets may be empty, and on a GPU, where reading it
          from ``index`` makes the host wait
        - **output:** :math:`(*, S, D_y)`, in the dtype of x

    Raises:
        ValueError: for sizes, shapes or values that make no sense, NaN and infinity included, and
            for ``hidden_channels`` beside ``potential``.
        TypeError: for an argument of another kind or a wrong dtype.
        RuntimeError: under ``torch.jit.trace``.

    Warns:
        DivergenceWarning: when the inner loop of a segment diverges.

    Cost: :math:`T (4 N H^2 + 2 S (3H + 32) D_y)` multiply-adds forward, twice that again backward.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        hidden_channels: int | None = None,
        steps: int = STEPS,
        eval_steps: int | None = None,
        *,
        potential: Callable[[Tensor, Tensor], Tensor] | None = None,
        prior: Callable[[Tensor], Tensor] | None = None,
        solver: NesterovSolver | None = None,
        adjoint: Adjoint | None = None,
        scaling: Scaling = log_scaling,
        validate: bool | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = positive_integer("in_channels", in_channels)
        self.out_channels = positive_integer("out_channels", out_channels)
        self.steps = positive_integer("steps", steps)
        self.eval_steps = positive_integer(
            "eval_steps", steps if eval_steps is None else eval_steps
        )
        if potential is None:
            hidden = in_channels if hidden_channels is None else hidden_channels
            hidden = positive_integer("hidden_channels", hidden)
            potential = ResNetPotential(self.in_channels, self.out_channels, hidden)
        elif hidden_channels is not None:
            raise ValueError(
                "hidden_channels is the width of the default potential and has no effect beside "
                "potential: leave it out"
            )
        elif type(potential) is ResNetPotential:
            made_for = (potential.in_channels, potential.out_channels)
            if made_for != (self.in_channels, self.out_channels):
                raise ValueError(
                    f"the potential is made for in_channels, out_channels = {made_for}, expected "
                    f"{(self.in_channels, self.out_channels)}"
                )
        prior = L2Prior() if prior is None else prior
        solver = NesterovSolver() if solver is None else solver
        adjoint = Unrolled() if adjoint is None else adjoint
        check_function("potential", potential, "a module or function (x [N, Dx], y [N, Dy]) -> [N]")
        check_function("prior", prior, "a module or function (y [S, Dy]) -> [S], as L2Prior(0.1)")
        check_function("scaling", scaling, "a function of the counts [S], as log_scaling")
        check_method("solver", solver, "run", "a solver, as NesterovSolver(lr=0.1)")
        check_method("adjoint", adjoint, "solve", "an adjoint, as Unrolled() or Implicit()")
        self.potential, self.prior, self.solver = potential, prior, solver
        self.adjoint, self.scaling, self.validate = adjoint, scaling, check_validate(validate)
        self.solution: Solution | None = None
        """Solution of the last call, without a graph; None before the first."""

    def reset_parameters(self) -> None:
        """Re-initialises potential, prior and solver, and forgets the last solution."""
        for module in (self.potential, self.prior, self.solver):
            reset(module)
        self.solution = None

    def __prepare_scriptable__(self) -> EAAggregation:
        """Refuses ``torch.jit.script``, which calls this method of every module."""
        raise RuntimeError(
            "EAAggregation does not support torch.jit.script: use torch.export or torch.compile"
        )

    def __call__(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
        return_solution: bool = False,
    ) -> Any:
        """See :meth:`forward`."""
        refuse_tracing(type(self).__name__)
        if index is None and ptr is None and dim_size is None:
            dim_size = 1
        further = {"return_solution": True} if return_solution else {}  # not in PyG's signature
        return super().__call__(x, index, ptr, dim_size, dim, **further)

    def forward(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
        dim: int = -2,
        max_num_elements: int | None = None,
        return_solution: bool = False,
    ) -> Tensor | tuple[Tensor, Solution]:
        """Aggregates ``x`` over dimension ``dim``; see the class for shapes.

        ``return_solution`` adds the :class:`Solution` to the result, with its graph, for
        :func:`auxiliary_loss`; its segments follow the leading dimensions in turn.
        :func:`collect_solutions` gathers the same from a whole model.
        """
        x, segments, leading, size = self._elements(x, index, ptr, dim_size, dim)
        solution = _outside_inference_mode(self._solution, x, segments)
        collect(solution)
        if not torch.compiler.is_exporting():  # which takes no tensors as attributes
            self.solution = Solution._make(t.detach() if t.requires_grad else t for t in solution)
        y = solution.y.to(x.dtype).reshape(*leading, size, self.out_channels).movedim(-2, dim)
        y = y.contiguous()  # convolutions with several heads view it
        return (y, solution) if return_solution else y

    def diagnose(
        self,
        x: Tensor,
        index: Tensor | None = None,
        ptr: Tensor | None = None,
        dim_size: int | None = None,
    ) -> Diagnostics:
        """Runs the layer on ``x [N, Dx]`` without a graph and reports on each segment.

        Costs one forward pass and two evaluations of the energy.
        """
        x, segments, *_ = self._elements(x, index, ptr, dim_size, -2)
        with torch.no_grad():
            return _outside_inference_mode(self._diagnostics, x, segments)

    def _diagnostics(self, x: Tensor, segments: Segments) -> Diagnostics:
        solution, energy = self._solve(x, segments)
        before = energy.value(torch.zeros_like(solution.y))
        after = energy.value(solution.y)
        solution = solution._replace(diverged=solution.diverged | ~(after <= before))
        return Diagnostics(segments.count, before, after, solution)

    def _solution(self, x: Tensor, segments: Segments) -> Solution:
        """The solution with its divergence settled where reading values does not wait."""
        solution, energy = self._solve(x, segments)
        warns = reads_values(self.validate, solution.y)
        if warns or (solution.y.is_cpu and is_concrete(solution.y)):
            diverged = _has_diverged(solution, energy)
            if warns and diverged.any():
                warnings.warn(
                    "the inner loop of EAAggregation diverged for some segments "
                    "(see .solution.diverged): lower the step size, "
                    "solver=NesterovSolver(lr=...), or set its clip",
                    DivergenceWarning,
                    stacklevel=_user_level(),
                )
            if solution.y.is_cpu:
                solution = solution._replace(diverged=diverged)
        return solution

    def _solve(self, x: Tensor, segments: Segments) -> tuple[Solution, Energy]:
        dtype, count = state_dtype(x.dtype), segments.count
        scale = one_each("scaling", self.scaling(count.to(dtype)), segments.num_segments, "segment")
        energy = Energy(bind(self.potential, x, segments), self.prior, scale)
        start = x.new_zeros(segments.num_segments, self.out_channels, dtype=dtype)
        steps = self.steps if self.training else self.eval_steps
        solution = self.adjoint.solve(self.solver, energy, start, steps)
        return solution._replace(occupied=count > 0), energy

    def _elements(
        self, x: Tensor, index: Tensor | None, ptr: Tensor | None, dim_size: int | None, dim: int
    ) -> tuple[Tensor, Segments, torch.Size, int]:
        """Checked elements ``[N, Dx]``, their segments, leading sizes and S of the result."""
        check_elements(x, dim, self.in_channels, self.potential, self.validate)
        x = x.movedim(dim, -2)
        leading = x.shape[:-2]
        segments = checked_segments(x.shape[-2], index, ptr, dim_size, x.device, self.validate)
        tiled = segments.tiled(leading.numel())
        return x.reshape(-1, x.shape[-1]), tiled, leading, segments.num_segments

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "solution": None}  # a copy has not been called yet

    def __repr__(self) -> str:
        width = ""
        if isinstance(self.potential, ResNetPotential):
            width = f"hidden_channels={self.potential.hidden_channels}, "
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, {width}"
            f"steps={self.steps}, eval_steps={self.eval_steps}, adjoint={self.adjoint})"
        )


def _has_diverged(solution: Solution, energy: Energy) -> Tensor:
    """Whether each segment diverged: ``[S]``. Reads the energy only where it is suspected."""
    suspect = solution.suspect
    if not suspect.any():
        return solution.diverged
    with torch.no_grad():
        before = energy.value(torch.zeros_like(solution.y))
        rose = ~(energy.value(solution.y.detach()) <= before)
    return solution.diverged | (suspect & rose)


def _user_level() -> int:
    """The ``stacklevel`` with which a warning of the caller points at the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(LIBRARIES):
        level, frame = level + 1, frame.f_back
    return level


def _outside_inference_mode(
    function: Callable[[Tensor, Segments], T], x: Tensor, segments: Segments
) -> T:
    """Calls ``function`` with autograd at its disposal, which inference mode withholds."""
    if torch.compiler.is_compiling() or not torch.is_inference_mode_enabled():
        return function(x, segments)
    with torch.inference_mode(False), torch.no_grad():
        return function(x.clone(), Segments(segments.index.clone(), segments.num_segments))
