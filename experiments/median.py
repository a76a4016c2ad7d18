"""Median estimation (appendix D.1): Equilibrium Aggregation against other aggregators.

``python -m experiments.median``: see ``--help``. Sets of values are drawn on the fly.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from experiments.sets.study import TEST_BATCH, TEST_SEED, Task, study_command
from experiments.sets.training import SetModel, Sets, predict

SET_SIZE = 100


def gamma(shape: tuple[int, ...], generator: Generator) -> Tensor:
    r"""Gamma of **shape** 0.5 and **scale** 0.2: mean 0.1, variance 0.02.

    Drawn as :math:`0.1 z^2`, :math:`z` standard normal: :math:`z^2` is chi-square with one degree
    of freedom, that is gamma of shape 0.5 and scale 2.
    """
    return 0.1 * torch.randn(shape, generator=generator).square()


def normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Normal of mean 0.5 and standard deviation 0.4."""
    return 0.5 + 0.4 * torch.randn(shape, generator=generator)


DISTRIBUTIONS: dict[str, Callable] = {"uniform": torch.rand, "gamma": gamma, "normal": normal}


def draw(num_sets: int, generator: Generator) -> Tensor:
    """Values of sets, each from one distribution picked by chance: ``[S, 100]``."""
    shape = (num_sets, SET_SIZE)
    drawn = torch.stack(
        [draw(shape, generator=generator) for draw in DISTRIBUTIONS.values()]
    )  # [3, S, 100]
    choice = torch.randint(len(DISTRIBUTIONS), (num_sets,), generator=generator)
    return drawn[choice, torch.arange(num_sets)]


def labelled(values: Tensor) -> Sets:
    """Sets ``[S, n]`` with their medians, for even n the mean of the middle two."""
    num_sets, size = values.shape
    members = torch.arange(num_sets).repeat_interleave(size)
    return Sets(values.reshape(-1, 1), members, values.quantile(0.5, dim=1))


def evaluate(model: SetModel, num_sets: int, tuning: bool) -> dict[str, float]:
    """Mean squared error over sets that are the same at each call."""
    values = draw(num_sets, Generator().manual_seed(TEST_SEED))
    estimates, labels = predict(model, map(labelled, values.split(TEST_BATCH)))
    return {"mse": (estimates - labels).square().double().mean().item()}


TASK = Task(
    name="median",
    description="Median estimation (appendix D.1)",
    data="sets of 100 values",
    inputs=1,
    sample=lambda num_sets, generator: labelled(draw(num_sets, generator)),
    loss=F.mse_loss,
    evaluate=evaluate,
    metric="mse",
    error="mse",
    defaults={},
)
main = study_command(TASK)

if __name__ == "__main__":
    sys.exit(main())
