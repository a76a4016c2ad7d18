"""A plain float64 reference of the paper's appendix: Listings 1 and 2 and the energy (C.1).

Slow on purpose: each segment is solved alone, in a Python loop, by double autograd on the listing
as it is printed. It shares no code with the library, which is tested against it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

EPSILON = 1e-8  # (C.1)
LAYER_NORM_EPSILON = 1e-5


@dataclass(frozen=True)
class ReferenceSolution:
    """What Listing 2 returns for S segments.

    ``y [S, Dy]``; ``gradient_mean_square [S]``: mean_d g_T^2; ``path_mean_square [S]``: its sum over all steps;
    ``gradient_max [S]``: max_d |g_T|; ``active [T, S]``: which segments moved in which step.
    """

    y: Tensor
    gradient_mean_square: Tensor
    path_mean_square: Tensor
    gradient_max: Tensor
    active: Tensor


def listing1(parameters: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """``potential_net`` of Listing 1: ``x [n, Dx], y [n, Dy] -> [n]``."""
    z = torch.cat([x, y], dim=-1)
    for layer in (1, 2, 3):
        weight = parameters[f"potential.layer{layer}.weight"]
        h = F.linear(z, weight, parameters[f"potential.layer{layer}.bias"])
        size = weight.shape[0]
        if layer < 3:
            scale = parameters[f"potential.norm{layer}.weight"]
            offset = parameters[f"potential.norm{layer}.bias"]
            mean = h.mean(dim=-1, keepdim=True)
            variance = (h - mean).square().mean(dim=-1, keepdim=True)
            h = (h - mean) / torch.sqrt(variance + LAYER_NORM_EPSILON) * scale + offset
            h = torch.tanh(h)
        if size != z.shape[1]:
            skip = parameters[f"potential.skip{layer}.weight"]
            z = F.linear(z, skip, parameters[f"potential.skip{layer}.bias"])
        z = z + h
    return torch.mean(torch.square(z), dim=1)


def energy(
    parameters: Mapping[str, Tensor],
    potential: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
) -> Tensor:
    """(C.1) for one segment: ``x [n, Dx], y [Dy] -> []``."""
    n = x.shape[0]
    regulariser = F.softplus(parameters["prior.raw_weight"]) * y.square().sum()
    potentials = potential(x, y.expand(n, -1)).sum()
    return (regulariser + potentials) / (n + EPSILON) * torch.log2(x.new_tensor(n + 1.0))


def nesterov(
    objective: Callable[[Tensor], Tensor],
    y: Tensor,
    lr: Tensor,
    momentum: Tensor,
    steps: int,
    gtol: float,
    clip: float | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, list[bool]]:
    """Listing 2 for one segment: (y, g_T, sum of mean g^2, max |g_T|, which steps moved y)."""
    velocity = torch.zeros_like(y)
    grad = torch.zeros_like(y)
    path_mean_square = y.new_zeros(())
    active = []
    for _ in range(steps):
        look_ahead = y + momentum * velocity
        if not look_ahead.requires_grad:
            look_ahead.requires_grad_()
        (grad,) = torch.autograd.grad(objective(look_ahead), look_ahead, create_graph=True)
        active.append(bool(grad.abs().max() >= gtol))
        velocity = momentum * velocity - lr * grad
        y = y + active[-1] * velocity
        if clip is not None:
            y = torch.clamp(y, -clip, clip)
        path_mean_square = path_mean_square + grad.square().mean()
    return y, grad, path_mean_square, grad.abs().max(), active


def solve(
    parameters: Mapping[str, Tensor],
    x: Tensor,
    index: Tensor,
    num_segments: int,
    *,
    steps: int,
    gtol: float,
    clip: float | None = None,
    potential: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> ReferenceSolution:
    """Solves every segment alone and stacks the results.

    Args:
        parameters: the layer's parameters by their names in its state dict, float64.
        x: elements ``[N, Dx]``.
        index: segment of each element ``[N]``, in any order.
        num_segments: S; segments without elements have y = 0.
        steps: T.
        gtol: a segment stands still in steps where max_d |g| is below it.
        clip: y is projected on [-clip, clip] where given.
        potential: F(x [n, Dx], y [n, Dy]) -> [n] in place of Listing 1; the size of y is then
            that of x.
    """
    if potential is None:
        out_channels = parameters["potential.layer1.weight"].shape[1] - x.shape[1]

        def potential(elements: Tensor, y: Tensor) -> Tensor:
            return listing1(parameters, elements, y)

    else:
        out_channels = x.shape[1]
    lr = F.softplus(parameters["solver.raw_lr"])
    momentum = torch.sigmoid(parameters["solver.raw_momentum"])
    rows = []
    for segment in range(num_segments):
        members = x[index == segment]
        rows.append(
            nesterov(
                lambda y, members=members: energy(parameters, potential, members, y),
                x.new_zeros(out_channels),
                lr,
                momentum,
                steps,
                gtol,
                clip,
            )
        )
    return ReferenceSolution(
        y=torch.stack([y for y, *_ in rows]),
        gradient_mean_square=torch.stack([grad.square().mean() for _, grad, *_ in rows]),
        path_mean_square=torch.stack([path_mean_square for _, _, path_mean_square, *_ in rows]),
        gradient_max=torch.stack([gradient_max for *_, gradient_max, _ in rows]),
        active=torch.tensor([active for *_, active in rows]).T,
    )
