r"""
An energy of your own
=====================

Any function ``(x [N, Dx], y [N, Dy]) -> [N]`` can be the potential and any function ``y [S, Dy] ->
[S]`` the prior. The layer then returns the minimiser of

.. math::
    \mathrm{scale}(n_s) \Big( R(y) + \sum_{i \in s} F(x_i, y) \Big)

and can be trained through. Three examples: a mean that outliers do not move, the most probable
parameter of a distribution, and attention.
"""

import math

import matplotlib.pyplot as plt
import torch
from torch import Tensor, nn
from torch_geometric.utils import softmax

from pyg_ea import EAAggregation, NesterovSolver
from pyg_ea.energy import NoPrior
from pyg_ea.potentials import AttentionPotential

torch.manual_seed(0)

# %%
# A robust mean
# -------------
#
# The Cauchy loss grows with the logarithm of the distance, so a far element hardly pulls. Its scale
# can be trained like any parameter. The solver is long and stops by itself: without a graph a large
# number of steps costs nothing once all sets have converged.


class CauchyPotential(nn.Module):
    r"""``F(x, y) = log(1 + |x - y|^2 / scale^2)``."""

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.tensor(scale).log())

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """``[N, D], [N, D] -> [N]``."""
        return torch.log1p((x - y).square().sum(dim=1) / (2 * self.log_scale).exp())


robust = EAAggregation(
    2, 2, steps=500, potential=CauchyPotential(), prior=NoPrior(), solver=NesterovSolver(lr=0.05)
)
robust.eval()

# 200 sets of 40 points around zero, of which a growing share lies around (8, 8) instead
shares, errors = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4], {"mean": [], "robust mean": []}
for share in shares:
    sets = torch.randn(200, 40, 2)
    sets[:, : int(40 * share)] += 8
    index = torch.arange(200).repeat_interleave(40)
    with torch.no_grad():
        y = robust(sets.flatten(0, 1), index)
    errors["mean"].append(float(sets.mean(dim=1).norm(dim=1).mean()))
    errors["robust mean"].append(float(y.norm(dim=1).mean()))
    print(
        f"{share:4.0%} outliers: " + ", ".join(f"{k} off by {v[-1]:.2f}" for k, v in errors.items())
    )

figure, axes = plt.subplots(figsize=(6.4, 3.2), layout="constrained")
for name, values in errors.items():
    axes.plot(shares, values, "o-", label=name)
axes.set(xlabel="share of outliers", ylabel="distance from the true centre")
axes.legend()

# %%
# The most probable parameter (MAP)
# ---------------------------------
#
# With :math:`F(x, y) = -\log p(x \mid y)` and :math:`R(y) = -\log p(y)` the minimiser is the most
# probable :math:`y` given the set. Here x are counts from a Poisson distribution of rate
# :math:`e^y` with a Gamma(a, b) prior on the rate, for which the answer is known:
# :math:`y = \log \frac{a + \sum_i x_i}{b + n}`.
#
# ``scaling`` multiplies prior and sum alike, so it does not change the minimiser.

A, B = 3.0, 1.0


def poisson(x: Tensor, y: Tensor) -> Tensor:
    """-log p(x | y) without its constant, ``[N]``."""
    return (y.exp() - x * y).squeeze(1)


def gamma(y: Tensor) -> Tensor:
    """-log p(y) of the rate's logarithm, without its constant, ``[S]``."""
    return (B * y.exp() - A * y).squeeze(1)


counts = torch.poisson(torch.full((30, 1), 7.0))
index = torch.tensor([0] * 2 + [1] * 8 + [2] * 20)  # sets of 2, 8 and 20 counts
layer = EAAggregation(
    1, 1, steps=2000, potential=poisson, prior=gamma, solver=NesterovSolver(lr=0.01, gtol=1e-5)
)
layer.eval()
with torch.no_grad():
    rates = layer(counts, index).exp().squeeze(1)
for s, rate in enumerate(rates):
    own = counts[index == s]
    exact = (A + own.sum()) / (B + len(own))
    print(f"{len(own):2d} counts: rate {rate:.4f}, in closed form {exact:.4f}")
    assert math.isclose(rate, exact, rel_tol=1e-3)

# %%
# Attention
# ---------
#
# ``AttentionPotential`` has one query h, and the first channels of its minimiser are the output of
# softmax attention (appendix B of the paper). The gradient with respect to the query agrees too:
# the layer is differentiated through its steps.

x, index = torch.randn(12, 4), torch.arange(12) // 6  # two sets of six elements
potential = AttentionPotential(4)
attention = EAAggregation(
    4, 5, steps=200, potential=potential, prior=NoPrior(), solver=NesterovSolver(lr=0.05)
)
y = attention(x, index)[:, :4]
weights = softmax(x @ potential.query, index)  # [N]
exact = torch.zeros(2, 4).index_add(0, index, weights[:, None] * x)
print(f"largest difference of the outputs: {(y - exact).abs().max().item():.1e}")

target = torch.randn(2, 4)
gradients = [
    torch.autograd.grad((output * target).sum(), potential.query, retain_graph=True)[0]
    for output in (y, exact)
]
print(
    f"largest difference of the gradients: {float((gradients[0] - gradients[1]).abs().max()):.1e}"
)
assert torch.allclose(gradients[0], gradients[1], atol=1e-2)

# %%
# Cost and pitfalls
# -----------------
#
# The gradient of such a potential comes from autograd at every step. Training differentiates it
# twice, so it must not change y in place. A potential with a gradient in closed form can subclass
# ``pyg_ea.potentials.Potential`` and override ``bind``; see
# :class:`pyg_ea.potentials.BoundPotential`.
#
# The step size must suit the curvature of the energy. If ``layer.diagnose(x, index)`` says
# ``diverged``, lower ``NesterovSolver(lr=...)``.
