"""A learning rate of EA's own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyg_ea import EAConv, EAGlobalPool, parameter_groups


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "conv": EAConv(3, 4, form="gin", steps=2),
            "pool": EAGlobalPool(4, 5, steps=2),
            "head": nn.Linear(5, 1),
        }
    )


def test_parameters_of_ea_and_no_others_have_the_second_rate() -> None:
    model = network()
    optimizer = torch.optim.Adam(parameter_groups(model, ea_lr=0.001), lr=0.1)
    rates = {p: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(rates)
    named = dict(model.named_parameters())
    assert rates.keys() == set(named.values())
    slow = {name for name, parameter in named.items() if rates[parameter] == 0.001}
    assert {"head.weight", "head.bias"} <= named.keys() - slow
    parts = {"potential", "prior", "solver"}
    assert slow == {name for name in named if parts & set(name.split("."))}
    assert {rates[named[name]] for name in named.keys() - slow} == {0.1}


def test_a_model_of_nothing_but_ea_has_one_group() -> None:
    layer = EAGlobalPool(3, 3, steps=2)
    (group,) = parameter_groups(layer, ea_lr=0.01)
    assert group["params"] == list(layer.parameters())
    assert group["lr"] == 0.01


def test_a_model_without_ea_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear holds no EAAggregation"):
        parameter_groups(nn.Linear(2, 2), ea_lr=0.01)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValueError, match=f"ea_lr must be positive, got {rate}"):
        parameter_groups(network(), ea_lr=rate)
