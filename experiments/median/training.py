"""One run of the median study: a model within a parameter budget, trained on fresh sets."""

from __future__ import annotations

import math
import time

import torch
from torch import Generator, Tensor, nn

from experiments.common import UserError
from experiments.median.aggregators import AGGREGATORS, Entry
from experiments.median.data import sample_sets
from pyg_ea import EAAggregation, ResNetPotential, auxiliary_loss

TEST_SEED = 2**31  # no run is seeded with it, so no run trains on the test sets
TEST_BATCH = 200  # sets evaluated at once: small enough for the processor's cache
WARM_UP = 0.05  # share of the steps in which the learning rate rises
MAX_NORM = 1.0  # of the gradient of all parameters: EA's first steps can be steep


class MedianModel(nn.Module):
    """Encodes each value, aggregates, and decodes the result into the estimated median.

    Args:
        entry: the aggregator.
        embedding: size of an encoded element.
        width: hidden width of encoder and decoder.

    Shapes:
        - **values:** :math:`(S, n)`, **output:** :math:`(S)`
    """

    def __init__(self, entry: Entry, embedding: int, width: int) -> None:
        super().__init__()
        self.encoder = _mlp(1, width, embedding)
        self.aggregator = entry.build(embedding)
        self.decoder = _mlp(embedding * entry.widening, width, 1)

    def forward(self, values: Tensor) -> Tensor:
        """``[S, n] -> [S]``."""
        num_sets, size = values.shape
        index = torch.arange(num_sets).repeat_interleave(size)
        elements = self.encoder(values.reshape(-1, 1))
        result = self.aggregator(elements, index, dim_size=num_sets)
        return self.decoder(result).squeeze(1)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def count_parameters(model: nn.Module) -> int:
    """Number of scalar parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_for_budget(name: str, embedding: int, parameters: int) -> MedianModel:
    """The model of aggregator ``name`` with the widest encoder and decoder within the budget.

    An aggregator without parameters gets a larger encoder and decoder in exchange.

    Raises:
        UserError: if the aggregator alone exceeds the budget.
    """
    entry = AGGREGATORS[name]

    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(MedianModel(entry, embedding, width))

    if size(1) > parameters:
        raise UserError(
            f"parameters: got {parameters}, expected at least {size(1)} for {name} "
            f"at embedding {embedding}; raise parameters or lower embedding"
        )
    low, high = 1, parameters  # size(low) fits, size(high) does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return MedianModel(entry, embedding, low)


def train(
    method: str,
    seed: int,
    *,
    learning_rate: float,
    steps: int,
    batch_size: int,
    embedding: int,
    parameters: int,
    auxiliary_weight: float,
    test_sets: int,
    evaluations: int,
    compiled: bool = False,
) -> tuple[list[tuple[int, float]], int, float]:
    """Trains one model with Adam, linear warm-up and cosine decay to zero.

    All methods see the same sets for the same seed. The arguments are those of
    :class:`experiments.median.__main__.Config`.

    Returns:
        ``(step, mean squared error)`` of each evaluation, the number of parameters, and the
        processor time of training, without evaluations and compilation's first step.
    """
    torch.manual_seed(seed)
    model = model_for_budget(method, embedding, parameters)
    potential = getattr(model.aggregator, "potential", None)
    if compiled and isinstance(potential, ResNetPotential):  # the one with a closed form
        model.aggregator.compile()
    generator = Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    stops = {round(steps * (k + 1) / evaluations) for k in range(evaluations)}
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    for step in range(1, steps + 1):
        started = time.process_time()
        values, labels = sample_sets(batch_size, generator)
        loss = (model(values) - labels).square().mean()
        if isinstance(model.aggregator, EAAggregation):
            loss = loss + auxiliary_weight * auxiliary_loss(model)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), MAX_NORM)
        optimizer.step()
        schedule.step()
        seconds += (time.process_time() - started) if step > 1 else 0.0
        if step in stops:
            curve.append((step, evaluate(model, test_sets)))
    return curve, count_parameters(model), seconds


def evaluate(model: nn.Module, num_sets: int) -> float:
    """Mean squared error over ``num_sets`` sets that are the same at each call."""
    values, labels = sample_sets(num_sets, Generator().manual_seed(TEST_SEED))
    model.eval()
    with torch.no_grad():
        # PyG's EquilibriumAggregation keeps its graph even under no_grad.
        estimates = torch.cat([model(batch).detach() for batch in values.split(TEST_BATCH)])
    model.train()
    return (estimates - labels).square().double().mean().item()


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rate of training step ``step`` (from 0)."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
