"""Picture of the idea: one set, three energies, and the path of y to the minimum of each."""

from __future__ import annotations

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from pyg_ea import EAAggregation, NesterovSolver
from pyg_ea.energy import NoPrior
from pyg_ea.potentials import MeanPotential

LIMITS = (-4.2, 6.6), (-2.0, 5.4)
SIDE = 40  # points of the grid in each direction


def idea() -> Figure:
    """Draws the elements, the energy and the path of y for three potentials."""
    x = elements()
    layers = {
        "$F = \\|x - y\\|^2$:\nthe mean": _mean(),
        "$F = \\log(1 + \\|x - y\\|^2)$:\na robust mean": _robust(),
        "$F$ a small network:\nlearned from the task": trained(),
    }
    figure = Figure(figsize=(7.2, 3))
    panels = figure.subplots(1, len(layers))
    for axes, (title, layer) in zip(panels, layers.items(), strict=True):
        _draw(axes, layer, x)
        axes.set_title(title)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


def elements() -> Tensor:
    """Returns a set of ten elements close together and three outliers, ``[13, 2]``."""
    own = torch.Generator().manual_seed(4)
    crowd = 0.6 * torch.randn(10, 2, generator=own) + torch.tensor([4.0, 0.8])
    return torch.cat([crowd, torch.tensor([[-3.4, 4.6], [-2.6, 3.9], [-3.0, 3.1]])])


def _mean() -> EAAggregation:
    solver = NesterovSolver(lr=0.03, momentum=0.7)
    return EAAggregation(2, 2, steps=25, potential=MeanPotential(), prior=NoPrior(), solver=solver)


def _robust() -> EAAggregation:
    def cauchy(x: Tensor, y: Tensor) -> Tensor:
        return torch.log1p((x - y).square().sum(dim=1))

    solver = NesterovSolver(lr=0.1, momentum=0.7)
    return EAAggregation(2, 2, steps=40, potential=cauchy, prior=NoPrior(), solver=solver)


def trained(steps: int = 300) -> EAAggregation:
    """Trains a layer to return the centre of the larger of two groups of elements."""
    torch.manual_seed(0)
    layer = EAAggregation(2, 2, hidden_channels=32, steps=10, solver=NesterovSolver(lr=0.08))
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.005)
    index = torch.arange(64).repeat_interleave(13)
    for _ in range(steps):
        centre, other = (10 * torch.rand(64, 1, 2) - 4 for _ in range(2))
        groups = torch.cat([centre.expand(-1, 10, -1), other.expand(-1, 3, -1)], dim=1)
        x = groups + 0.6 * torch.randn(64, 13, 2)
        loss = (layer(x.flatten(0, 1), index) - centre[:, 0]).square().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
        optimizer.step()
    return layer


def path(layer: EAAggregation, x: Tensor) -> Tensor:
    """Returns y after 0, 1, ..., ``layer.steps`` steps, ``[T + 1, 2]``."""
    layer.eval()
    ys = [torch.zeros(1, 2)]
    with torch.no_grad():
        for steps in range(1, layer.steps + 1):
            layer.eval_steps = steps
            ys.append(layer(x))
    return torch.cat(ys)


def _energy(layer: EAAggregation, x: Tensor, points: Tensor) -> Tensor:
    """Returns the energy at each of P points up to its constant factor, ``[P]``."""
    pairs = x.repeat(len(points), 1), points.repeat_interleave(len(x), dim=0)
    with torch.no_grad():
        return layer.prior(points) + layer.potential(*pairs).view(len(points), -1).sum(dim=1)


def _draw(axes: Axes, layer: EAAggregation, x: Tensor) -> None:
    grids = [torch.linspace(*limits, SIDE) for limits in LIMITS]
    values = _energy(layer, x, torch.cartesian_prod(*grids)).view(SIDE, SIDE).T
    axes.contourf(*grids, values.sqrt(), levels=12, cmap="Blues_r", alpha=0.85)
    ys = path(layer, x)
    axes.plot(*x.T, "o", color="0.1", markersize=4.5, label="elements $x_i$ of a set")
    axes.plot(*ys.T, "o-", color="C1", markersize=3, label="$y$, step by step from 0")
    (star,) = axes.plot(*ys[-1:].T, "*", color="C1", markersize=15, label="result", zorder=3)
    star.set_markeredgecolor("white")
    axes.set(xlim=LIMITS[0], ylim=LIMITS[1], xticks=[], yticks=[])
