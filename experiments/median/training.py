"""One run: train one model on sets drawn on the fly, evaluate it along the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from experiments.median.config import Config
from experiments.median.data import sample_sets
from experiments.median.models import count_parameters, model_for_budget
from pyg_ea import EAAggregation, ResNetPotential, auxiliary_loss

TEST_SEED = 2**31  # no run is seeded with it, so no run trains on the test sets
TEST_BATCH = 200  # sets evaluated at once: small enough for the processor's cache
WARM_UP = 0.05  # share of the steps in which the learning rate rises
MAX_NORM = 1.0  # of the gradient of all parameters: EA's first steps can be steep


@dataclass(frozen=True)
class Trial:
    """What distinguishes one run from another: method, seed, learning rate and length."""

    method: str
    seed: int
    learning_rate: float
    steps: int


@dataclass(frozen=True)
class Outcome:
    """What a run leaves: ``curve`` holds ``[step, mean squared error]`` pairs."""

    curve: list[tuple[int, float]]
    parameters: int
    seconds: float
    """Processor time of training, without evaluations and compilation's first step."""


def train(config: Config, trial: Trial, progress: Callable[[int, float], None]) -> Outcome:
    """Trains one model; the error is the mean squared error (its root is an error in x's units).

    Adam, linear warm-up and cosine decay to zero. All methods see the same sets for the same seed.

    Args:
        config: what all runs share.
        trial: what this run is.
        progress: called after each step with its number and the last evaluation's error.
    """
    torch.manual_seed(trial.seed)
    model = model_for_budget(trial.method, config.embedding, config.parameters)
    potential = getattr(model.aggregator, "potential", None)
    if config.compiled and isinstance(potential, ResNetPotential):  # the one with a closed form
        model.aggregator.compile()
    generator = Generator().manual_seed(trial.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=trial.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda k: _rate(k, trial.steps))
    stops = {round(trial.steps * (k + 1) / config.evaluations) for k in range(config.evaluations)}
    curve: list[tuple[int, float]] = []
    seconds, error = 0.0, math.nan
    for step in range(1, trial.steps + 1):
        started = time.process_time()
        values, labels = sample_sets(config.batch_size, generator)
        loss = (model(values) - labels).square().mean()
        if isinstance(model.aggregator, EAAggregation):
            loss = loss + config.auxiliary_weight * auxiliary_loss(model)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
        seconds += (time.process_time() - started) if step > 1 else 0.0
        if step in stops:
            error = evaluate(model, config.test_sets)
            curve.append((step, error))
        progress(step, error)
    return Outcome(curve, count_parameters(model), seconds)


def evaluate(model: nn.Module, num_sets: int) -> float:
    """Mean squared error over ``num_sets`` sets that are the same at each call."""
    values, labels = sample_sets(num_sets, Generator().manual_seed(TEST_SEED))
    model.eval()
    with torch.no_grad():
        estimates = torch.cat([_detached(model(batch)) for batch in values.split(TEST_BATCH)])
    model.train()
    return (estimates - labels).square().double().mean().item()


def _detached(estimate: Tensor) -> Tensor:
    # PyG's EquilibriumAggregation keeps its graph even under no_grad.
    return estimate.detach()


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rate of training step ``step`` (from 0)."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
