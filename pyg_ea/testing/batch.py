"""The elements of the checks, and comparisons."""

from __future__ import annotations

import torch
from torch import Tensor

SIZES = [3, 0, 1, 5, 2, 0]
"""Sizes of the sets of :func:`batch`: an empty set inside, a single element, an empty set last."""
ROUNDING = 1e-12  # of float64, where products of blocks sum in another order


def batch(
    channels: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The elements of the checks, in random order: ``x [N, channels]``, ``index [N]``."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    index = index[torch.randperm(len(index), generator=generator)]
    x = torch.randn(len(index), channels, generator=generator, dtype=torch.float64)
    return (0.5 * x).to(dtype), index


def require(condition: Tensor | bool, message: str) -> None:
    """Fails with the message unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def close(got: Tensor, expected: Tensor, message: str) -> None:
    """Fails with the message unless both are equal to rounding in float64."""
    scale = float(expected.detach().abs().max().clamp(min=1))
    torch.testing.assert_close(
        got, expected, rtol=0, atol=ROUNDING * scale, msg=lambda text: f"{message}: {text}"
    )
