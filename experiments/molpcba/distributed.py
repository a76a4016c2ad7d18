"""The few things that processes training together tell each other."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


def world_size() -> int:
    """Number of processes that train together."""
    ready = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if ready else 1


def sum_over_processes(value: Tensor) -> Tensor:
    """``value`` summed over all processes; not differentiated."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    distributed.all_reduce(value)
    return value


def gather_rows(rows: Tensor) -> Tensor:
    """``[n_r, ...]`` of every process r, put one after another, on the CPU of each.

    Unlike ``all_gather`` it takes a different number of rows from each process, none included.
    """
    if world_size() == 1:
        return rows.cpu()
    parts: list[Tensor] = [rows] * world_size()
    distributed.all_gather_object(parts, rows.cpu())
    return torch.cat(parts)
