"""The model of sets, within a parameter budget, and its training."""

from __future__ import annotations

import math
import time
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch_geometric.nn.aggr import EquilibriumAggregation

from experiments.common import UserError
from experiments.sets.aggregators import AGGREGATORS, Entry
from pyg_ea import EAAggregation, auxiliary_loss, collect_solutions

WARM_UP = 0.05  # share of the steps in which the learning rate rises
# The gradient of all parameters is clipped to this many times the running mean of its norm. A fixed
# limit never binds once the error is small, and one large gradient then ruins every row at 0.03.
CLIP = 2.0
SMOOTHING = 0.98


class Sets(NamedTuple):
    """Sets with their labels."""

    elements: Tensor
    """``[N, D]``"""
    members: Tensor
    """``[N]``, the set of each element."""
    labels: Tensor
    """``[S]``"""


class SetModel(nn.Module):
    """Encodes each element, aggregates a set, and decodes the result into one number.

    Args:
        entry: the aggregator.
        inputs: size of an element.
        embedding: size of an encoded element.
        width: hidden width of encoder and decoder.
        norm: where a LayerNorm is: ``"output"``, behind the aggregator; ``"both"``, also before it.
    """

    def __init__(
        self, entry: Entry, inputs: int, embedding: int, width: int, norm: str | None = None
    ) -> None:
        super().__init__()
        size = embedding * entry.widening
        self.encoder = _mlp(inputs, width, embedding)
        if norm == "both":
            self.encoder.append(nn.LayerNorm(embedding))
        self.aggregator = entry.build(embedding)
        self.decoder = _mlp(size, width, 1)
        if norm is not None:
            self.decoder.insert(0, nn.LayerNorm(size))

    def forward(self, sets: Sets) -> Tensor:
        """One number a set: ``[S]``."""
        encoded = self.encoder(sets.elements)
        result = self.aggregator(encoded, sets.members, dim_size=len(sets.labels))
        return self.decoder(result).squeeze(1)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def count_parameters(model: nn.Module) -> int:
    """Number of scalar parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_for_budget(
    name: str, embedding: int, parameters: int, inputs: int, norm: str | None = None
) -> SetModel:
    """The model of aggregator ``name`` with the widest encoder and decoder within the budget.

    An aggregator without parameters gets a larger encoder and decoder in exchange.

    Raises:
        UserError: if the aggregator alone exceeds the budget.
    """
    entry = AGGREGATORS[name]

    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(SetModel(entry, inputs, embedding, width, norm))

    width = bisect_right(range(parameters), parameters, lo=1, key=size) - 1
    if width == 0:
        raise UserError(
            f"parameters: got {parameters}, expected at least {size(1)} for {name} "
            f"at embedding {embedding}; raise parameters or lower embedding"
        )
    return SetModel(entry, inputs, embedding, width, norm)


def optimise(
    model: SetModel,
    batch_loss: Callable[[], Tensor],
    *,
    learning_rate: float,
    steps: int,
    auxiliary_weight: float,
    ea_rate: float = 1.0,
) -> Iterator[tuple[int, float]]:
    """Trains with Adam, linear warm-up and cosine decay to zero.

    Args:
        model: the model.
        batch_loss: draws a batch and returns the task's loss on it.
        learning_rate: after warm-up.
        steps: training steps.
        auxiliary_weight: weight of EA's auxiliary loss.
        ea_rate: learning rate of EA's parameters, PyG's included, over the rest's.

    Yields:
        After each step: its number, and the processor time of training so far.
    """
    is_ea = isinstance(model.aggregator, EAAggregation | EquilibriumAggregation)
    rates = {model.encoder: 1.0, model.aggregator: ea_rate if is_ea else 1.0, model.decoder: 1.0}
    optimizer = torch.optim.Adam(
        [{"params": list(m.parameters()), "lr": rate * learning_rate} for m, rate in rates.items()]
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    parameters = list(model.parameters())
    usual, seconds = math.inf, 0.0
    for step in range(1, steps + 1):
        started = time.process_time()
        with collect_solutions() as solutions:
            loss = batch_loss()
        if solutions:
            loss = loss + auxiliary_weight * auxiliary_loss(solutions)
        optimizer.zero_grad()
        loss.backward()
        norm = min(nn.utils.clip_grad_norm_(parameters, CLIP * usual).item(), CLIP * usual)
        usual = norm if step == 1 else SMOOTHING * usual + (1 - SMOOTHING) * norm
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - started
        yield step, seconds


def predict(
    model: SetModel, parts: Iterable[Sets], link: Callable[[Tensor], Tensor] = lambda output: output
) -> tuple[Tensor, Tensor]:
    """Estimates, ``link`` of outputs, and labels of all sets ``[S]``, which come in parts."""
    model.eval()
    with torch.no_grad():  # under which PyG's EquilibriumAggregation keeps its graph all the same
        pairs = [(link(model(sets)).detach(), sets.labels) for sets in parts]
    model.train()
    estimates, labels = zip(*pairs, strict=True)
    return torch.cat(estimates), torch.cat(labels)


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rate of training step ``step`` (from 0)."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
