"""One run of a study of sets: a model within a parameter budget, trained on fresh sets."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn

from experiments.common import UserError
from experiments.median.aggregators import AGGREGATORS, Entry
from experiments.median.data import sample_sets
from pyg_ea import EAAggregation, auxiliary_loss

TEST_SEED = 2**31  # no run is seeded with it, so no run trains on the test sets
TEST_BATCH = 200  # sets evaluated at once: small enough for the processor's cache
WARM_UP = 0.05  # share of the steps in which the learning rate rises
# The gradient of all parameters is clipped to this many times the running mean of its norm. A fixed
# limit never binds once the error is small, and one large gradient then ruins every row at 0.03.
CLIP = 2.0
SMOOTHING = 0.98


class SetModel(nn.Module):
    """Encodes each element, aggregates a set, and decodes the result into one number.

    Args:
        entry: the aggregator.
        inputs: size of an element.
        embedding: size of an encoded element.
        width: hidden width of encoder and decoder.

    Shapes:
        - **elements:** :math:`(N, \\text{inputs})`, **index:** :math:`(N)`, the set of each
        - **output:** :math:`(S)`
    """

    def __init__(self, entry: Entry, inputs: int, embedding: int, width: int) -> None:
        super().__init__()
        self.encoder = _mlp(inputs, width, embedding)
        self.aggregator = entry.build(embedding)
        self.decoder = _mlp(embedding * entry.widening, width, 1)

    def forward(self, elements: Tensor, index: Tensor, num_sets: int) -> Tensor:
        """``[N, inputs] -> [S]``."""
        result = self.aggregator(self.encoder(elements), index, dim_size=num_sets)
        return self.decoder(result).squeeze(1)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    hidden = [nn.Linear(inputs, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*hidden, nn.Linear(width, outputs))


def count_parameters(model: nn.Module) -> int:
    """Number of scalar parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def model_for_budget(name: str, embedding: int, parameters: int, inputs: int = 1) -> SetModel:
    """The model of aggregator ``name`` with the widest encoder and decoder within the budget.

    An aggregator without parameters gets a larger encoder and decoder in exchange.

    Raises:
        UserError: if the aggregator alone exceeds the budget.
    """
    entry = AGGREGATORS[name]

    def size(width: int) -> int:
        with torch.device("meta"):
            return count_parameters(SetModel(entry, inputs, embedding, width))

    if size(1) > parameters:
        raise UserError(
            f"parameters: got {parameters}, expected at least {size(1)} for {name} "
            f"at embedding {embedding}; raise parameters or lower embedding"
        )
    low, high = 1, parameters  # size(low) fits, size(high) does not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle) <= parameters else (low, middle)
    return SetModel(entry, inputs, embedding, low)


def optimise(
    model: SetModel,
    batch_loss: Callable[[], Tensor],
    *,
    learning_rate: float,
    steps: int,
    auxiliary_weight: float,
) -> Iterator[tuple[int, float]]:
    """Trains with Adam, linear warm-up and cosine decay to zero.

    Args:
        model: the model.
        batch_loss: draws a batch and returns the task's loss on it.
        learning_rate: after warm-up.
        steps: training steps.
        auxiliary_weight: weight of EA's auxiliary loss.

    Yields:
        After each step: its number, and the processor time of training so far.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, steps))
    parameters = list(model.parameters())
    usual, seconds = math.inf, 0.0
    for step in range(1, steps + 1):
        started = time.process_time()
        loss = batch_loss()
        if isinstance(model.aggregator, EAAggregation):
            loss = loss + auxiliary_weight * auxiliary_loss(model)
        optimizer.zero_grad()
        loss.backward()
        norm = min(nn.utils.clip_grad_norm_(parameters, CLIP * usual).item(), CLIP * usual)
        usual = norm if step == 1 else SMOOTHING * usual + (1 - SMOOTHING) * norm
        optimizer.step()
        schedule.step()
        seconds += time.process_time() - started
        yield step, seconds


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
) -> tuple[list[tuple[int, float]], int, float]:
    """Trains one model of the median.

    All methods see the same sets for the same seed. The arguments are those of
    :class:`experiments.median.__main__.Config`.

    Returns:
        ``(step, mean squared error)`` of each evaluation, the number of parameters, and the
        processor time of training, without evaluations.
    """
    torch.manual_seed(seed)
    model = model_for_budget(method, embedding, parameters)
    generator = Generator().manual_seed(seed)

    def batch_loss() -> Tensor:
        values, labels = sample_sets(batch_size, generator)
        return (estimate(model, values) - labels).square().mean()

    stops = {round(steps * (k + 1) / evaluations) for k in range(evaluations)}
    curve: list[tuple[int, float]] = []
    seconds = 0.0
    training = optimise(
        model, batch_loss, learning_rate=learning_rate, steps=steps,
        auxiliary_weight=auxiliary_weight,
    )  # fmt: skip
    for step, spent in training:
        seconds = spent
        if step in stops:
            curve.append((step, evaluate(model, test_sets)))
    return curve, count_parameters(model), seconds


def estimate(model: nn.Module, values: Tensor) -> Tensor:
    """The model's medians of sets of equal size: ``[S, n] -> [S]``."""
    num_sets, size = values.shape
    index = torch.arange(num_sets).repeat_interleave(size)
    return model(values.reshape(-1, 1), index, num_sets)


def evaluate(model: nn.Module, num_sets: int) -> float:
    """Mean squared error over ``num_sets`` sets that are the same at each call."""
    values, labels = sample_sets(num_sets, Generator().manual_seed(TEST_SEED))
    model.eval()
    with torch.no_grad():
        # PyG's EquilibriumAggregation keeps its graph even under no_grad.
        batches = values.split(TEST_BATCH)
        estimates = torch.cat([estimate(model, batch).detach() for batch in batches])
    model.train()
    return (estimates - labels).square().double().mean().item()


def _rate(step: int, steps: int) -> float:
    """Factor on the learning rate of training step ``step`` (from 0)."""
    warm_up = max(1, round(WARM_UP * steps))
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, steps - warm_up)))
