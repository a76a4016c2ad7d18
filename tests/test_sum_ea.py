"""SumEAAggregation: the conformance checks, the sum at the start, and EA beside it."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch_geometric.nn import aggr

from pyg_ea import SumEAAggregation, auxiliary_loss, parameter_groups
from tests.conformance import CHANNELS, SIZES, SetModule, batch

OCCUPIED = torch.tensor(SIZES) > 0


class TestSumEAAggregation(SetModule):
    def build(self) -> SumEAAggregation:
        return SumEAAggregation(CHANNELS, 8, 6)

    def aggregate(self, module, x, index, num_sets=None) -> Tensor:
        return module(x, index, dim_size=num_sets)

    def test_it_is_the_sum_and_a_linear_map_of_normed_ea(self, module) -> None:
        x, index = batch()
        nn.init.normal_(module.linear.weight)
        nn.init.normal_(module.linear.bias)
        total = aggr.SumAggregation()(x, index, dim_size=len(SIZES))
        y = F.layer_norm(module.ea(x, index, dim_size=len(SIZES)), (CHANNELS,))
        expected = total + module.linear(y) * OCCUPIED[:, None]
        torch.testing.assert_close(self.run(module), expected)

    def test_it_starts_as_the_sum(self) -> None:
        module = SumEAAggregation(64)
        x, index = batch(channels=64)
        total = aggr.SumAggregation()(x, index, dim_size=len(SIZES))
        difference = module(x, index, dim_size=len(SIZES)) - total
        assert 0 < difference.abs().max() < 0.5 * total.abs().max()
        assert difference.square().mean().sqrt() < 0.1

    def test_empty_sets_stay_zero_whatever_is_learned(self, module) -> None:
        nn.init.constant_(module.linear.bias, 3.0)
        self.test_empty_sets_are_zero(module)

    def test_ptr_and_dim(self, module) -> None:
        x, _ = batch()
        sizes = torch.tensor(SIZES)
        index = torch.arange(len(SIZES)).repeat_interleave(sizes)
        ptr = torch.cat([torch.zeros(1, dtype=torch.long), sizes.cumsum(0)])
        expected = module(x, index, dim_size=len(SIZES))
        assert torch.equal(module(x, ptr=ptr), expected)
        stacked = torch.stack([x, x], dim=1)  # [N, 2, channels]
        both = module(stacked, index, dim_size=len(SIZES), dim=0)
        torch.testing.assert_close(both, torch.stack([expected, expected], dim=1))

    def test_ea_inside_is_found(self, module) -> None:
        self.run(module)
        assert auxiliary_loss(module) == auxiliary_loss(module.ea) > 0
        outside = parameter_groups(module, ea_lr=1e-3)[0]["params"]
        assert sum(p.numel() for p in outside) == CHANNELS * (CHANNELS + 1) + 2 * CHANNELS


def test_sizes_are_checked() -> None:
    with pytest.raises(ValueError, match="channels must be at least 1, got 0"):
        SumEAAggregation(0)
    assert SumEAAggregation(64).ea.hidden_channels == 16
    assert SumEAAggregation(2).ea.hidden_channels == 8
