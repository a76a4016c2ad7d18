"""Parameter groups: EA's learning rate, and no weight decay on raw values."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from pyg_ea import EAAggregation, EAConv, EAGlobalPool, parameter_groups
from pyg_ea.potentials import MeanPotential


def network() -> nn.ModuleDict:
    return nn.ModuleDict(
        {
            "conv": EAConv(3, 4, form="gin"),
            "pool": EAGlobalPool(4, 5, steps=2),
            "head": nn.Linear(5, 1),
        }
    )


def test_groups_and_their_order() -> None:
    model = network()
    others, weights, raw = parameter_groups(model, ea_lr=0.001)
    named = dict(model.named_parameters())
    parts = {"potential", "prior", "solver"}
    of_ea = [name for name in named if parts & set(name.split("."))]
    are_raw = [name for name in of_ea if name.split(".")[-1].startswith("raw_")]
    assert len(are_raw) == 6
    assert others == {"params": [p for name, p in named.items() if name not in of_ea]}
    expected = [p for name, p in named.items() if name in of_ea and name not in are_raw]
    assert weights == {"params": expected, "lr": 0.001}
    expected = [named[name] for name in are_raw]
    assert raw == {"params": expected, "lr": 0.001, "weight_decay": 0.0}


def test_rates_in_an_optimiser() -> None:
    for ea_lr, rates in ((0.001, [0.1, 0.001, 0.001]), (None, [0.1, 0.1, 0.1])):
        optimizer = torch.optim.AdamW(
            parameter_groups(network(), ea_lr), lr=0.1, weight_decay=0.3, fused=True
        )
        assert [group["lr"] for group in optimizer.param_groups] == rates
        assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


def test_empty_groups_are_left_out() -> None:
    layer = EAGlobalPool(3, 3, steps=2)
    layer.norm = None  # parameters of EA only
    weights, raw = parameter_groups(layer, ea_lr=0.01)
    assert weights["params"] + raw["params"] == [
        *layer.aggr.potential.parameters(),
        *layer.aggr.prior.parameters(),
        *layer.aggr.solver.parameters(),
    ]
    (raw,) = parameter_groups(EAAggregation(3, 3, potential=MeanPotential()))
    assert len(raw["params"]) == 3


def test_a_shared_parameter_is_in_one_group() -> None:
    model = nn.ModuleList([EAAggregation(3, 3, steps=2) for _ in range(2)])
    model[1].solver, model[1].prior = model[0].solver, nn.Bilinear(3, 3, 1)
    groups = parameter_groups(model, 0.1)
    names = {p: name for name, p in model.named_parameters()}
    assert [names[p] for p in groups[-1]["params"]] == [
        "0.prior.raw_weight",
        "0.solver.raw_lr",
        "0.solver.raw_momentum",
    ]
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_weight_decay_leaves_step_size_momentum_and_regulariser() -> None:
    layer = EAAggregation(3, 3, steps=2)
    model = nn.ModuleList([layer, nn.Linear(2, 2)])
    optimizer = torch.optim.AdamW(parameter_groups(model), lr=0.01, weight_decay=0.1)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = layer.potential.layer1.weight.norm().item()
    for _ in range(1000):
        optimizer.step()
    assert layer.solver.lr.item() == pytest.approx(0.125, rel=1e-6)
    assert layer.solver.momentum.item() == pytest.approx(0.9, rel=1e-6)
    assert layer.prior.weight.item() == pytest.approx(0.1, rel=1e-6)
    after = layer.potential.layer1.weight.norm().item()
    assert after == pytest.approx(before * 0.999**1000, rel=1e-3)  # other weights decay


def test_a_model_without_ea_is_refused() -> None:
    with pytest.raises(ValueError, match="Linear holds no EAAggregation"):
        parameter_groups(nn.Linear(2, 2), ea_lr=0.01)


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_is_positive(rate: float) -> None:
    with pytest.raises(ValueError, match=f"ea_lr must be positive, got {rate}"):
        parameter_groups(network(), ea_lr=rate)
