"""Every aggregator fits the frame and the budget, is blind to the order of a set, and learns."""

import math

import pytest
import torch
from torch import nn

from experiments.median import labelled
from experiments.sets.aggregators import AGGREGATORS
from experiments.sets.model import SetConfig, SetModel, model_for_budget
from experiments.sets.training import Problem, rate, train

SHARE = 0.05  # how far below the budget a model may stay; none may exceed it


@pytest.fixture(params=AGGREGATORS)
def name(request):
    return request.param


def count_parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def small_model(name):
    torch.manual_seed(0)
    return model_for_budget(name, 1, 8, None, 4000)


def trained(model, loss, stops, **settings):
    """The model's training by :func:`train`."""
    problem = Problem(model, loss, lambda part, is_last: {})
    return train(problem, {"ea_rate": 1.0} | settings, stops)


def test_parameters_meet_the_budget(name):
    config = SetConfig()
    model = model_for_budget(name, 1, config.embedding, None, config.parameters)
    used = count_parameters(model)
    assert (1 - SHARE) * config.parameters <= used <= config.parameters


@pytest.mark.parametrize("norm", [None, "output", "both"])
def test_norms_are_where_they_should_be_within_the_budget(name, norm):
    model = model_for_budget(name, 1, 16, norm, 5000)
    assert isinstance(model.aggregator.before, nn.LayerNorm) == (norm == "both")
    assert isinstance(model.aggregator.behind, nn.LayerNorm) == (norm is not None)
    assert count_parameters(model) <= 5000


@pytest.mark.parametrize("name", ["ea", "sum_ea", "pyg_ea", "attention"], indirect=True)
def test_ea_has_a_rate_of_its_own(name):
    model = small_model(name)
    sets = labelled(torch.rand(4, 20))
    before = {key: p.detach().clone() for key, p in model.named_parameters()}
    settings = {"learning_rate": 0.01, "steps": 1, "ea_rate": 0.1}
    list(trained(model, lambda: model(sets).square().mean(), [1], **settings))
    moved = {
        key: float((p.detach() - before[key]).abs().max()) for key, p in model.named_parameters()
    }
    prefix = {"sum_ea": "aggregator.aggregation.ea"}.get(name, "aggregator")
    own = max(value for key, value in moved.items() if key.startswith(prefix))
    others = max(value for key, value in moved.items() if not key.startswith(prefix))
    assert own / others == pytest.approx(1 if name == "attention" else 0.1, rel=0.05)


def test_one_estimate_a_set_whatever_the_order(name):
    model = small_model(name).eval()
    values = torch.rand(3, 20)
    medians = model(labelled(values))
    assert medians.shape == (3,)
    shuffled = values[:, torch.randperm(20)]
    torch.testing.assert_close(model(labelled(shuffled)), medians, rtol=1e-3, atol=1e-4)


def test_a_set_does_not_see_the_others(name):
    if name == "pyg_ea":
        pytest.skip("PyG's EA averages its regulariser over the batch: it does see the others")
    model = small_model(name).eval()
    values = torch.rand(3, 20)
    alone, together = model(labelled(values[:1])), model(labelled(values))
    torch.testing.assert_close(alone, together[:1], rtol=1e-3, atol=1e-4)


def test_every_parameter_learns_something(name):
    model = small_model(name)
    model(labelled(torch.rand(4, 20))).square().sum().backward()
    without = [key for key, p in model.named_parameters() if p.grad is None]
    # PyG's EA never uses the offsets of its last layer and its last skip: constants of the energy
    allowed = {"pyg_ea": "aggregator.aggregation.potential"}.get(name)
    assert all(allowed is not None and key.startswith(allowed) for key in without)


def test_the_rate_rises_and_falls_to_zero():
    rates = [rate(step, 200) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1, abs=0.01) == rates[9]
    assert rates[200] == pytest.approx(0, abs=1e-12)
    assert rates[100] == pytest.approx(0.5)
    assert all(math.isfinite(rate) for rate in rates)


def test_one_large_gradient_does_not_move_the_model_far():
    torch.manual_seed(0)
    model = SetModel("mean", 1, 4, None, 8)
    sets = labelled(torch.rand(2, 4))
    sizes = iter([1.0] * 19 + [1e6])
    weight = model.decoder.lins[-1].weight

    def batch_loss():
        return next(sizes) * model(sets).square().mean()

    training = trained(model, batch_loss, range(1, 21), learning_rate=1e-3, steps=20)
    moved = [weight.detach().clone() for _ in training]
    usual = (moved[-3] - moved[-4]).norm()
    assert (moved[-1] - moved[-2]).norm() < 3 * usual


@pytest.mark.parametrize("name", ["ea", "sum_ea", "mean"], indirect=True)
def test_a_stop_reports_what_happened_since_the_last_one(name):
    model = small_model(name)
    sets, losses = labelled(torch.rand(4, 20)), []

    def batch_loss():
        loss = model(sets).square().mean()
        losses.append(loss.item())
        return loss

    first, second = trained(model, batch_loss, [2, 5], learning_rate=1e-3, steps=5)
    assert (first["epoch"], second["epoch"]) == (2, 5)
    assert first["train_loss"] == pytest.approx(sum(losses[:2]) / 2)
    assert second["train_loss"] == pytest.approx(sum(losses[2:]) / 3)
    assert second["gradient_norm"] > 0
    if name == "mean":
        assert "inner_gradient" not in second
    else:
        assert second["inner_gradient"] > 0
        assert second["inner_diverged"] == 0
