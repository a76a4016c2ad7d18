"""Median estimation (appendix D.1): Equilibrium Aggregation against other aggregators.

``python -m experiments.median``: see ``--help``. Sets of values are drawn on the fly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from experiments.sets.aggregators import OF_SETS
from experiments.sets.model import SetConfig, Sets, set_problem
from experiments.sets.study import Task, study_command

SET_SIZE = 100


def gamma(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Gamma of **shape** 0.5 and **scale** 0.2, as 0.1 z²: z² of a standard normal has scale 2."""
    return 0.1 * torch.randn(shape, generator=generator).square()


DISTRIBUTIONS: dict[str, Callable] = {
    "uniform": torch.rand,
    "gamma": gamma,
    "normal": lambda shape, generator: 0.5 + 0.4 * torch.randn(shape, generator=generator),
}


def labelled(values: Tensor) -> Sets:
    """Sets ``[S, n]`` with their medians, for even n the mean of the middle two."""
    num_sets, size = values.shape
    members = torch.arange(num_sets).repeat_interleave(size)
    return Sets(values.reshape(-1, 1), members, values.quantile(0.5, dim=1))


def scores(outputs: Tensor, labels: Tensor) -> dict[str, float]:
    """Mean squared error."""
    return {"mse": (outputs - labels).square().double().mean().item()}


def sample(part: str, num_sets: int, generator: Generator) -> Sets:
    """Draws sets, each from one distribution picked by chance; all parts are alike."""
    shape = num_sets, SET_SIZE
    drawn = torch.stack([draw(shape, generator=generator) for draw in DISTRIBUTIONS.values()])
    choice = torch.randint(len(DISTRIBUTIONS), (num_sets,), generator=generator)
    return labelled(drawn[choice, torch.arange(num_sets)])


TASK = Task(
    name="median",
    description="Median estimation (appendix D.1)",
    data="sets of 100 values",
    methods=["ea_quantile", *OF_SETS],
    problem=lambda run: set_problem(run, 1, sample, F.mse_loss, scores),
    config=SetConfig,
    metric="mse",
    defaults={},
)
main = study_command(TASK)

if __name__ == "__main__":
    sys.exit(main())
