"""The training of a run, the same for every task and aggregator."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from statistics import fmean as mean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import EquilibriumAggregation

from pyg_ea import EAAggregation, auxiliary_loss, collect_solutions
from pyg_ea.solver import Solution

AUXILIARY_WEIGHT = 1e-4  # of EA's auxiliary loss, the paper's (appendix D.2)
WARM_UP = 0.05  # share of the steps in which the learning rate rises
# The gradient of all parameters is clipped to this many times the running mean of its norm. A fixed
# limit never binds once the error is small, and one large gradient then ruins every row at 0.03.
CLIP = 2.0
SMOOTHING = 0.98


class Problem(NamedTuple):
    """What a run trains, and how it is scored."""

    model: nn.Module
    loss: Callable[[], Tensor]  # draws a batch and returns the task's loss on it
    scores: Callable[[str, bool], dict[str, float]]  # on a part; of all its sets or of a few


def train(
    problem: Problem, settings: Mapping[str, Any], stops: Collection[int]
) -> Iterator[dict[str, float]]:
    """Trains with Adam, linear warm-up and cosine decay to zero, by these settings of a study.

    Yields:
        After each step in ``stops``: its number as ``epoch``, :func:`inner_loops` of it, and since
        the last stop the processor time, the mean loss without the auxiliary loss, and the mean
        norm of the gradient before clipping.
    """
    steps = settings["steps"]
    optimizer = torch.optim.Adam(_parameter_groups(problem.model, settings))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step, steps))
    usual = math.inf
    measures: list[tuple[float, float, float]] = []
    for step in range(1, steps + 1):
        started = time.process_time()
        with collect_solutions() as solutions:
            loss = problem.loss()
        auxiliary = AUXILIARY_WEIGHT * auxiliary_loss(solutions) if solutions else 0.0
        optimizer.zero_grad()
        (loss + auxiliary).backward()
        norm = nn.utils.clip_grad_norm_(problem.model.parameters(), CLIP * usual).item()
        clipped = min(norm, CLIP * usual)
        usual = clipped if step == 1 else SMOOTHING * usual + (1 - SMOOTHING) * clipped
        optimizer.step()
        schedule.step()
        measures.append((time.process_time() - started, loss.item(), norm))
        if step in stops:
            seconds, losses, norms = zip(*measures, strict=True)
            yield {
                "epoch": step, "processor_seconds": sum(seconds), "train_loss": mean(losses),
                "gradient_norm": mean(norms), **inner_loops(solutions),
            }  # fmt: skip
            measures.clear()


def inner_loops(solutions: Sequence[Solution]) -> dict[str, float]:
    """Last inner gradient, mean square, and share diverged of the segments. Empty without EA."""
    if not solutions:
        return {}
    gradients = torch.cat([own.gradient_mean_square[own.occupied] for own in solutions])
    diverged = torch.cat([own.diverged[own.occupied] for own in solutions]).double()
    return {"inner_gradient": gradients.mean().item(), "inner_diverged": diverged.mean().item()}


def _parameter_groups(model: nn.Module, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """EA, PyG's included, has a learning rate of its own."""
    layers = [m for m in model.modules() if isinstance(m, EAAggregation | EquilibriumAggregation)]
    of_ea = {parameter for layer in layers for parameter in layer.parameters()}
    own, others = ([p for p in model.parameters() if (p in of_ea) == b] for b in (True, False))
    learning_rate, ea_rate = settings["learning_rate"], settings["ea_rate"]
    return [{"params": others, "lr": learning_rate}, {"params": own, "lr": ea_rate * learning_rate}]


def rate(step: int, steps: int) -> float:
    """Factor on the learning rate of training step ``step`` (from 0)."""
    rising = min(1.0, (step + 1) / max(1.0, WARM_UP * steps))
    return rising * 0.5 * (1 + math.cos(math.pi * step / steps))
