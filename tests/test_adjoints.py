"""The adjoints against each other: the same values, and gradients as exact as each promises.

Second derivatives of unrolled and checkpointed are checked in ``test_gradcheck.py``, and gradients
against the plain float64 reference in ``test_reference.py``.
"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from benchmarks.memory import most_allocated
from pyg_ea import (
    Checkpointed,
    EAAggregation,
    Implicit,
    L2Prior,
    NesterovSolver,
    ResNetPotential,
    Truncated,
    Unrolled,
    auxiliary_loss,
    solve_backend,
)
from pyg_ea.adjoints import ImplicitGradientWarning
from pyg_ea.energy import NoPrior, mean_scaling
from pyg_ea.potentials import MeanPotential

EXACT = 1e-12  # relative, float64: the same operations, possibly summed in another order
CHANNELS = 4
INDEX = torch.tensor([3, 0, 4, 3, 2, 3, 0, 4, 3, 0, 3])  # unsorted; segments 1, 5 and 6 are empty
NUM_SEGMENTS = 7


pytestmark = pytest.mark.usefixtures("device")


class ConvexPotential(nn.Module):
    """``sum_c log cosh(W x + U y)_c``: convex in y, with parameters on both sides."""

    def __init__(self) -> None:
        super().__init__()
        self.of_x = nn.Linear(CHANNELS, CHANNELS)
        self.of_y = nn.Linear(CHANNELS, CHANNELS, bias=False)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.cosh(self.of_x(x) + self.of_y(y)).log().sum(dim=1)


class DoubleWell(nn.Module):
    """``sum_c (y_c^2 - 1)^2``: at y = 0 the gradient is zero and the curvature negative."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (y.square() - 1).square().sum(dim=1) + 0 * x.sum(dim=1)


class DropoutPotential(nn.Module):
    """A potential that draws a new mask in every step."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ConvexPotential()
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(self.dropout(x), y)


POTENTIALS = {
    "closed-form": lambda: ResNetPotential(CHANNELS, CHANNELS, CHANNELS),
    "user-potential": ConvexPotential,
}
potentials = pytest.mark.parametrize("make", POTENTIALS.values(), ids=POTENTIALS)


def make_layer(
    potential: nn.Module, adjoint: object, steps: int = 8, gtol: float = 0.05, lr: float = 0.1
):
    """A float64 layer; layers over the same potential share all other parameters' values too."""
    solver = NesterovSolver(lr=lr, momentum=0.8, gtol=gtol)
    return EAAggregation(
        CHANNELS,
        CHANNELS,
        steps=steps,
        potential=potential,
        prior=L2Prior(0.3),
        solver=solver,
        adjoint=adjoint,
    ).double()


def seeded(make) -> nn.Module:
    torch.manual_seed(2)
    return make()


def elements() -> Tensor:
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(len(INDEX), CHANNELS, dtype=torch.float64, generator=generator)
    return x.requires_grad_()


def gradients(layer: EAAggregation, norms: bool = True) -> tuple[Tensor, dict[str, Tensor]]:
    """The result, and the gradients of a random functional of it in x and all parameters."""
    x = elements()
    y, solution = layer(x, INDEX, dim_size=NUM_SEGMENTS, return_solution=True)
    generator = torch.Generator().manual_seed(5)
    loss = (torch.randn(y.shape, dtype=y.dtype, generator=generator) * y).sum()
    if norms:
        loss = loss + solution.path_mean_square.sum() + auxiliary_loss(solution)
    names = ["x", *(name for name, _ in layer.named_parameters())]
    wanted = torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True)
    return y.detach(), {
        name: torch.zeros(()) if g is None else g for name, g in zip(names, wanted, strict=True)
    }


def error(got: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """Largest relative difference of any tensor, by its largest entry."""
    return max(
        float((got[name] - expected[name]).abs().max() / expected[name].abs().max())
        for name in expected
    )


@potentials
@pytest.mark.parametrize(
    "adjoint", [Checkpointed(), Truncated(8), Truncated(100)], ids=["checkpointed", "all", "more"]
)
def test_the_gradient_of_unrolled(make, adjoint) -> None:
    potential = seeded(make)
    y, expected = gradients(make_layer(potential, Unrolled()))
    assert all(g.abs().max() > 1e-6 for g in expected.values()), "some gradient is no test: it is 0"
    y_got, got = gradients(make_layer(potential, adjoint))
    torch.testing.assert_close(y_got, y, rtol=0, atol=0)
    assert error(got, expected) < EXACT


def test_truncated_errs_less_the_more_steps_it_keeps() -> None:
    """Where the energy is convex, so that what came before is forgotten."""
    potential = seeded(ConvexPotential)
    _, expected = gradients(make_layer(potential, Unrolled(), steps=12, gtol=0.0), norms=False)
    errors = []
    for last in (2, 5, 9, 12):
        layer = make_layer(potential, Truncated(last), steps=12, gtol=0.0)
        _, got = gradients(layer, norms=False)
        errors.append(float((got["x"] - expected["x"]).norm() / expected["x"].norm()))
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1e-3, "truncation has no effect: the test shows nothing"
    assert errors[-1] < EXACT


@pytest.mark.parametrize("adjoint", [Checkpointed(), Truncated(2), Implicit()], ids=type)
def test_all_give_the_same_values(adjoint) -> None:
    potential = seeded(POTENTIALS["closed-form"])
    expected = make_layer(potential, Unrolled())
    layer = make_layer(potential, adjoint)
    for each in (expected, layer):
        each(elements(), INDEX, dim_size=NUM_SEGMENTS)
    for name, value in expected.solution._asdict().items():
        torch.testing.assert_close(
            getattr(layer.solution, name), value, rtol=0, atol=0, msg=name, check_dtype=True
        )


@pytest.mark.cpu  # torch's profiler measures what lies in its memory
@pytest.mark.parametrize("with_norms", [False, True])
@pytest.mark.parametrize("backend", ["auto", "torch", "plain"])
def test_checkpointed_keeps_at_most_two_states_a_step(with_norms, backend) -> None:
    """Peak memory grows by y and momentum ``[S, D]`` with each step, at most."""
    segments, channels = 256, 64

    def peak(steps: int) -> int:
        layer = EAAggregation(channels, channels, steps=steps, adjoint=Checkpointed())
        x, index = torch.randn(segments, channels), torch.arange(segments)

        def step() -> None:
            with solve_backend(backend):
                y, solution = layer(x, index, return_solution=True)
            (y.sum() + auxiliary_loss(solution) if with_norms else y.sum()).backward()

        return most_allocated(step)

    state = segments * channels * torch.tensor(0.0).element_size()
    grown = (peak(24) - peak(4)) / 20 / state
    # plain: torch's checkpoint keeps what it recomputed of a part that backward never visits
    assert grown < (3.5 if backend == "plain" else 2.5)


@potentials
def test_implicit_is_unrolled_at_convergence(make) -> None:
    potential = seeded(make)
    settled = {"steps": 800, "gtol": 1e-11, "lr": 0.02}
    _, expected = gradients(make_layer(potential, Unrolled(), **settled), norms=False)
    adjoint = Implicit(max_iterations=50, tolerance=1e-10)
    layer = make_layer(potential, adjoint, **settled)
    _, got = gradients(layer, norms=False)
    assert layer.solution.converged.all()
    assert not adjoint.report["indefinite"].any()
    assert not adjoint.report["unconverged"].any()
    for name in ("solver.raw_lr", "solver.raw_momentum"):
        assert got.pop(name).abs().max() == 0, "y does not depend on it at the minimum"
        assert expected.pop(name).abs().max() < 1e-6
    assert all(g.abs().max() > 1e-6 for g in expected.values()), "some gradient is no test: it is 0"
    assert error(got, expected) < 1e-6


def test_implicit_reports_what_is_not_converged() -> None:
    adjoint = Implicit(max_iterations=50)
    layer = make_layer(seeded(ConvexPotential), adjoint, steps=3, gtol=1e-8)
    with pytest.warns(ImplicitGradientWarning, match="take more steps"):
        gradients(layer, norms=False)
    occupied = INDEX.bincount(minlength=NUM_SEGMENTS) > 0
    assert adjoint.report["unconverged"].tolist() == occupied.tolist()


def test_implicit_reports_a_solve_that_ended_too_early() -> None:
    adjoint = Implicit(max_iterations=1)
    layer = make_layer(seeded(ConvexPotential), adjoint, steps=600, gtol=1e-11)
    with pytest.warns(ImplicitGradientWarning, match="max_iterations"):
        gradients(layer, norms=False)
    occupied = INDEX.bincount(minlength=NUM_SEGMENTS) > 0
    assert (adjoint.report["residual"] > adjoint.tolerance).tolist() == occupied.tolist()
    assert not adjoint.report["unconverged"].any()


def test_implicit_reports_negative_curvature() -> None:
    adjoint = Implicit()
    layer = EAAggregation(
        CHANNELS, CHANNELS, potential=DoubleWell(), prior=NoPrior(), adjoint=adjoint
    ).double()
    with pytest.warns(ImplicitGradientWarning, match="damping"):
        layer(elements(), INDEX, dim_size=NUM_SEGMENTS).sum().backward()
    occupied = INDEX.bincount(minlength=NUM_SEGMENTS) > 0
    assert adjoint.report["indefinite"][occupied].all()
    assert not adjoint.report["unconverged"].any(), "y = 0 is stationary"


@pytest.mark.parametrize("damping", [0.0, 0.5, 2.0])
def test_damping_is_added_to_the_curvature(damping) -> None:
    """For the mean of squares the Hessian is 2, so dL/dx_i = 2 / (2 + damping) v / n."""
    adjoint = Implicit(damping=damping)
    layer = EAAggregation(
        CHANNELS,
        CHANNELS,
        steps=300,
        potential=MeanPotential(),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.1, momentum=0.5, gtol=1e-12, trainable=False),
        adjoint=adjoint,
        scaling=mean_scaling,
    ).double()
    x = elements()
    v = torch.arange(NUM_SEGMENTS * CHANNELS, dtype=torch.float64).reshape(NUM_SEGMENTS, -1)
    layer(x, INDEX, dim_size=NUM_SEGMENTS).backward(v)
    count = INDEX.bincount(minlength=NUM_SEGMENTS).clamp(min=1)
    expected = (2 / (2 + damping) * v / count[:, None])[INDEX]
    torch.testing.assert_close(x.grad, expected, rtol=1e-9, atol=1e-12)


def test_implicit_refuses_second_derivatives() -> None:
    layer = make_layer(seeded(ConvexPotential), Implicit(max_iterations=50), 600, 1e-11)
    x = elements()
    y = layer(x, INDEX, dim_size=NUM_SEGMENTS)
    with pytest.raises(RuntimeError, match="Unrolled or Checkpointed"):
        torch.autograd.grad(y.sum(), x, create_graph=True)


def test_the_auxiliary_loss_trains_step_size_and_momentum_under_implicit() -> None:
    layer = make_layer(seeded(ConvexPotential), Implicit(), steps=4, gtol=0.0)
    _, solution = layer(elements(), INDEX, dim_size=NUM_SEGMENTS, return_solution=True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the norms are unrolled: nothing to warn of
        auxiliary_loss(solution).backward()
    assert layer.solver.raw_lr.grad.abs() > 0
    assert layer.solver.raw_momentum.grad.abs() > 0


def test_checkpointed_recomputes_with_the_same_random_numbers() -> None:
    potential = seeded(DropoutPotential)
    results = []
    for adjoint in (Unrolled(), Checkpointed()):
        layer = make_layer(potential, adjoint, gtol=0.0)
        torch.manual_seed(4)
        results.append(gradients(layer))
    (y, expected), (y_got, got) = results
    torch.testing.assert_close(y_got, y, rtol=0, atol=0)
    assert error(got, expected) < EXACT

    torch.manual_seed(6)
    _, other = gradients(make_layer(potential, Unrolled(), gtol=0.0))
    assert error(other, expected) > 1e-3, "the mask has no effect: the test shows nothing"
