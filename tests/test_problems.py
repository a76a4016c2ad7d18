"""Every potential with a known answer reaches it, and so do its gradients."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pyg_ea import Checkpointed, EAAggregation, Implicit, NesterovSolver, Unrolled
from pyg_ea.energy import NoPrior
from pyg_ea.potentials import MeanPotential, QuantilePotential
from tests.problems import CHANNELS, LARGEST_SET, PROBLEMS, Problem

SMOOTHING = 0.02
SIZES = [4, 0, 1, LARGEST_SET, 2, 5, 0]  # an empty set inside, an empty one at the end
by_name = pytest.mark.parametrize("problem", PROBLEMS, ids=lambda problem: problem.name)


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Elements of order one in random order: ``x [N, D]``, ``index [N]``."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    index = index[torch.randperm(len(index), generator=generator)]
    x = torch.randn(len(index), CHANNELS, generator=generator, dtype=torch.float64)
    return 0.7 * x, index


def build(problem: Problem, adjoint: object | None = None) -> EAAggregation:
    torch.manual_seed(1)
    layer = problem.build().double()
    layer.reset_parameters()  # in float64: step size and prior weight are not rounded to float32
    if adjoint is not None:
        layer.adjoint = adjoint
    return layer


@by_name
def test_answer(problem: Problem) -> None:
    layer = build(problem)
    x, index = batch()
    with torch.no_grad():
        y = layer(x, index, dim_size=len(SIZES))
        for segment, size in enumerate(SIZES):
            if size == 0:
                assert y[segment].abs().max() == 0
                continue
            error = (y[segment] - problem.answer(layer, x[index == segment])).abs().max()
            assert error <= problem.tolerance, f"set of {size}: off by {error:.2e}"


@pytest.mark.parametrize(
    "adjoint",
    [Unrolled(), Checkpointed(), Implicit(max_iterations=30, tolerance=1e-12)],
    ids=lambda adjoint: type(adjoint).__name__,
)
@pytest.mark.parametrize(
    "problem", [p for p in PROBLEMS if p.smooth], ids=lambda problem: problem.name
)
def test_gradient_of_the_answer(problem: Problem, adjoint: object) -> None:
    layer = build(problem, adjoint)
    if isinstance(adjoint, Implicit):
        layer.solver.gtol = 1e-11  # small enough to be at the minimum, large enough to be met
    x, index = batch()
    x.requires_grad_()
    leaves = [x, *layer.potential.parameters()]
    leaves += [p for p in layer.prior.parameters() if problem.name == "gaussian-map"]
    occupied = [s for s, size in enumerate(SIZES) if size]
    answers = torch.stack([problem.answer(layer, x[index == s]) for s in occupied])
    weights = torch.linspace(-1, 2, answers.numel(), dtype=torch.float64).view_as(answers)
    expected = torch.autograd.grad((weights * answers).sum(), leaves)
    y = layer(x, index, dim_size=len(SIZES))[occupied]
    got = torch.autograd.grad((weights * y).sum(), leaves)
    for mine, theirs in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-7, atol=1e-7)  # converged, not exact


def median_layer(quantile: float | list[float] = 0.5) -> EAAggregation:
    return EAAggregation(
        CHANNELS,
        CHANNELS,
        steps=1500,
        potential=QuantilePotential(quantile, smoothing=SMOOTHING),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.012, gtol=0.0),
    ).double()


def test_median_of_odd_sets_is_theirs_and_of_even_sets_lies_between_the_middle_two() -> None:
    x, index = batch(seed=2)
    with torch.no_grad():
        y = median_layer()(x, index, dim_size=len(SIZES))
    for segment, size in enumerate(SIZES):
        if size:
            ordered = x[index == segment].sort(dim=0).values
            low, high = ordered[(size - 1) // 2], ordered[size // 2]
            assert (y[segment] >= low - SMOOTHING).all()
            assert (y[segment] <= high + SMOOTHING).all()


def test_the_quantiles_beside_the_median_of_an_even_set_are_its_middle_two() -> None:
    x = torch.tensor([0.0, 0.1, 0.2, 0.4, 0.7, 0.8], dtype=torch.float64)[:, None]
    with torch.no_grad():
        y = median_layer([0.45, 0.55, 0.5])(x.expand(-1, CHANNELS))[0]
    torch.testing.assert_close(y[:2], x[2:4, 0], rtol=0, atol=SMOOTHING)


def test_median_does_not_follow_an_outlier_and_the_mean_does() -> None:
    x = torch.tensor([[0.0], [0.1], [0.2], [0.3], [5.0]], dtype=torch.float64)
    x = x.expand(-1, CHANNELS)
    mean = EAAggregation(
        CHANNELS,
        CHANNELS,
        steps=300,
        potential=MeanPotential(),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.1, momentum=0.5, gtol=0.0),
    ).double()
    with torch.no_grad():
        assert (median_layer()(x) - 0.2).abs().max() <= SMOOTHING
        torch.testing.assert_close(mean(x), x.mean(dim=0, keepdim=True))


def test_erratum_the_quotient_of_the_first_attention_potential_is_not_attention() -> None:
    problem = next(p for p in PROBLEMS if p.name == "attention")
    printed = next(p for p in PROBLEMS if p.name == "attention-as-printed")
    x, _ = batch()
    with torch.no_grad():
        for row, by_quotient in ((problem, False), (printed, True)):
            layer = build(row)
            attention = torch.softmax(x @ layer.potential.query, dim=0) @ x
            y = layer(x)[0]
            alone, quotient = y[:-1], y[:-1] / y[-1]
            right, wrong = (quotient, alone) if by_quotient else (alone, quotient)
            torch.testing.assert_close(right, attention)
            assert (wrong - attention).abs().max() > 1e-3
