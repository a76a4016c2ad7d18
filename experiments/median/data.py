"""Sets of values drawn on the fly, and their medians (appendix D.1)."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

SET_SIZE = 100


def uniform(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Uniform on [0, 1)."""
    return torch.rand(shape, generator=generator)


def gamma(shape: tuple[int, ...], generator: Generator) -> Tensor:
    r"""Gamma of **shape** 0.5 and **scale** 0.2: mean 0.1, variance 0.02.

    Drawn as :math:`0.1 z^2`, :math:`z` standard normal: :math:`z^2` is chi-square with one degree
    of freedom, that is gamma of shape 0.5 and scale 2.
    """
    return 0.1 * torch.randn(shape, generator=generator).square()


def normal(shape: tuple[int, ...], generator: Generator) -> Tensor:
    """Normal of mean 0.5 and standard deviation 0.4."""
    return 0.5 + 0.4 * torch.randn(shape, generator=generator)


DISTRIBUTIONS = {"uniform": uniform, "gamma": gamma, "normal": normal}


def sample_sets(num_sets: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draws sets, each from one distribution picked by chance, and labels them.

    Args:
        num_sets: number of sets :math:`S`.
        generator: source of all randomness.

    Returns:
        Values ``[S, 100]`` and their medians ``[S]``.
    """
    shape = (num_sets, SET_SIZE)
    drawn = torch.stack([draw(shape, generator) for draw in DISTRIBUTIONS.values()])  # [3, S, 100]
    choice = torch.randint(len(DISTRIBUTIONS), (num_sets,), generator=generator)
    values = drawn[choice, torch.arange(num_sets)]
    return values, medians(values)


def medians(values: Tensor) -> Tensor:
    """Median of each row, the mean of the middle two of an even number: ``[S, n] -> [S]``."""
    return values.quantile(0.5, dim=1)
