"""The auxiliary loss (5), both readings."""

import pytest
import torch
from torch import nn

from pyg_ea import (
    EAAggregation,
    EAConv,
    EAGlobalPool,
    NesterovSolver,
    auxiliary_loss,
    collect_solutions,
)
from tests.reference import solve
from tests.test_reference import INDEX, NUM_SEGMENTS, Setting, elements, make_layer
from tests.test_reference import reference_parameters as parameters_of


@pytest.mark.parametrize(
    ("reading", "field"), [("final", "gradient_mean_square"), ("path", "path_mean_square")]
)
def test_is_the_reference_s_mean_square_averaged_over_non_empty_segments(reading, field) -> None:
    setting = Setting(steps=4)
    layer = make_layer((3, 5, 4), setting)
    _, solution = layer(elements(3), INDEX, dim_size=NUM_SEGMENTS, return_solution=True)
    expected = solve(
        parameters_of(layer), elements(3), INDEX, NUM_SEGMENTS, steps=4, gtol=setting.gtol
    )
    occupied = INDEX.bincount(minlength=NUM_SEGMENTS) > 0
    assert 0 < occupied.sum() < NUM_SEGMENTS
    mean = getattr(expected, field)[occupied].mean()
    torch.testing.assert_close(auxiliary_loss(solution, reading), mean, rtol=1e-10, atol=1e-10)


def test_final_is_the_default_reading() -> None:
    layer = EAAggregation(3, 3, steps=4)
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    _, solution = layer(x, return_solution=True)
    assert torch.equal(auxiliary_loss(solution), auxiliary_loss(solution, "final"))
    assert auxiliary_loss(solution) != auxiliary_loss(solution, "path")


def test_sums_over_all_layers_inside_a_model() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv": EAConv(3, 3), "pool": EAGlobalPool(3, 3, steps=3)})
    x = torch.randn(4, 3)
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    with collect_solutions() as solutions:
        model["pool"](model["conv"](x, edge_index))
    assert len(solutions) == 2
    assert torch.equal(solutions[1].y, model["pool"].solution.y)
    parts = auxiliary_loss(solutions[0]) + auxiliary_loss(solutions[1])
    torch.testing.assert_close(auxiliary_loss(solutions), parts)


def test_minimising_it_trains_every_parameter_and_lowers_it() -> None:
    torch.manual_seed(0)
    layer = EAAggregation(3, 3, 8, steps=5, solver=NesterovSolver(gtol=0.0))
    x = torch.randn(20, 3)
    index = torch.arange(20) % 4
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = auxiliary_loss(layer(x, index, return_solution=True)[1])
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())
    assert values[-1] < 0.5 * values[0]


def test_is_zero_without_elements() -> None:
    layer = EAAggregation(3, 3, steps=2)
    x, index = torch.empty(0, 3), torch.empty(0, dtype=torch.long)
    assert auxiliary_loss(layer(x, index, dim_size=2, return_solution=True)[1]) == 0


def test_says_what_is_wrong() -> None:
    layer = EAAggregation(2, 2)
    for given in (layer, [layer], torch.ones(2), None):
        with pytest.raises(TypeError, match=r"takes solutions, got .* collect_solutions"):
            auxiliary_loss(given)
    _, solution = layer(torch.ones(3, 2), return_solution=True)
    with pytest.raises(ValueError, match="'final' or 'path', got 'sum'"):
        auxiliary_loss(solution, "sum")
    with pytest.raises(ValueError, match="there is no solution: call a model"):
        auxiliary_loss([])
