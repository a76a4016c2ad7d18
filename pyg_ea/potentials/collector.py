"""Where the steps' gradients of what they share are added up."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx


class Collector:
    r"""Adds up the gradients of ``fixed`` of all steps in one place.

    Autograd would have each step ask the system for another ``[N, 3H+32]``, to be added and freed.
    Instead each step of a backward pass adds to one tensor, and counts itself in the gradient of a
    token. Autograd runs the token's own backward (:class:`HandOver`) after that of all steps;
    there, what was added up goes on to ``fixed``.
    """

    def __init__(self) -> None:
        self.total: Tensor | None = None
        self.backward_pass, self.count = -1, 0

    def take_part(self, fixed: Tensor) -> tuple[Tensor, Tensor]:
        """For one step: what to add to, ``[N, 3H+32]``, and the gradient of the token."""
        current = torch._C._current_graph_task_id()
        if self.total is None or self.backward_pass != current:  # what a pass cut short left
            self.total = torch.zeros_like(fixed)
            self.backward_pass, self.count = current, 0
        self.count += 1
        return self.total, fixed.new_ones(())

    def hand_over(self, count: Tensor) -> Tensor | None:
        """What ``count`` steps have added up.

        Raises:
            RuntimeError: when it is not that of exactly these steps.
        """
        total, self.total = self.total, None
        same = self.backward_pass == torch._C._current_graph_task_id()
        if not same or (count.device.type == "cpu" and int(count) != self.count):
            raise RuntimeError("two backward passes went through the same steps at once")
        return total


class HandOver(torch.autograd.Function):
    """Makes the token of a :class:`Collector`; on the way back ``fixed`` gets what it collected."""

    @staticmethod
    def forward(ctx: FunctionCtx, fixed: Tensor, collector: Collector) -> Tensor:
        """The token, a number that nothing depends on: ``[]``."""
        ctx.collector = collector  # type: ignore[attr-defined]
        ctx.set_materialize_grads(False)
        return fixed.new_zeros(())

    @staticmethod
    def backward(ctx: Any, count: Tensor | None) -> tuple[Tensor | None, None]:
        """The gradient of ``fixed``; None where no step took part."""
        return None if count is None else ctx.collector.hand_over(count), None


Collected = tuple[Tensor, Collector]


def collect(fixed: Tensor) -> Collected:
    """A collector for the gradient of ``fixed``, and its token."""
    collector = Collector()
    return HandOver.apply(fixed, collector), collector
