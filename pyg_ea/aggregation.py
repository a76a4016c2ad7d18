"""Equilibrium Aggregation as a PyG aggregation."""

from __future__ import annotations

import sys
import warnings
import weakref
from collections.abc import Callable
from types import FrameType
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation
from torch_geometric.nn.inits import reset

from pyg_ea.adjoints import Adjoint, Unrolled
from pyg_ea.checks import (
    check_elements,
    checked_segments,
    positive_integer,
    reads_values,
    refuse_tracing,
)
from pyg_ea.diagnostics import Diagnostics, DivergenceWarning
from pyg_ea.energy import Energy, L2Prior, Scaling, log_scaling
from pyg_ea.fused import Steps
from pyg_ea.potentials import ResNetPotential, bind
from pyg_ea.segments import Segments
from pyg_ea.solver import NesterovSolver, Solution
from pyg_ea.tensors import state_dtype

T = TypeVar("T")
_LIBRARIES = ("pyg_ea.", "torch.", "torch_geometric.")


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
            given. Run time grows with :math:`H^2`, and only linearly with ``out_channels``.
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
        scaling: the factor in front, a function of counts ``[S]``. Default :func:`log_scaling`.
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
        ValueError: for sizes, shapes or values that make no sense, NaN and infinity included.
        TypeError: for a wrong dtype.
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
        steps: int = 15,
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
        hidden_channels = in_channels if hidden_channels is None else hidden_channels
        eval_steps = steps if eval_steps is None else eval_steps
        self.in_channels = positive_integer("in_channels", in_channels)
        self.out_channels = positive_integer("out_channels", out_channels)
        self.hidden_channels = positive_integer("hidden_channels", hidden_channels)
        self.steps = positive_integer("steps", steps)
        self.eval_steps = positive_integer("eval_steps", eval_steps)
        if potential is None:
            potential = ResNetPotential(in_channels, out_channels, hidden_channels)
        self.potential = potential
        self.prior = L2Prior() if prior is None else prior
        self.solver = NesterovSolver() if solver is None else solver
        self.adjoint = Unrolled() if adjoint is None else adjoint
        self.scaling = scaling
        self.validate = validate
        self._solutions: list[Solution] = []
        self._pass: weakref.ref[ForwardPass] | None = None

    def reset_parameters(self) -> None:
        """Re-initialises potential, prior and solver, and forgets the last solution."""
        for module in (self.potential, self.prior, self.solver):
            reset(module)
        self._solutions, self._pass = [], None

    @property
    def solution(self) -> Solution | None:
        """:class:`Solution` of the last call, None before the first.

        With its graph in training mode, detached in eval mode.
        """
        return self._solutions[-1] if self._solutions else None

    @property
    def solutions(self) -> list[Solution]:
        """Solutions of all calls in the last forward pass of the model that holds the layer."""
        return list(self._solutions)

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
        return super().__call__(x, index, ptr, dim_size, dim, return_solution=return_solution)

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
        :func:`auxiliary_loss`; its segments are those of the leading dimensions in turn.
        """
        x, segments, leading, size = self._elements(x, index, ptr, dim_size, dim)
        steps = self.steps if self.training else self.eval_steps
        solution = _outside_inference_mode(lambda x, s: self._solve(x, s, steps), x, segments)
        self._record(solution)
        y = solution.y.to(x.dtype).reshape(*leading, size, self.out_channels).movedim(-2, dim)
        return (y, solution) if return_solution else y

    def compile(self, **options: Any) -> None:
        """Compiles, in place, the inner step, forward and backward.

        On a GPU that is the default; call this to pass options. One graph each serves all steps,
        batch sizes and adjoints; torch may add one for single sets and, in bf16 on a GPU, for
        numbers of elements that 8 does not divide. The first call takes half a minute or so. On a
        CPU it does not pay: the C code is faster and needs less memory (``docs/benchmarks.md``).
        Warns and runs uncompiled where the compiler fails (on a GPU it needs Triton and a C
        compiler, on a CPU a C++ compiler), or where the potential is not :class:`ResNetPotential`.

        Args:
            options: for ``torch.compile``.
        """
        if isinstance(self.potential, ResNetPotential):
            self.potential.compiled = Steps.compiled(**options)
            return
        name = type(self.potential).__name__
        warnings.warn(
            f"EAAggregation runs uncompiled: {name} has no closed-form gradient", stacklevel=2
        )

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
        steps = self.steps if self.training else self.eval_steps

        def run(x: Tensor, segments: Segments) -> Diagnostics:
            count = segments.count
            energy = self._energy(x, segments, count)
            start = self._zero(x, segments)
            solution = self.adjoint.solve(self.solver, energy, start, steps)
            before, after = energy.value(start), energy.value(solution.y)
            return Diagnostics(
                count=count,
                steps=solution.steps,
                gradient_max=solution.gradient_max,
                energy_before=before,
                energy_after=after,
                converged=solution.converged,
                diverged=solution.diverged | ~(after <= before),
            )

        with torch.no_grad():
            return _outside_inference_mode(run, x, segments)

    def _solve(self, x: Tensor, segments: Segments, steps: int) -> Solution:
        count = segments.count
        energy = self._energy(x, segments, count)
        start = self._zero(x, segments)
        solution = self.adjoint.solve(self.solver, energy, start, steps)
        solution = solution._replace(occupied=count > 0)
        if reads_values(self.validate, solution.y):
            solution = _with_divergence(solution, energy, start)
        return solution

    def _record(self, solution: Solution) -> None:
        """Keeps the solution, for :func:`auxiliary_loss`, with those of the same forward pass."""
        if not (self.training and torch.is_grad_enabled()):
            self._solutions = [Solution(*(field.detach() for field in solution))]
        elif torch.compiler.is_compiling():
            self._solutions = [solution]
        else:
            running = _running_pass()
            if self._pass is None or self._pass() is not running:
                self._solutions, self._pass = [], weakref.ref(running)
            self._solutions.append(solution)

    def _energy(self, x: Tensor, segments: Segments, count: Tensor) -> Energy:
        scale = self.scaling(count.to(state_dtype(x.dtype)))
        return Energy(bind(self.potential, x, segments), self.prior, scale)

    def _zero(self, x: Tensor, segments: Segments) -> Tensor:
        dtype = state_dtype(x.dtype)
        return x.new_zeros(segments.num_segments, self.out_channels, dtype=dtype)

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
        # solutions hold a graph, which cannot be copied
        return {**self.__dict__, "_solutions": [], "_pass": None}

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}({self.in_channels}, {self.out_channels}, "
            f"hidden_channels={self.hidden_channels}, steps={self.steps}, "
            f"eval_steps={self.eval_steps}, adjoint={self.adjoint})"
        )


def layers_in(model: nn.Module) -> list[EAAggregation]:
    """All layers of Equilibrium Aggregation inside ``model``, itself included.

    Raises:
        ValueError: when there is none.
    """
    layers = [m for m in model.modules() if isinstance(m, EAAggregation)]
    if not layers:
        raise ValueError(f"{type(model).__name__} holds no EAAggregation")
    return layers


def _with_divergence(solution: Solution, energy: Energy, start: Tensor) -> Solution:
    """The solution with its divergence settled, where suspected, by whether the energy rose."""
    suspect = solution.suspect
    if not suspect.any():
        return solution
    with torch.no_grad():
        rose = ~(energy.value(solution.y) <= energy.value(start))
    diverged = solution.diverged | (suspect & rose)
    if diverged.any():
        warnings.warn(
            "the inner loop of EAAggregation diverged for some segments "
            "(see .solution.diverged): lower the step size, "
            "solver=NesterovSolver(lr=...), or set its clip",
            DivergenceWarning,
            stacklevel=_user_level(),
        )
    return solution._replace(diverged=diverged)


class ForwardPass:
    """Stands for one forward pass: the outermost running call of a module. Lives as long as it."""


def _running_pass() -> ForwardPass:
    """The running forward pass. It is tied to the keyword arguments of ``Module.__call__`` of the
    outermost module, a dictionary that each call has for itself and that is not read any more.
    """
    frame: FrameType | None = sys._getframe(1)
    outermost: dict[str, Any] = {}
    while frame is not None:
        if frame.f_code is nn.Module._wrapped_call_impl.__code__:
            outermost = frame.f_locals["kwargs"]
        frame = frame.f_back
    return outermost.setdefault("pyg_ea_forward_pass", ForwardPass())


def _user_level() -> int:
    """The ``stacklevel`` for the caller's warning that points at the user's line."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(_LIBRARIES):
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
