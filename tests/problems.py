"""Potentials whose minimiser is known in closed form, one row each.

A row states how to build the layer, the exact answer for one set, and the tolerance with its
reason. A new potential needs one more row; ``test_problems.py`` runs every row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil

import torch
from torch import Tensor, nn

from pyg_ea import EAAggregation, L2Prior, NesterovSolver
from pyg_ea.energy import NoPrior, unit_scaling
from pyg_ea.potentials import (
    AttentionPotential,
    MaxPotential,
    MeanPotential,
    QuantilePotential,
    SumPotential,
)

CHANNELS = 3
LARGEST_SET = 9
CONVERGED = 1e-9  # float64 steps on a well conditioned quadratic, run until rounding


@dataclass(frozen=True)
class Problem:
    """One potential with a known answer.

    Attributes:
        name: name of the row in test reports.
        build: makes the layer, untrained, float32.
        answer: the exact minimiser for one set ``x [n, D] -> [Dy]``, given the layer.
        tolerance: largest absolute distance of the layer's output from the answer.
        reason: why the tolerance is what it is.
        smooth: whether the layer's output has the answer's derivative as well.
    """

    name: str
    build: Callable[[], EAAggregation]
    answer: Callable[[EAAggregation, Tensor], Tensor]
    tolerance: float
    reason: str
    smooth: bool = True


def solver(lr: float, momentum: float = 0.9) -> NesterovSolver:
    """A solver that never stops early, with a step size fit for the problem's curvature."""
    return NesterovSolver(lr=lr, momentum=momentum, gtol=0.0)


class PrintedAttentionPotential(nn.Module):
    """The potential whose minimiser is the pair that appendix B prints (see the erratum)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(channels) * channels**-0.5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``||e^{h x} x - y_r||^2 + (y_s - e^{h x})^2``: ``[N, D], [N, D+1] -> [N]``."""
        weight = torch.exp(x @ self.query)
        y_r, y_s = y[:, :-1], y[:, -1]
        return (weight[:, None] * x - y_r).square().sum(dim=1) + (y_s - weight).square()


class GaussianLikelihood(nn.Module):
    """``-log N(x; y, sigma^2)`` up to a constant."""

    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.sigma = sigma

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, D], [N, D] -> [N]``."""
        return (x - y).square().sum(dim=1) / (2 * self.sigma**2)


class GaussianPrior(nn.Module):
    """``-log N(y; mean, tau^2)`` up to a constant, with a trained mean."""

    def __init__(self, channels: int, tau: float) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.linspace(-1, 1, channels))
        self.tau = tau

    def forward(self, y: Tensor) -> Tensor:
        """``[S, D] -> [S]``."""
        return (y - self.mean).square().sum(dim=1) / (2 * self.tau**2)


def build_sum() -> EAAggregation:
    """Sum pooling: the prior completes the square, the scale's count is undone."""
    return EAAggregation(
        CHANNELS,
        CHANNELS,
        steps=400,
        potential=SumPotential(weight=1.0),
        prior=L2Prior(1.0, trainable=False),
        solver=solver(lr=0.25, momentum=0.5),
        scaling=unit_scaling,
    )


def build_without_prior(
    potential: nn.Module, out_channels: int, steps: int, solver: NesterovSolver
) -> EAAggregation:
    """A layer with ``R = 0`` and the scaling of (C.1)."""
    return EAAggregation(
        CHANNELS, out_channels, steps=steps, potential=potential, prior=NoPrior(), solver=solver
    )


def build_map() -> EAAggregation:
    """MAP inference (A.1) of a Gaussian's mean under a Gaussian prior."""
    return EAAggregation(
        CHANNELS,
        CHANNELS,
        steps=400,
        potential=GaussianLikelihood(sigma=0.8),
        prior=GaussianPrior(CHANNELS, tau=0.6),
        solver=solver(lr=0.05),
    )


def attention_weights(layer: EAAggregation, x: Tensor) -> Tensor:
    """``e^{h x}``: ``[n, D] -> [n]``."""
    return torch.exp(x @ layer.potential.query)


def attention_answer(layer: EAAggregation, x: Tensor) -> Tensor:
    """Softmax attention, and the mean of the unnormalised weights."""
    scores = torch.softmax(x @ layer.potential.query, dim=0)
    return torch.cat([scores @ x, attention_weights(layer, x).mean(dim=0, keepdim=True)])


def printed_attention_answer(layer: EAAggregation, x: Tensor) -> Tensor:
    """The printed pair: mean of weighted elements, mean of weights."""
    weights = attention_weights(layer, x)
    y_r = (weights[:, None] * x).mean(dim=0)
    return torch.cat([y_r, weights.mean(dim=0, keepdim=True)])


def map_answer(layer: EAAggregation, x: Tensor) -> Tensor:
    """The precision-weighted mean of the data and the prior's mean."""
    data, prior = layer.potential.sigma**-2, layer.prior.tau**-2
    return (data * x.sum(dim=0) + prior * layer.prior.mean) / (data * x.shape[0] + prior)


def quantile_problem(name: str, quantile: float | list[float]) -> Problem:
    """Smoothed quantiles; n * quantile is never whole for n <= 9, so each is unique."""
    of_channel = quantile if isinstance(quantile, list) else [quantile] * CHANNELS
    return Problem(
        name,
        lambda: build_without_prior(
            QuantilePotential(quantile, smoothing=0.02), CHANNELS, 1500, solver(lr=0.012)
        ),
        lambda layer, x: torch.stack(
            [c.sort().values[ceil(len(c) * q) - 1] for c, q in zip(x.T, of_channel, strict=True)]
        ),
        0.02,
        "the smoothed loss has its minimum within `smoothing` of the quantile",
        smooth=False,
    )


PROBLEMS = [
    Problem(
        "mean",
        lambda: build_without_prior(MeanPotential(), CHANNELS, 300, solver(0.1, momentum=0.5)),
        lambda layer, x: x.mean(dim=0),
        CONVERGED,
        "quadratic, run to rounding",
    ),
    Problem("sum", build_sum, lambda layer, x: x.sum(dim=0), CONVERGED, "quadratic"),
    Problem(
        "max",
        lambda: build_without_prior(
            MaxPotential(max_count=LARGEST_SET, smoothing=0.02), CHANNELS, 1500, solver(lr=0.012)
        ),
        lambda layer, x: x.amax(dim=0),
        0.02,
        "the minimum lies within `smoothing` of the maximum",
        smooth=False,
    ),
    quantile_problem("quantile-0.23", 0.23),
    quantile_problem("quantile-0.87", 0.87),
    quantile_problem("quantile-of-each-channel", [0.23, 0.87, 0.45]),
    Problem(
        "attention",
        lambda: build_without_prior(
            AttentionPotential(CHANNELS), CHANNELS + 1, 400, solver(lr=0.05)
        ),
        attention_answer,
        CONVERGED,
        "quadratic, run to rounding",
    ),
    Problem(
        "attention-as-printed",
        lambda: build_without_prior(
            PrintedAttentionPotential(CHANNELS), CHANNELS + 1, 400, solver(lr=0.05)
        ),
        printed_attention_answer,
        CONVERGED,
        "quadratic, run to rounding",
    ),
    Problem("gaussian-map", build_map, map_answer, CONVERGED, "quadratic, run to rounding"),
]
