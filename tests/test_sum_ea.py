"""SumEAAggregation: the checks of an aggregation, the sum at the start, and EA beside it."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch_geometric.nn import aggr

from pyg_ea import SumEAAggregation, collect_solutions, parameter_groups
from pyg_ea.testing import SIZES, batch, check_aggregation

CHANNELS = 6
OCCUPIED = torch.tensor(SIZES) > 0


def build() -> SumEAAggregation:
    return SumEAAggregation(CHANNELS, 8, 6)


@pytest.fixture
def module(device) -> SumEAAggregation:
    torch.manual_seed(0)
    return build()


def test_it_passes_the_checks(device) -> None:
    check_aggregation(build, CHANNELS)


def test_it_is_the_sum_and_a_linear_map_of_normed_ea(module) -> None:
    x, index = batch(CHANNELS)
    nn.init.normal_(module.linear.weight)
    nn.init.normal_(module.linear.bias)
    total = aggr.SumAggregation()(x, index, dim_size=len(SIZES))
    y = F.layer_norm(module.ea(x, index, dim_size=len(SIZES)), (CHANNELS,))
    expected = total + module.linear(y) * OCCUPIED[:, None]
    torch.testing.assert_close(module(x, index, dim_size=len(SIZES)), expected)


def test_it_starts_as_the_sum() -> None:
    torch.manual_seed(0)
    module = SumEAAggregation(64)
    x, index = batch(64)
    total = aggr.SumAggregation()(x, index, dim_size=len(SIZES))
    difference = module(x, index, dim_size=len(SIZES)) - total
    assert 0 < difference.square().mean().sqrt() < 0.1


def test_empty_sets_stay_zero_whatever_is_learned(module) -> None:
    nn.init.constant_(module.linear.bias, 3.0)
    out = module(*batch(CHANNELS), dim_size=len(SIZES))
    assert torch.equal(out.any(dim=1), OCCUPIED)


def test_ptr_and_dim(module) -> None:
    x, _ = batch(CHANNELS)
    sizes = torch.tensor(SIZES)
    index = torch.arange(len(SIZES)).repeat_interleave(sizes)
    ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
    expected = module(x, index, dim_size=len(SIZES))
    assert torch.equal(module(x, ptr=ptr), expected)
    stacked = torch.stack([x, x], dim=1)  # [N, 2, channels]
    both = module(stacked, index, dim_size=len(SIZES), dim=0)
    torch.testing.assert_close(both, torch.stack([expected, expected], dim=1))


def test_ea_inside_is_found(module) -> None:
    with collect_solutions() as solutions:
        module(*batch(CHANNELS), dim_size=len(SIZES))
    assert len(solutions) == 1
    outside = parameter_groups(module, ea_lr=1e-3)[0]["params"]
    assert sum(p.numel() for p in outside) == CHANNELS * (CHANNELS + 1) + 2 * CHANNELS


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        SumEAAggregation(0)
    assert SumEAAggregation(64).ea.potential.hidden_channels == 16
    assert SumEAAggregation(2).ea.potential.hidden_channels == 8
