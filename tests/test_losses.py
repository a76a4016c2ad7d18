"""The auxiliary loss (5), both readings."""

import pytest
import torch
from torch import nn

from pyg_ea import EAAggregation, EAConv, EAGlobalPool, NesterovSolver, auxiliary_loss
from tests.reference import solve
from tests.test_reference import INDEX, NUM_SEGMENTS, Setting, elements, make_layer
from tests.test_reference import reference_parameters as parameters_of


@pytest.mark.parametrize(
    ("reading", "field"), [("final", "gradient_mean_square"), ("path", "path_mean_square")]
)
def test_is_the_reference_s_mean_square_averaged_over_non_empty_segments(reading, field) -> None:
    setting = Setting(steps=4)
    layer = make_layer((3, 5, 4), setting)
    layer(elements(3), INDEX, dim_size=NUM_SEGMENTS)
    expected = solve(
        parameters_of(layer), elements(3), INDEX, NUM_SEGMENTS, steps=4, gtol=setting.gtol
    )
    occupied = INDEX.bincount(minlength=NUM_SEGMENTS) > 0
    assert 0 < occupied.sum() < NUM_SEGMENTS
    mean = getattr(expected, field)[occupied].mean()
    torch.testing.assert_close(auxiliary_loss(layer, reading), mean, rtol=1e-10, atol=1e-10)


def test_final_is_the_default_reading() -> None:
    layer = EAAggregation(3, 3, steps=4)
    layer(torch.randn(4, 3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(auxiliary_loss(layer), auxiliary_loss(layer, "final"))
    assert auxiliary_loss(layer) != auxiliary_loss(layer, "path")


def test_sums_over_all_layers_inside_a_model() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"conv": EAConv(3, 3, steps=3), "pool": EAGlobalPool(3, 3, steps=3)})
    x = torch.randn(4, 3)
    edge_index = torch.tensor([[0, 1, 2, 3], [1, 0, 3, 2]])
    model["pool"](model["conv"](x, edge_index))
    parts = auxiliary_loss(model["conv"]) + auxiliary_loss(model["pool"])
    torch.testing.assert_close(auxiliary_loss(model), parts)


class Twice(nn.Module):
    """One layer used twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = EAGlobalPool(3, 6, steps=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(x) + self.pool(2 * x)


def test_a_layer_used_twice_in_a_pass_counts_twice_and_a_new_pass_starts_anew() -> None:
    torch.manual_seed(0)
    model, x = Twice(), torch.randn(4, 3)
    aggr = model.pool.aggr
    solutions = [aggr(part, return_solution=True)[1] for part in (x, 2 * x)]
    expected = auxiliary_loss(solutions[0]) + auxiliary_loss(solutions[1])
    for _ in range(2):
        model(x)
        assert len(aggr.solutions) == 2
        assert torch.equal(auxiliary_loss(model), expected)
    assert torch.equal(auxiliary_loss(solutions), expected)
    model.pool(x)
    assert torch.equal(auxiliary_loss(model), auxiliary_loss(solutions[0]))


def test_warns_where_it_is_a_constant() -> None:
    layer = EAAggregation(3, 3, steps=2)
    with torch.no_grad():
        layer(torch.randn(4, 3))
        auxiliary_loss(layer)
    with pytest.warns(UserWarning, match="use_reentrant=False"):
        auxiliary_loss(layer)
    auxiliary_loss(layer.eval())  # no training, no warning


def test_minimising_it_trains_every_parameter_and_lowers_it() -> None:
    torch.manual_seed(0)
    layer = EAAggregation(3, 3, 8, steps=5, solver=NesterovSolver(gtol=0.0))
    x = torch.randn(20, 3)
    index = torch.arange(20) % 4
    optimizer = torch.optim.Adam(layer.parameters(), lr=1e-2)
    values = []
    for _ in range(30):
        optimizer.zero_grad()
        layer(x, index)
        loss = auxiliary_loss(layer)
        loss.backward()
        optimizer.step()
        values.append(float(loss.detach()))
    assert all(p.grad.abs().max() > 0 for p in layer.parameters())
    assert values[-1] < 0.5 * values[0]


def test_is_zero_without_elements() -> None:
    layer = EAAggregation(3, 3, steps=2)
    layer(torch.empty(0, 3), torch.empty(0, dtype=torch.long), dim_size=2)
    assert auxiliary_loss(layer) == 0


def test_says_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="Linear holds no EAAggregation"):
        auxiliary_loss(nn.Linear(2, 2))
    with pytest.raises(ValueError, match="'final' or 'path', got 'sum'"):
        auxiliary_loss(EAAggregation(2, 2), "sum")
    with pytest.raises(RuntimeError, match="call the layer first"):
        auxiliary_loss(EAAggregation(2, 2))
    with pytest.raises(ValueError, match="no solution was given"):
        auxiliary_loss([])
