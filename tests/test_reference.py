"""The layer equals the plain float64 reference of Listings 1 and 2, gradients included."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from pyg_ea import Checkpointed, EAAggregation, NesterovSolver, ResNetPotential
from tests.reference import ReferenceSolution, solve

EQUAL = 1e-10  # float64: hundreds of operations on numbers of order 1, in another order

WIDTHS = {  # (Dx, Dy, H)
    "first-skip-identity": (3, 5, 4),
    "all-skips-projected": (3, 2, 4),
    "last-skip-identity": (2, 3, 32),
    "first-and-last-identity": (30, 34, 32),
}

# With y = m = 0 the first step's gradient feels neither momentum nor the prior.
SILENT_IN_THE_FIRST_STEP = ("solver.raw_momentum", "prior.raw_weight")

# Tolerances for which, at T = 15, some segments have stopped and others have not.
SEPARATING_GTOL = {
    "first-skip-identity": 0.25,
    "all-skips-projected": 0.1,
    "last-skip-identity": 0.25,
    "first-and-last-identity": 0.1,
}

# Unsorted, sizes 3, 0, 1, 5, 2, 0, 0: an empty one inside, trailing empty ones, a single element.
INDEX = torch.tensor([3, 0, 4, 3, 2, 3, 0, 4, 3, 0, 3])
NUM_SEGMENTS = 7


pytestmark = pytest.mark.usefixtures("device")


class ForwardOnly(nn.Module):
    """Hides everything of a potential but its forward, so that autograd is its only gradient."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.inner(x, y)


@dataclass(frozen=True)
class Setting:
    """How the inner loop runs."""

    steps: int = 5
    gtol: float = 1e-3
    clip: float | None = None


def make_layer(
    widths: tuple[int, int, int], setting: Setting, *, forward_only: bool = False, adjoint=None
) -> EAAggregation:
    """A float64 layer whose every parameter is off its start, so that each has a say."""
    torch.manual_seed(7)
    potential: nn.Module = ResNetPotential(*widths)
    layer = EAAggregation(
        *widths[:2],
        steps=setting.steps,
        potential=ForwardOnly(potential) if forward_only else potential,
        solver=NesterovSolver(lr=0.1, momentum=0.8, gtol=setting.gtol, clip=setting.clip),
        adjoint=adjoint,
    ).double()
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return layer


def reference_parameters(layer: EAAggregation) -> dict[str, Tensor]:
    """Fresh leaves with the layer's values, by their state-dict names."""
    return {
        name.replace("inner.", ""): value.detach().clone().requires_grad_()
        for name, value in layer.state_dict().items()
    }


def elements(channels: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(len(INDEX), channels, dtype=torch.float64, generator=generator)


def functional(solution: object, seed: int = 5) -> Tensor:
    """A random linear functional of y, the final norm and the path norm together."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for part in (solution.y, solution.gradient_mean_square, solution.path_mean_square):
        weights = torch.randn(part.shape, dtype=torch.float64, generator=generator)
        total = total + (weights * part).sum()
    return total


def check_equal(layer: EAAggregation, setting: Setting) -> ReferenceSolution:
    """Outputs, norms and all gradients of layer and reference; returns the reference's."""
    x = elements(layer.in_channels).requires_grad_()
    y, solution = layer(x, INDEX, dim_size=NUM_SEGMENTS, return_solution=True)
    torch.testing.assert_close(y, solution.y, rtol=0, atol=0)
    got = torch.autograd.grad(functional(solution), [x, *layer.parameters()])

    parameters = reference_parameters(layer)
    x_reference = elements(layer.in_channels).requires_grad_()
    expected = solve(
        parameters,
        x_reference,
        INDEX,
        NUM_SEGMENTS,
        steps=setting.steps,
        gtol=setting.gtol,
        clip=setting.clip,
    )
    for name in ("y", "gradient_mean_square", "path_mean_square", "gradient_max"):
        close(getattr(layer.solution, name), getattr(expected, name), name)
    assert layer.solution.steps.tolist() == expected.active.sum(dim=0).tolist()

    names = [name.replace("inner.", "") for name, _ in layer.named_parameters()]
    assert set(names) == set(parameters)
    wanted = torch.autograd.grad(
        functional(expected), [x_reference, *(parameters[name] for name in names)]
    )
    for name, mine, theirs in zip(["x", *names], got, wanted, strict=True):
        if setting.steps > 1 or name not in SILENT_IN_THE_FIRST_STEP:
            assert theirs.abs().max() > 1e-8, f"the gradient of {name} is no test: it is 0"
        close(mine, theirs, name)
    return expected


def close(got: Tensor, expected: Tensor, name: str) -> None:
    """Entries within EQUAL of the tensor's largest one, which sets the size of the rounding."""
    atol = EQUAL * max(1.0, float(expected.detach().abs().max()))
    torch.testing.assert_close(got, expected, rtol=0, atol=atol, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("steps", [1, 2, 15])
@pytest.mark.parametrize("clip", [None, 0.2], ids=["unclipped", "clipped"])
def test_closed_form_equals_the_reference(widths, steps, clip) -> None:
    setting = Setting(steps=steps, clip=clip)
    expected = check_equal(make_layer(widths, setting), setting)
    if clip is not None and steps > 1:
        at_bound = expected.y.abs() == clip
        assert at_bound.any()
        assert not at_bound.all()


@pytest.mark.parametrize("widths", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("clip", [None, 0.3], ids=["unclipped", "clipped"])
def test_a_potential_by_autograd_equals_the_reference(widths, clip) -> None:
    setting = Setting(steps=4, clip=clip)
    check_equal(make_layer(widths, setting, forward_only=True), setting)


@pytest.mark.parametrize("forward_only", [False, True], ids=["closed-form", "autograd"])
@pytest.mark.parametrize("name", WIDTHS)
def test_equal_where_some_segments_stop_and_others_do_not(name, forward_only) -> None:
    setting = Setting(steps=15, gtol=SEPARATING_GTOL[name])
    layer = make_layer(WIDTHS[name], setting, forward_only=forward_only)
    expected = check_equal(layer, setting)
    occupied = INDEX.bincount(minlength=NUM_SEGMENTS) > 0
    last = expected.active[-1, occupied]
    assert last.any(), "no segment is active at the end: change gtol"
    assert not last.all(), "every segment is active at the end: change gtol"
    assert expected.active[0, occupied].any()
    assert (expected.gradient_max[occupied] - setting.gtol).abs().min() > 1e-6  # no knife edge


def test_checkpointed_equals_the_reference() -> None:
    setting = Setting(steps=7, gtol=0.25)
    check_equal(make_layer(WIDTHS["all-skips-projected"], setting, adjoint=Checkpointed()), setting)


def test_state_dict_names_are_the_documented_ones() -> None:
    names = set(make_layer(WIDTHS["first-skip-identity"], Setting()).state_dict())
    expected = {f"potential.layer{i}.{p}" for i in (1, 2, 3) for p in ("weight", "bias")}
    expected |= {f"potential.norm{i}.{p}" for i in (1, 2) for p in ("weight", "bias")}
    expected |= {f"potential.skip{i}.{p}" for i in (2, 3) for p in ("weight", "bias")}
    assert names == expected | {"solver.raw_lr", "solver.raw_momentum", "prior.raw_weight"}
