"""Backward passes that are to be differentiated again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor


def backward_by_autograd(
    function: Callable[..., tuple[Tensor, ...]],
    inputs: Sequence[Tensor],
    cotangents: Sequence[Tensor],
) -> list[Tensor | None]:
    """What ``backward`` of a derivative by hand returns where it is to be differentiated again: the
    gradients of ``function(*inputs)``, the same in plain operations, by autograd.

    In aliases of the inputs: one of them may come from earlier steps, and with it from the others.
    """
    aliases = [tensor.view_as(tensor) for tensor in inputs]
    results = function(*aliases)
    wanted = [tensor for tensor in aliases if tensor.requires_grad]
    got = iter(torch.autograd.grad(results, wanted, cotangents, create_graph=True))
    return [next(got) if tensor.requires_grad else None for tensor in aliases]
