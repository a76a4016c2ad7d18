"""What tasks on sets share: settings, the model within a parameter budget, batches and scores."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
from jsonargparse.typing import PositiveInt
from torch import Generator, Tensor, nn
from torch_geometric.nn import MLP

from experiments.common import UserError
from experiments.flags import opt
from experiments.records import Run
from experiments.sets.aggregators import AGGREGATORS, WIDENING, Normed
from experiments.sets.study import Config
from experiments.sets.training import Problem

TEST_SEED = 2**31  # no run is seeded with it or the next, so no run trains on sets that are scored
TEST_BATCH = 200  # sets evaluated at once: small enough for the processor's cache
FEW = 10  # the share of sets that are scored before the end of training is 1 / FEW


# ruff: noqa: RUF009 (opt is dataclasses.field)
@dataclass(frozen=True)
class SetConfig(Config):
    """Settings of a study on sets."""

    batch_size: PositiveInt = opt(16, "sets in a training step")
    embedding: PositiveInt = opt(16, "size of an encoded element and of an aggregator's result")
    parameters: PositiveInt = opt(
        5000, "budget of the whole model; the width of encoder and decoder follows from it"
    )
    test_sets: PositiveInt = opt(
        2000, "fresh sets of a test, the same for every method and seed; a tenth along a run"
    )


class Sets(NamedTuple):
    """Sets with their labels."""

    elements: Tensor  # [N, D]
    members: Tensor  # [N], the set of each element
    labels: Tensor  # [S]


class SetModel(nn.Module):
    """Encodes each element, aggregates a set, and decodes the result into one number."""

    def __init__(self, name: str, inputs: int, embedding: int, norm: str | None, width: int):
        super().__init__()
        size = embedding * WIDENING.get(name, 1)
        self.encoder = MLP([inputs, width, width, embedding], act="silu", norm=None)
        self.aggregator = Normed(AGGREGATORS[name](embedding), norm, embedding, size)
        self.decoder = MLP([size, width, width, 1], act="silu", norm=None)

    def forward(self, sets: Sets) -> Tensor:
        """One number a set: ``[S]``."""
        encoded = self.encoder(sets.elements)
        result = self.aggregator(encoded, sets.members, dim_size=len(sets.labels))
        return self.decoder(result).squeeze(1)


def model_for_budget(
    name: str, inputs: int, embedding: int, norm: str | None, parameters: int
) -> SetModel:
    """The model of an aggregator with the widest encoder and decoder within the budget, so that an
    aggregator without parameters gets larger ones.

    Raises:
        UserError: if the aggregator alone exceeds the budget.
    """
    build = partial(SetModel, name, inputs, embedding, norm)

    def size(width: int) -> int:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build(width).parameters())

    width = bisect_right(range(parameters), parameters, lo=1, key=size) - 1
    if width == 0:
        raise UserError(
            f"parameters: got {parameters}, expected at least {size(1)} for {name} "
            f"at embedding {embedding}; raise parameters or lower embedding"
        )
    return build(width)


def set_problem(
    run: Run,
    inputs: int,
    sample: Callable[[str, int, Generator], Sets],
    loss: Callable[[Tensor, Tensor], Tensor],
    scores: Callable[[Tensor, Tensor], dict[str, float]],
) -> Problem:
    """The problem of a run on sets: ``sample`` draws so many of a part of the data; ``loss`` and
    ``scores`` are of outputs ``[S]`` and labels ``[S]``.
    """
    settings = run.settings
    torch.manual_seed(run.seed)
    sizes = settings["embedding"], settings.get("norm"), settings["parameters"]
    model = model_for_budget(run.row, inputs, *sizes)
    generator = Generator().manual_seed(run.seed)

    def batch_loss() -> Tensor:
        sets = sample("train", settings["batch_size"], generator)
        return loss(model(sets), sets.labels)

    def all_scores(part: str, is_last: bool) -> dict[str, float]:
        fresh = Generator().manual_seed(TEST_SEED + (part == "valid"))
        number = settings["test_sets"] if is_last else -(-settings["test_sets"] // FEW)
        batches = torch.arange(number).split(TEST_BATCH)
        drawn = [sample(part, len(batch), fresh) for batch in batches]
        outputs = [model(sets).detach() for sets in drawn]  # PyG's EA always has a graph
        return scores(torch.cat(outputs), torch.cat([sets.labels for sets in drawn]))

    return Problem(model, batch_loss, all_scores)
