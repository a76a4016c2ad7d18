r"""
Inside the inner loop
=====================

An EA layer returns the end of a few Nesterov steps on an energy,

.. math::
    E(y) = \frac{\log_2(n + 1)}{n} \Big( R(y) + \sum_{i=1}^{n} F(x_i, y) \Big).

With a result of two channels the energy is a landscape that can be drawn, and the steps are a path
in it. This page shows a path that converges, one that stops early and one that diverges, and how to
tell them apart without a picture.
"""

import warnings

import matplotlib.pyplot as plt
import torch
from torch import Tensor

from pyg_ea import EAAggregation, NesterovSolver
from pyg_ea.energy import Energy, NoPrior
from pyg_ea.potentials import MeanPotential
from pyg_ea.segments import Segments

torch.manual_seed(0)
x = torch.randn(12, 2) + torch.tensor([1.5, 1.0])  # one set of 12 elements

# %%
# The landscape and the path
# --------------------------
#
# ``Energy`` is what the layer minimises. To evaluate it at many points y at once, the set is
# repeated, one copy for each point. The path is what the layer returns after 0, 1, 2, ... steps.


def energy(layer: EAAggregation, points: Tensor) -> Tensor:
    """The layer's energy of ``x`` at each of the points ``[P, 2]``."""
    copies = Segments(torch.arange(len(points)).repeat_interleave(len(x)), len(points))
    potential = layer.potential.bind(x.repeat(len(points), 1), copies)
    with torch.no_grad():
        return Energy(potential, layer.prior, layer.scaling(copies.count.float())).value(points)


def path(layer: EAAggregation, steps: int) -> Tensor:
    """y after 0, 1, ..., ``steps`` steps, ``[steps + 1, 2]``."""
    layer.eval()
    ys = [torch.zeros(1, 2)]
    with torch.no_grad():
        for layer.eval_steps in range(1, steps + 1):
            ys.append(layer(x))
    return torch.cat(ys)


def draw(axes: plt.Axes, layer: EAAggregation, steps: int, title: str) -> None:
    """Contours of the energy, and the path in them."""
    ys = path(layer, steps)
    low, high = ys.amin(dim=0) - 0.5, ys.amax(dim=0) + 0.5
    grids = [torch.linspace(float(a), float(b), 60) for a, b in zip(low, high, strict=True)]
    grid = torch.cartesian_prod(*grids)  # [3600, 2]
    axes.contourf(*grids, energy(layer, grid).view(60, 60).T, levels=25, cmap="Blues_r")
    axes.plot(*ys.T, "o-", color="tab:orange", markersize=3, linewidth=1)
    axes.plot(*ys[-1], "*", color="tab:red", markersize=12)
    axes.set_title(title, fontsize="medium")


# %%
# Converged, stopped early, diverged
# ----------------------------------
#
# ``MeanPotential`` has the energy :math:`\sum_i \|x_i - y\|^2`, so the minimum is the mean of the
# set. On a quadratic energy of curvature :math:`L` the steps are stable for a step size below
# :math:`1.36 / L` (at momentum 0.9). Here :math:`L = 2 \log_2(n + 1) = 7.4` and the limit is 0.18.

SETTINGS = {"converged": (0.05, 60), "stopped early": (0.005, 8), "diverged": (0.25, 15)}


def make(lr: float, steps: int) -> EAAggregation:
    """A layer whose minimum is the mean."""
    solver = NesterovSolver(lr=lr)
    return EAAggregation(
        2, 2, steps=steps, potential=MeanPotential(), prior=NoPrior(), solver=solver
    )


figure, panels = plt.subplots(1, 3, figsize=(7.2, 2.9), layout="constrained")
for axes, (name, (lr, steps)) in zip(panels, SETTINGS.items(), strict=True):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # shown below
        draw(axes, make(lr, steps), steps, f"{name}:\n{steps} steps of size {lr}")

# %%
# What a program sees
# -------------------
#
# ``diagnose`` runs the layer and reports on each set. A layer that diverges also warns in training
# and evaluation.

for name, (lr, steps) in SETTINGS.items():
    print(f"{name:13s} {make(lr, steps).diagnose(x)}")

with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    make(*SETTINGS["diverged"])(x)
print(f"\n{caught[0].category.__name__}: {caught[0].message}")

# %%
# The gradient decides: y stops once its largest entry is below ``gtol``, 0.001 by default. Momentum
# makes it oscillate, so it need not fall at every step.

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for name, (lr, _) in SETTINGS.items():
    layer = make(lr, 1)
    sizes = []
    for layer.steps in range(1, 61):
        sizes.append(float(layer.diagnose(x).solution.gradient_max))
    axes.semilogy(range(1, 61), sizes, label=f"{name}: step size {lr}")
axes.axhline(1e-3, color="0.5", linestyle=":", label="gtol")
axes.set(xlabel="step", ylabel="largest gradient entry", ylim=(1e-4, 1e4))
axes.legend(fontsize="small")

# %%
# The learned potential
# ---------------------
#
# The default potential is a small residual network. Its landscape is not quadratic, and in training
# it is shaped so that the point after ``steps`` steps is useful, which need not be the minimum. The
# networks trained for this documentation stop short of it and do well. So test with as many steps
# as in training, and do not worry about ``0 converged``. Worry about ``diverged``, and about an
# energy that hardly falls.

torch.manual_seed(3)
layer = EAAggregation(2, 2, hidden_channels=16, steps=15)
print(layer.diagnose(x))
figure, panels = plt.subplots(1, 2, figsize=(7.2, 3.4), layout="constrained")
draw(panels[0], layer, 5, "5 steps, the default of EAGlobalPool")
draw(panels[1], layer, 60, "60 steps")

# %%
# If a layer diverges, lower the step size (``solver=NesterovSolver(lr=0.03)``) or bound y
# (``NesterovSolver(clip=...)``). Step size, momentum and the weight of the prior are trained, so
# look at ``layer.solver.lr``, ``layer.solver.momentum`` and ``layer.prior.weight`` too.
