"""NormedMultiAggregation: the checks of an aggregation, and each part behind its own norm."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import GINConv, aggr

from pyg_ea import (
    EAAggregation,
    NormedMultiAggregation,
    Truncated,
    collect_solutions,
)
from pyg_ea.testing import SIZES, batch, check_aggregation

CHANNELS, OUT = 6, 4


def ea(**arguments: object) -> EAAggregation:
    return EAAggregation(CHANNELS, OUT, 8, 6, **arguments)


def build() -> NormedMultiAggregation:
    return NormedMultiAggregation([ea(), "mean", "sum", "max"], [OUT, CHANNELS, CHANNELS, CHANNELS])


@pytest.fixture
def module(device) -> NormedMultiAggregation:
    torch.manual_seed(0)
    return build()


def test_it_passes_the_checks(device) -> None:
    check_aggregation(build, CHANNELS)


def test_each_part_stands_behind_its_own_norm(module) -> None:
    x, index = batch(CHANNELS)
    with torch.no_grad():
        for i, norm in enumerate(module.norms):
            norm.weight.fill_(i + 1.0)
            norm.bias.fill_(0.5 * i)
    parts = module(*batch(CHANNELS), dim_size=len(SIZES)).split(module.channels, dim=1)
    occupied = torch.tensor(SIZES) > 0
    for i, (aggregation, got) in enumerate(zip(module.aggrs, parts, strict=True)):
        y = aggregation(x, index, dim_size=len(SIZES))
        expected = (i + 1) * F.layer_norm(y, y.shape[1:]) + 0.5 * i
        torch.testing.assert_close(got[occupied], expected[occupied])


def test_empty_sets_stay_zero_whatever_the_norms_learn(module) -> None:
    with torch.no_grad():
        for norm in module.norms:
            norm.bias.fill_(3.0)
    occupied = torch.tensor(SIZES) > 0
    out = module(*batch(CHANNELS), dim_size=len(SIZES))
    assert torch.equal(out.any(dim=1), occupied)


def test_ptr_is_the_same_as_index(module) -> None:
    x, _ = batch(CHANNELS)
    sizes = torch.tensor(SIZES)
    index = torch.arange(len(SIZES)).repeat_interleave(sizes)
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    expected = module(x, index, dim_size=len(SIZES))
    assert torch.equal(module(x, ptr=ptr), expected)


def test_the_solution_of_ea_inside_is_collected(module) -> None:
    with collect_solutions() as solutions:
        module(*batch(CHANNELS), dim_size=len(SIZES))
    assert len(solutions) == 1
    assert torch.equal(solutions[0].y, module.aggrs[0].solution.y)


def test_second_derivatives_by_ptr_are_those_by_index(module) -> None:
    module = module.double()
    sizes = torch.tensor(SIZES)
    index = torch.arange(len(SIZES)).repeat_interleave(sizes)
    x, _ = batch(CHANNELS, torch.float64)
    x.requires_grad_()
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    second = []
    for out in (module(x, index, dim_size=len(SIZES)), module(x, ptr=ptr)):
        (grad,) = torch.autograd.grad(out.square().sum(), x, create_graph=True)
        second.append(torch.autograd.grad(grad.square().sum(), x)[0])
    assert second[0].abs().max() > 0
    torch.testing.assert_close(*second)


def test_without_a_norm_it_is_pyg_s() -> None:
    x, index = batch(CHANNELS)
    parts = ["mean", "max", aggr.Set2Set(CHANNELS, 2)]
    torch.manual_seed(0)
    index = index.sort().values
    ours = NormedMultiAggregation(parts, [CHANNELS, CHANNELS, 2 * CHANNELS], norm=nn.Identity)
    theirs = aggr.MultiAggregation(parts)(x, index, dim_size=len(SIZES))
    occupied = torch.tensor(SIZES) > 0
    assert torch.equal(ours(x, index, dim_size=len(SIZES))[occupied], theirs[occupied])


def test_one_size_for_all_and_leading_dimensions() -> None:
    x, index = batch(CHANNELS)
    layer = NormedMultiAggregation([ea(adjoint=Truncated(2)), "mean"], [OUT, CHANNELS])
    stacked = layer(torch.stack([x, 2 * x]), index)
    assert stacked.shape == (2, int(index.max()) + 1, layer.out_channels)
    torch.testing.assert_close(stacked[1], layer(2 * x, index))
    assert NormedMultiAggregation(["mean", "sum"], CHANNELS).channels == [CHANNELS, CHANNELS]


def test_a_batch_norm_is_over_sets_whatever_the_shape() -> None:
    x, index = torch.randn(3, 8, CHANNELS), torch.arange(CHANNELS).repeat(2)[:8]
    layer = NormedMultiAggregation(["mean"], CHANNELS, norm=nn.BatchNorm1d)
    means = aggr.MeanAggregation()(x, index, dim_size=CHANNELS)
    expected = nn.BatchNorm1d(CHANNELS)(means.reshape(-1, CHANNELS)).reshape(means.shape)
    torch.testing.assert_close(layer(x, index, dim_size=CHANNELS), expected)


def test_inside_a_convolution() -> None:
    x = torch.randn(5, CHANNELS)
    edges = torch.tensor([[0, 1, 2, 3], [1, 1, 3, 4]])
    layer = NormedMultiAggregation([EAAggregation(CHANNELS, CHANNELS, steps=3)], CHANNELS)
    out = GINConv(nn.Identity(), aggr=layer)(x, edges)
    assert torch.equal(out[[0, 2]], x[[0, 2]])  # without neighbours
    assert not torch.equal(out[[1, 3, 4]], x[[1, 3, 4]])


@pytest.mark.parametrize(
    ("parts", "channels", "message"),
    [
        ([], 3, "should not be empty"),
        (["mean", "sum"], [3], "one size for each of the 2 aggregations, got \\[3\\]"),
        (["mean"], [0], "channels must be at least 1, got 0"),
    ],
)
def test_senseless_arguments_are_refused(parts, channels, message) -> None:
    with pytest.raises(ValueError, match=message):
        NormedMultiAggregation(parts, channels)


def test_a_part_of_another_size_is_named() -> None:
    x, index = batch(CHANNELS)
    with pytest.raises(ValueError, match="returned 6 channels, but channels says 5"):
        NormedMultiAggregation(["sum", "mean"], [CHANNELS, 5])(x, index)
