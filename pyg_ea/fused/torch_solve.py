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

import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pyg_ea.fused import elements
from pyg_ea.fused.elements import Activations, add_product
from pyg_ea.fused.problem import Problem, Settings
from pyg_ea.solver import Solution, nesterov_step
from pyg_ea.tensors import without_autocast

Pairs = list[tuple[Tensor, Tensor]]

ROWS = 64
"""Rows in which gradients of the norms are summed over elements: a compiler fuses ``index_add_``
with what it adds, whereas a sum over all elements is two kernels more, which read it all again."""


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


def step_forward(
    problem: Problem, state: Solution, gtol: float, clip: float | None
) -> tuple[Solution, Step]:
    """One step of the solver."""
    of_elements: list[Any] = []

    def gradient(ahead: Tensor) -> Tensor:
        from_y = ahead.to(problem.a_y.dtype) @ problem.a_y.T
        index, weights = problem.segment_index, problem.weights
        total, activations = elements.forward(from_y, problem.fixed, index, weights)
        of_elements[:] = total, from_y, activations
        prior = 2 * problem.decay * ahead
        return problem.scale[:, None] * add_product(prior, total, problem.a_y)

    after, g = nesterov_step(gradient, state, problem.lr, problem.momentum, gtol, clip)
    return after, Step(state.y, state.momentum, g, *of_elements)


def step_backward(
    problem: Problem,
    step: Step,
    cotangents: tuple[Tensor, Tensor, Tensor],
    sums: Problem,
    gtol: float,
    clip: float | None,
) -> tuple[Tensor, Tensor, Pairs]:
    """The cotangents of y and momentum before the step, from those of y, momentum and mean square.

    Adds to ``sums``, of the form of :func:`_zeros`, except for the matrices: the gradients of
    ``a_y``, ``b`` and ``w3`` are each the sum of ``left.T @ right`` over two of the pairs returned.
    """
    to_y, to_m, to_square = cotangents
    dtype = problem.a_y.dtype
    lr, mu, decay, g = problem.lr, problem.momentum, problem.decay, step.g
    moves = (g.abs().amax(dim=1) >= gtol)[:, None]
    if clip is not None:
        velocity = torch.addcmul(mu * step.momentum, lr, g, value=-1)
        free = step.y + torch.where(moves, velocity, 0.0)
        to_y = torch.where(free.abs() <= clip, to_y, 0.0)
    to_v = to_m + torch.where(moves, to_y, 0.0)
    to_g = (2 / g.shape[1] * to_square)[:, None] * g - lr * to_v
    dy = problem.scale[:, None] * to_g
    from_dy = dy.to(dtype) @ problem.a_y.T
    index, weights = problem.segment_index, problem.weights
    h_total, h, of_norms, pairs = elements.backward(
        step.from_y, from_dy, problem.fixed, index, weights, step.activations
    )
    ahead = torch.addcmul(step.y, mu, step.momentum)
    to_ahead = add_product(2 * decay * dy, h_total, problem.a_y)
    to_velocity = to_v + to_ahead
    sums.lr.sub_((to_v * g).sum(dim=1))
    sums.momentum.add_((to_velocity * step.momentum).sum(dim=1))
    sums.decay.add_(2 * (dy * ahead).sum(dim=1))
    sums.fixed.add_(h)
    rows = torch.arange(len(index), device=index.device) % ROWS
    for total, part in zip(sums[8:12], of_norms, strict=True):
        total.index_add_(0, rows, part)
    pairs = [(h_total, ahead), (step.total, dy), *pairs]
    return (
        to_y + to_ahead,
        mu * to_velocity,
        [(left.to(dtype), right.to(dtype)) for left, right in pairs],
    )


class Compiled:
    """A function through ``torch.compile``; as it is, after a warning, if the compiler fails.

    Args:
        function: what to compile.
        options: for ``torch.compile``.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        self.function, self.compiled = function, torch.compile(function, **options)

    def __call__(self, *arguments: Any) -> Any:
        """The function's result."""
        try:
            return self.compiled(*arguments)
        except Exception as error:
            if not type(error).__module__.startswith(("torch._dynamo.", "torch._inductor.")):
                raise
            cause = getattr(error, "inner_exception", error)
            reason = f"{type(cause).__name__}: {cause}".partition("\n")[0]
            warnings.warn(f"EAAggregation runs uncompiled: {reason}", stacklevel=2)
            self.compiled = self.function
            return self.function(*arguments)


class Steps(NamedTuple):
    """One inner step, forward and backward, as it is or compiled."""

    forward: Callable[..., tuple[Solution, Step]] = step_forward
    backward: Callable[..., tuple[Tensor, Tensor, Pairs]] = step_backward

    @classmethod
    def compiled(cls, **options: Any) -> Steps:
        """Both functions through ``torch.compile`` with these options."""
        return cls(Compiled(step_forward, **options), Compiled(step_backward, **options))


@functools.cache
def compiled_steps() -> Steps:
    """The inner step as it runs on a GPU: compiled, where this torch can compile."""
    return Steps.compiled() if torch._dynamo.is_dynamo_supported() else Steps()


class TorchSolve:
    """Backend of the fused solve in torch operations.

    Products run in the dtype of ``fixed``, everything else in that of ``start``.

    Args:
        steps: the inner step.
    """

    def __init__(self, steps: Steps = Steps()) -> None:  # noqa: B008, a constant
        self.steps = steps

    def forward(
        self, problem: Problem, settings: Settings, save: bool
    ) -> tuple[Solution, list[Tensor]]:
        """The solution, and what backward needs of it, if ``save``."""
        saved: list[Tensor] = []
        with torch.no_grad(), without_autocast(problem.start):
            problem = _constants(problem)
            state = Solution.at_rest(problem.start.detach())  # the compiler tells tensors apart
            self._declare([problem], state)
            for t in range(settings.steps):
                after, step = self.steps.forward(problem, state, settings.gtol, settings.clip)
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
        with without_autocast(problem.start):
            return self._backward(_constants(problem), settings, saved, cotangents)

    def _backward(
        self,
        problem: Problem,
        settings: Settings,
        saved: Sequence[Tensor],
        cotangents: Sequence[Tensor],
    ) -> Problem:
        to_y, to_m, to_last, to_path = (tensor.contiguous() for tensor in cotangents)
        sums = _zeros(problem)
        matrices = [total for total in sums[5:8] for _ in range(2)]
        size = len(saved) // settings.last
        for t in reversed(range(settings.last)):
            parts = saved[t * size : (t + 1) * size]
            if settings.recompute:
                state = Solution.at_rest(parts[0])._replace(momentum=parts[1])
                _, step = self.steps.forward(problem, state, settings.gtol, settings.clip)
            else:
                step = Step._make([*parts[:5], Activations(*parts[5:])])
            to_square = to_path
            if t == settings.last - 1:
                to_square = to_path + to_last
                rows = [*step[:5], *step.activations, to_y, to_m, to_square]
                self._declare([problem, sums], rows)
            to_y, to_m, pairs = self.steps.backward(
                problem, step, (to_y, to_m, to_square), sums, settings.gtol, settings.clip
            )
            for total, (left, right) in zip(matrices, pairs, strict=True):
                if left.dtype == total.dtype:
                    total.addmm_(left.T, right)
                else:
                    total.add_(left.T @ right)
        scalars, norms = (
            [total.sum(dim=0) for total in totals] for totals in (sums[1:4], sums[8:12])
        )
        return Problem._make([to_y, *scalars, *sums[4:8], *norms, None, None])

    def _declare(self, problems: Sequence[Problem], rows: Sequence[Tensor]) -> None:
        """Tells the compiler that only the numbers of elements and of segments vary.

        One compilation then serves all batches, and has the widths as constants.
        """
        if not isinstance(self.steps.forward, Compiled):
            return
        weights = [tensor for problem in problems for tensor in problem.weights]
        others = [tensor for problem in problems for tensor in (*problem[:5], *problem[12:])]
        for tensor in (*rows, *others):
            if tensor is not None and tensor.dim():
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
                torch._dynamo.mark_static(tensor, list(range(1, tensor.dim())))
        for tensor in weights:
            torch._dynamo.mark_static(tensor)


def _constants(problem: Problem) -> Problem:
    """The problem without a graph, its matrices in the dtype of products."""
    tensors = Problem._make([*problem[:5], *problem.weights, *problem[12:]])
    return Problem._make([tensor.detach() for tensor in tensors])


def _zeros(problem: Problem) -> Problem:
    """Gradients to add to: those of scalars by segment ``[S]``, of the norms in ``ROWS`` rows."""
    shapes = [tuple(tensor.shape) for tensor in problem.differentiable]
    shapes[1:4] = 3 * [problem.scale.shape]
    shapes[8:12] = [(ROWS, *shape) for shape in shapes[8:12]]
    return Problem._make([*map(problem.start.new_zeros, shapes), None, None])
