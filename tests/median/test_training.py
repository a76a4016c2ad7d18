"""A run learns, is reproducible, and evaluates where it says."""

import math

import pytest
import torch

from experiments.median.__main__ import Config
from experiments.median.aggregators import AGGREGATORS
from experiments.median.data import medians
from experiments.median.training import SetModel, _rate, evaluate, optimise, train

CONFIG = Config(steps=60, tuning_steps=60, evaluations=3, batch_size=8, test_sets=100)


def run(method: str, seed: int = 0, steps: int = 60):
    settings = CONFIG.run(method, seed, 5e-3).settings
    return train(method, seed, **{**settings, "steps": steps})[0]


@pytest.mark.parametrize("method", ["ea", "sum"])
def test_the_error_falls_below_that_of_a_constant(method):
    curve = run(method)
    # the medians' variance is about 0.05: two distributions around 0.5, one around 0.045
    assert curve[-1][1] < 0.025
    assert [step for step, _ in curve] == [20, 40, 60]


def test_the_seed_decides_the_run():
    assert run("sum", steps=6) == run("sum", steps=6)
    assert run("sum", steps=6) != run("sum", seed=1, steps=6)


def test_the_error_is_the_mean_square():
    class Oracle(torch.nn.Module):
        def forward(self, elements, index, num_sets):
            return medians(elements.reshape(num_sets, -1)) + 0.1

    assert evaluate(Oracle(), 500) == pytest.approx(0.01, rel=1e-5)


def test_the_rate_rises_and_falls_to_zero():
    rates = [_rate(step, 200) for step in range(201)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1) == rates[9]
    assert rates[200] == pytest.approx(0, abs=1e-12)
    assert rates[105] == pytest.approx(0.5)
    assert all(math.isfinite(rate) for rate in rates)


def test_one_large_gradient_does_not_move_the_model_far():
    torch.manual_seed(0)
    model = SetModel(AGGREGATORS["mean"], 1, 4, 8)
    elements, index = torch.rand(8, 1), torch.arange(8) // 4
    sizes = iter([1.0] * 19 + [1e6])
    weight = model.decoder[-1].weight

    def batch_loss():
        return next(sizes) * model(elements, index, 2).square().mean()

    settings = {"learning_rate": 1e-3, "steps": 20, "auxiliary_weight": 0.0}
    moved = [weight.detach().clone() for _ in optimise(model, batch_loss, **settings)]
    usual = (moved[-3] - moved[-4]).norm()
    assert (moved[-1] - moved[-2]).norm() < 3 * usual
