"""EAAggregation with every potential and every adjoint, and what its own arguments do."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pyg_ea import (
    Checkpointed,
    EAAggregation,
    EAConv,
    EAGlobalPool,
    Implicit,
    L2Prior,
    NesterovSolver,
    Truncated,
)
from pyg_ea.energy import NoPrior, Prior, mean_scaling, unit_scaling
from pyg_ea.potentials import (
    AttentionPotential,
    MaxPotential,
    MeanPotential,
    Potential,
    QuantilePotential,
    SumPotential,
)
from pyg_ea.testing import SIZES, batch, check_aggregation

CHANNELS, OUT = 6, 4
STEPS = 6


class UserPotential(nn.Module):
    """A potential of a user's own, that the library knows nothing about."""

    def __init__(self) -> None:
        super().__init__()
        self.from_x = nn.Linear(CHANNELS, OUT)
        self.from_y = nn.Linear(OUT, OUT)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (torch.tanh(self.from_x(x)) - torch.tanh(self.from_y(y))).square().sum(dim=1)


class UserPrior(nn.Module):
    """R(y) = sum of log cosh, for want of a better one."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.3))

    def forward(self, y: Tensor) -> Tensor:
        return self.weight * torch.log(torch.cosh(y)).sum(dim=1)

    def reset_parameters(self) -> None:
        nn.init.constant_(self.weight, 0.3)


def learned(**arguments: object) -> EAAggregation:
    hidden = None if "potential" in arguments else 8
    return EAAggregation(CHANNELS, OUT, hidden, STEPS, **arguments)


def classic(potential: nn.Module, out_channels: int = CHANNELS, **arguments: object):
    solver = NesterovSolver(lr=0.03)
    return EAAggregation(
        CHANNELS, out_channels, None, STEPS, potential=potential, solver=solver, **arguments
    )


VARIANTS: dict[str, Callable[[], EAAggregation]] = {
    "learned": learned,
    "checkpointed": lambda: learned(adjoint=Checkpointed()),
    "truncated": lambda: learned(adjoint=Truncated(3)),
    "implicit": lambda: learned(adjoint=Implicit()),
    "mean-scaling": lambda: learned(scaling=mean_scaling),
    "user-potential": lambda: learned(potential=UserPotential()),
    "user-potential-checkpointed": lambda: learned(
        potential=UserPotential(), adjoint=Checkpointed()
    ),
    "user-prior": lambda: learned(prior=UserPrior()),
    "mean": lambda: classic(MeanPotential()),
    "sum": lambda: classic(
        SumPotential(), prior=L2Prior(1.0, trainable=False), scaling=unit_scaling
    ),
    "median": lambda: classic(QuantilePotential(0.5, smoothing=0.5)),
    "max": lambda: classic(MaxPotential(max_count=64, smoothing=0.5)),
    "attention": lambda: classic(AttentionPotential(CHANNELS), CHANNELS + 1),
}


implicit = pytest.mark.filterwarnings(
    "ignore::pyg_ea.adjoints.ImplicitGradientWarning"
)  # too few steps


@pytest.fixture(params=VARIANTS)
def variant(request) -> str:
    return request.param


@pytest.fixture
def module(variant, device) -> EAAggregation:
    torch.manual_seed(0)
    return VARIANTS[variant]()


@implicit
def test_it_passes_the_checks(variant, device) -> None:
    check_aggregation(
        VARIANTS[variant],
        CHANNELS,
        no_gradient=["solver."] if variant == "implicit" else [],
        skip=["multiplicity"] if variant == "mean-scaling" else [],
    )


def test_a_mean_without_prior_does_not_count() -> None:
    torch.manual_seed(0)
    module = learned(scaling=mean_scaling, prior=NoPrior())
    x, _ = batch(CHANNELS)
    torch.testing.assert_close(module(x.repeat(4, 1)), module(x), rtol=1e-3, atol=1e-3)


def close(got: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_ptr_and_both_equal_index(module) -> None:
    x, index = batch(CHANNELS)
    x = x[index.argsort(stable=True)]
    index = index.sort().values
    ptr = torch.tensor([0, *SIZES]).cumsum(0)
    by_index = module(x, index, dim_size=len(SIZES))
    assert torch.equal(module(x, ptr=ptr), by_index)
    assert torch.equal(module(x, index, ptr), by_index)
    assert torch.equal(module(x, index, ptr, len(SIZES)), by_index)
    assert torch.equal(module(x, ptr=ptr, dim_size=len(SIZES)), by_index)
    assert torch.equal(module(x, index), by_index[: int(index.max()) + 1])


@implicit
def test_ptr_has_the_gradients_of_index(module) -> None:
    x, index = batch(CHANNELS, torch.float64)
    module = module.double()
    x = x[index.argsort(stable=True)].requires_grad_()
    ptr = torch.tensor([0, *SIZES]).cumsum(0)
    by_index = module(x, index.sort().values, dim_size=len(SIZES))
    leaves = [x, *(p for p in module.potential.parameters())]
    expected = torch.autograd.grad(by_index.square().sum(), leaves)
    got = torch.autograd.grad(module(x, ptr=ptr).square().sum(), leaves)
    for mine, theirs in zip(got, expected, strict=True):
        close(mine, theirs)


def test_leading_dimensions_are_further_batches(module) -> None:
    module = module.double()
    x, index = batch(CHANNELS, torch.float64)
    stack = torch.stack([x, -x, 0.5 * x])
    out = module(stack, index, dim_size=len(SIZES))
    assert out.shape[:2] == (3, len(SIZES))
    for layer, part in zip(stack, out, strict=True):
        close(part, module(layer, index, dim_size=len(SIZES)))
    first = module(stack.movedim(1, 0), index, dim_size=len(SIZES), dim=0)
    close(first, out.movedim(1, 0))


@implicit
def test_gradient_flows_to_the_elements(module) -> None:
    x, index = batch(CHANNELS)
    x.requires_grad_()
    module(x, index, dim_size=len(SIZES)).square().sum().backward()
    assert x.grad.isfinite().all()
    assert (x.grad.abs().amax(dim=1) > 0).all()


@implicit
def test_frozen_layer_passes_gradients_through(module) -> None:
    x, index = batch(CHANNELS)
    module.requires_grad_(False)
    assert not module(x, index).requires_grad
    x.requires_grad_()
    module(x, index).square().sum().backward()
    assert x.grad.abs().max() > 0
    assert all(p.grad is None for p in module.parameters())


def test_repr_tells_sizes_and_steps(module) -> None:
    text = repr(module)
    assert text.startswith(f"EAAggregation({CHANNELS}, {module.out_channels}")
    assert f"steps={STEPS}" in text


def test_effective_start_values_equal_the_arguments() -> None:
    solver = NesterovSolver(lr=0.2, momentum=0.7)
    layer = EAAggregation(3, 3, solver=solver, prior=L2Prior(0.05))
    assert float(layer.solver.lr.detach()) == pytest.approx(0.2, rel=1e-6)
    assert float(layer.solver.momentum.detach()) == pytest.approx(0.7, rel=1e-6)
    assert float(layer.prior.weight.detach()) == pytest.approx(0.05, rel=1e-6)
    default = EAAggregation(3, 3)
    assert float(default.solver.lr.detach()) == pytest.approx(0.125, rel=1e-6)
    assert float(default.solver.momentum.detach()) == pytest.approx(0.9, rel=1e-6)
    assert default.steps == 5
    assert default.solver.gtol == 1e-3
    assert default.solver.clip is None


def test_first_step_is_minus_the_step_size_times_the_gradient() -> None:
    layer = EAAggregation(3, 3, steps=1, potential=MeanPotential(), solver=NesterovSolver(lr=0.05))
    x = torch.tensor([[1.0, -2.0, 0.5]])
    torch.testing.assert_close(layer(x), 0.05 * 2 * x)  # scale log2(2) / 1 = 1


def test_eval_steps_are_taken_in_eval_mode_only() -> None:
    torch.manual_seed(0)
    layer = EAAggregation(3, 3, steps=2, eval_steps=7, solver=NesterovSolver(gtol=0.0))
    same = EAAggregation(3, 3, steps=7, solver=NesterovSolver(gtol=0.0))
    same.load_state_dict(layer.state_dict())
    x = torch.randn(5, 3)
    trained = layer(x)
    assert layer.solution.steps.tolist() == [2]
    evaluated = layer.eval()(x)
    assert layer.solution.steps.tolist() == [7]
    assert torch.equal(evaluated, same(x))
    assert not torch.equal(evaluated, trained)


class Layered(Potential):
    """A subclass that overrides forward alone."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(CHANNELS + OUT, 3), nn.Tanh())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.layers(torch.cat([x, y], dim=-1)).square().sum(dim=-1)


class LayeredPrior(Prior):
    """A subclass that overrides forward alone."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(OUT, 3)

    def forward(self, y: Tensor) -> Tensor:
        return self.linear(y).square().sum(dim=-1)


def test_reset_parameters_reaches_layers_inside_potential_and_prior() -> None:
    layer = EAAggregation(CHANNELS, OUT, potential=Layered(), prior=LayeredPrior())
    before = copy.deepcopy(layer.state_dict())
    layer.reset_parameters()
    for name, value in layer.state_dict().items():
        assert (value == before[name]).all() == name.startswith("solver"), name


def test_quantiles_are_there_after_to_empty() -> None:
    quantiles = [0.1, 0.5, 0.9]
    with torch.device("meta"):
        layer = EAAggregation(3, 3, potential=QuantilePotential(quantiles))
    layer = layer.to_empty(device="cpu")
    layer.potential.quantile.fill_(7.0)
    layer.reset_parameters()
    assert layer.potential.quantile.tolist() == torch.tensor(quantiles).tolist()


def test_a_layer_without_values_can_be_printed() -> None:
    with torch.device("meta"):
        layer = EAAggregation(3, 3)
    assert repr(layer.solver) == "NesterovSolver(lr=meta, momentum=meta, gtol=0.001)"
    assert repr(layer.prior) == "L2Prior(weight=meta)"


def test_a_subclass_may_have_the_signature_of_pyg() -> None:
    class Scaled(EAAggregation):
        def forward(self, x, index=None, ptr=None, dim_size=None, dim=-2):
            return super().forward(2 * x, index, ptr, dim_size, dim)

    torch.manual_seed(0)
    x, index = batch(CHANNELS)
    layer = EAAggregation(CHANNELS, OUT)
    scaled = Scaled(CHANNELS, OUT)
    scaled.load_state_dict(layer.state_dict())
    assert torch.equal(scaled(x, index), layer(2 * x, index))


def test_weights_start_as_a_truncated_normal_of_fan_in_and_biases_at_zero() -> None:
    torch.manual_seed(0)
    potential = EAAggregation(100, 100, 200).potential
    for name in ("layer1", "layer2", "layer3", "skip1", "skip2", "skip3"):
        linear = getattr(potential, name)
        scaled = linear.weight * linear.in_features**0.5
        assert scaled.abs().max() <= 2
        assert scaled.abs().max() > 1.9  # the tails of a normal cut at two deviations
        assert scaled.std().item() == pytest.approx(0.8796, rel=0.03)  # its deviation
        assert linear.bias.abs().max() == 0


def test_counts_do_not_saturate_in_bf16() -> None:
    """257 elements are one more than bf16 can count."""
    layer = EAAggregation(
        2, 2, steps=1, potential=SumPotential(), prior=L2Prior(1.0), scaling=lambda n: n
    ).bfloat16()
    x = torch.ones(1000, 2, dtype=torch.bfloat16) / 1000
    index = torch.zeros(1000, dtype=torch.long)
    layer(x, index)
    expected = 1000 * 2 * float(x[0, 0]) * 1000
    assert layer.solution.gradient_max.item() == pytest.approx(expected, rel=1e-3)


def test_solution_describes_the_last_call() -> None:
    torch.manual_seed(0)
    layer = learned()
    assert layer.solution is None
    x, index = batch(CHANNELS)
    y = layer(x, index, dim_size=len(SIZES))
    solution = layer.solution
    assert torch.equal(solution.y, y)
    for name in solution._fields[2:]:
        assert getattr(solution, name).shape == (len(SIZES),), name
    empty = torch.tensor(SIZES) == 0
    assert solution.converged[empty].all()
    assert not solution.diverged.any()
    assert (solution.steps[empty] == 0).all()
    assert (solution.path_mean_square >= solution.gradient_mean_square).all()


def test_auxiliary_norms_reach_every_parameter() -> None:
    for name in ("gradient_mean_square", "path_mean_square"):
        torch.manual_seed(0)
        layer = learned()
        x, index = batch(CHANNELS)
        _, solution = layer(x, index, return_solution=True)
        getattr(solution, name).sum().backward()
        for parameter_name, parameter in layer.named_parameters():
            assert parameter.grad.abs().max() > 0, f"{name}, {parameter_name}"


def test_diagnose_reports_each_segment() -> None:
    torch.manual_seed(0)
    layer = classic(MeanPotential())
    layer.eval_steps = 400
    x, index = batch(CHANNELS)
    report = layer.eval().diagnose(x, index, dim_size=len(SIZES))
    occupied = torch.tensor(SIZES) > 0
    assert (report.energy_after[occupied] < report.energy_before[occupied]).all()
    assert report.count.tolist() == SIZES
    assert not report.solution.diverged.any()
    assert (report.solution.gradient_max < 0.05).all()
    assert not any(field.requires_grad for field in report.solution)
    text = str(report)
    assert f"{len(SIZES)} segments" in text
    assert "diverged" in text


def test_diagnose_leaves_the_solution_and_the_module_alone() -> None:
    layer = learned()
    x, index = batch(CHANNELS)
    layer(x, index)
    before = layer.solution
    layer.diagnose(x, index)
    assert layer.solution is before


def test_the_result_lies_in_the_span_of_what_the_potential_computes():
    torch.manual_seed(0)
    layer = EAAggregation(6, 80, hidden_channels=6, steps=3).double()
    x, index = torch.randn(600, 6, dtype=torch.float64), torch.arange(600) // 4
    rank = torch.linalg.matrix_rank(layer(x, index))
    assert 6 < rank <= 3 * 6 + 32  # of 80 channels: docs/choose.md


def test_state_dicts_with_scalars_that_have_no_dimension_load() -> None:
    """As versions before 0.1.0 saved them."""
    pool = EAGlobalPool(3, 4, steps=2)
    conv = EAConv(3, 3)
    for module in (pool, conv):
        state = module.state_dict()
        scalars = [name for name, value in state.items() if value.shape == (1,)]
        assert len(scalars) >= 3
        old = {
            name: value.reshape(()) + 0.5 if name in scalars else value
            for name, value in state.items()
        }
        module.load_state_dict(old)
        for name in scalars:
            assert module.state_dict()[name].item() == old[name].item()
