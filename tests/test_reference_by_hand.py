"""The reference itself against small cases worked out by hand, without autograd or tensors."""

from itertools import pairwise
from math import exp, log, log2, sqrt, tanh

import pytest
import torch

from tests.reference import listing1, solve

ROUNDING = 1e-13  # float64, a few dozen operations on numbers of order 1


def zero_parameters(in_channels: int, out_channels: int, hidden: int) -> dict[str, torch.Tensor]:
    """All-zero weights of Listing 1 with unit norms: the third layer's output is then 0."""
    widths = [in_channels + out_channels, 2 * hidden, hidden, 32]
    parameters = {}
    for layer, (n, m) in enumerate(pairwise(widths), start=1):
        parameters[f"potential.layer{layer}.weight"] = torch.zeros(m, n, dtype=torch.float64)
        parameters[f"potential.layer{layer}.bias"] = torch.zeros(m, dtype=torch.float64)
        if n != m:
            parameters[f"potential.skip{layer}.weight"] = torch.zeros(m, n, dtype=torch.float64)
            parameters[f"potential.skip{layer}.bias"] = torch.zeros(m, dtype=torch.float64)
        if layer < 3:
            parameters[f"potential.norm{layer}.weight"] = torch.ones(m, dtype=torch.float64)
            parameters[f"potential.norm{layer}.bias"] = torch.zeros(m, dtype=torch.float64)
    return parameters


def quadratic_parameters(lr: float, momentum: float, weight: float) -> dict[str, torch.Tensor]:
    """F(x, y) = (x - y)^2 for Dx = Dy = 1, H = 1; each argument is an effective value."""
    parameters = zero_parameters(1, 1, 1)
    parameters["potential.layer1.weight"].zero_()  # tanh(LN(0)) = 0: only the skips speak
    # Dx + Dy = 2 = 2H: the first skip is the identity, so z_1 = [x, y].
    parameters["potential.skip2.weight"].copy_(torch.tensor([[1.0, -1.0]]))
    parameters["potential.skip3.weight"].fill_(1.0)
    parameters["solver.raw_lr"] = torch.tensor(log(exp(lr) - 1), dtype=torch.float64)
    parameters["solver.raw_momentum"] = torch.tensor(
        log(momentum / (1 - momentum)), dtype=torch.float64
    )
    parameters["prior.raw_weight"] = torch.tensor(log(exp(weight) - 1), dtype=torch.float64)
    return parameters


def test_first_skip_is_the_identity_where_widths_agree() -> None:
    assert "potential.skip1.weight" not in quadratic_parameters(0.1, 0.9, 0.1)
    assert "potential.skip1.weight" in zero_parameters(2, 1, 1)


def test_potential_is_the_mean_of_squares() -> None:
    parameters = quadratic_parameters(0.1, 0.9, 0.1)
    x = torch.tensor([[3.0], [-1.0]], dtype=torch.float64)
    y = torch.tensor([[1.0], [1.0]], dtype=torch.float64)
    torch.testing.assert_close(listing1(parameters, x, y), x.new_tensor([4.0, 4.0]))
    # one channel out of 32 carries the difference: the mean is a 32nd
    parameters["potential.skip3.weight"].zero_()[0] = 1.0
    torch.testing.assert_close(listing1(parameters, x, y), x.new_tensor([4 / 32, 4 / 32]))


def test_potential_normalises_then_takes_tanh_then_adds_the_skip() -> None:
    parameters = quadratic_parameters(0.1, 0.9, 0.1)
    parameters["potential.layer1.weight"].copy_(torch.tensor([[2.0, 0.0], [0.0, 1.0]]))
    parameters["potential.layer1.bias"].copy_(torch.tensor([0.0, 0.5]))
    parameters["potential.norm1.weight"].copy_(torch.tensor([1.0, 3.0]))
    parameters["potential.norm1.bias"].copy_(torch.tensor([0.25, 0.0]))
    parameters["potential.layer3.weight"].fill_(0.5)
    x, y = 0.7, -0.2
    a, b = 2 * x, y + 0.5
    half = (a - b) / 2
    normed = half / sqrt(half * half + 1e-5)  # of two numbers: the first, and minus it
    z1 = x + tanh(normed + 0.25), y + tanh(-3 * normed)
    z2 = z1[0] - z1[1]
    z3 = z2 + 0.5 * z2
    got = listing1(parameters, *(torch.tensor([[v]], dtype=torch.float64) for v in (x, y)))
    assert got.item() == pytest.approx(z3 * z3, rel=ROUNDING)


def test_three_steps_by_hand() -> None:
    lr, momentum, weight = 0.1, 0.8, 0.3
    xs = [1.0, 2.0, 6.0]
    scale = log2(4) / (3 + 1e-8)

    def gradient(y: float) -> float:
        return scale * (2 * weight * y + sum(2 * (y - x) for x in xs))

    # Listing 2, unrolled by hand: the gradient is taken at y + momentum * m
    g1 = gradient(0.0)
    m1 = -lr * g1
    y1 = m1
    g2 = gradient(y1 + momentum * m1)
    m2 = momentum * m1 - lr * g2
    y2 = y1 + m2
    g3 = gradient(y2 + momentum * m2)
    m3 = momentum * m2 - lr * g3
    y3 = y2 + m3
    got = solve(
        quadratic_parameters(lr, momentum, weight),
        torch.tensor(xs, dtype=torch.float64)[:, None],
        torch.zeros(3, dtype=torch.long),
        1,
        steps=3,
        gtol=0.0,
    )
    assert got.y.item() == pytest.approx(y3, rel=ROUNDING)
    assert got.gradient_mean_square.item() == pytest.approx(g3**2, rel=1e-12)
    assert got.path_mean_square.item() == pytest.approx(g1**2 + g2**2 + g3**2, rel=ROUNDING)
    assert got.gradient_max.item() == pytest.approx(abs(g3), rel=1e-12)


def test_momentum_goes_on_under_the_mask() -> None:
    # F = (x - y)^2, x = 1, scale 1, no prior to speak of: g = 2 (y + mu m - 1).
    lr, momentum = 0.2, 0.5
    weight = 1e-12
    parameters = quadratic_parameters(lr, momentum, weight)
    y1 = m1 = lr * 2.0  # g1 = -2
    g2 = 2 * (y1 + momentum * m1 - 1)  # -0.8: below gtol = 1 in size, y stands still
    m2 = momentum * m1 - lr * g2
    g3 = 2 * (y1 + momentum * m2 - 1)
    got = solve(
        parameters,
        torch.ones(1, 1, dtype=torch.float64),
        torch.zeros(1, dtype=torch.long),
        1,
        steps=3,
        gtol=1.0,
    )
    assert got.active[:, 0].tolist() == [True, False, False]
    assert got.y.item() == pytest.approx(y1, rel=1e-7)  # N + 1e-8 in place of N
    assert got.gradient_mean_square.item() == pytest.approx(g3**2, rel=1e-6)


def test_clip_projects_the_state_after_each_step() -> None:
    got = solve(
        quadratic_parameters(0.2, 0.5, 0.1),
        torch.ones(1, 1, dtype=torch.float64),
        torch.zeros(1, dtype=torch.long),
        1,
        steps=3,
        gtol=0.0,
        clip=0.25,
    )
    assert got.y.item() == 0.25


def test_empty_segments_stay_at_zero() -> None:
    got = solve(
        quadratic_parameters(0.2, 0.5, 0.1),
        torch.ones(2, 1, dtype=torch.float64),
        torch.tensor([2, 2]),
        4,
        steps=3,
        gtol=0.0,
    )
    assert got.y[[0, 1, 3]].abs().max() == 0
    assert got.gradient_mean_square[[0, 1, 3]].abs().max() == 0
    assert got.y[2].item() != 0
