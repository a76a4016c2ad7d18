"""Every aggregator fits the same frame and budget, and is blind to the order of a set."""

import pytest
import torch

from experiments.common import UserError
from experiments.median.__main__ import Config
from experiments.median.aggregators import AGGREGATORS
from experiments.median.training import count_parameters, estimate, model_for_budget

SHARE = 0.05  # how far below the budget a model may stay; none may exceed it


@pytest.fixture(params=AGGREGATORS)
def name(request):
    return request.param


def test_parameters_meet_the_budget(name):
    config = Config()
    model = model_for_budget(name, config.embedding, config.parameters)
    used = count_parameters(model)
    assert (1 - SHARE) * config.parameters <= used <= config.parameters


def test_one_estimate_a_set_whatever_the_order(name):
    torch.manual_seed(0)
    model = model_for_budget(name, 8, 4000).eval()
    values = torch.rand(3, 20)
    medians = estimate(model, values)
    assert medians.shape == (3,)
    shuffled = values[:, torch.randperm(20)]
    torch.testing.assert_close(estimate(model, shuffled), medians, rtol=1e-3, atol=1e-4)


def test_a_set_does_not_see_the_others(name):
    if name == "pyg_ea":
        pytest.skip("PyG's EA averages its regulariser over the batch: it does see the others")
    torch.manual_seed(0)
    model = model_for_budget(name, 8, 4000).eval()
    values = torch.rand(3, 20)
    alone, together = estimate(model, values[:1]), estimate(model, values)
    torch.testing.assert_close(alone, together[:1], rtol=1e-3, atol=1e-4)


def test_every_parameter_learns_something(name):
    torch.manual_seed(0)
    model = model_for_budget(name, 8, 4000)
    estimate(model, torch.rand(4, 20)).square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    # PyG's EA never uses the offsets of its last layer and its last skip: constants of the energy
    allowed = {"pyg_ea": "aggregator.potential"}.get(name)
    assert all(allowed is not None and key.startswith(allowed) for key in without)


def test_a_budget_too_small_is_refused():
    with pytest.raises(UserError, match=r"got 100, expected at least \d+ for ea"):
        model_for_budget("ea", 16, 100)
