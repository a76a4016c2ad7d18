"""The gradient by hand against the same formula in plain operations, chunk by chunk."""

import pytest
import torch

from pyg_ea.potentials import resnet_gradient
from pyg_ea.potentials.resnet_gradient import GradientByHand, Weights, plain_gradient_in_y
from pyg_ea.potentials.tanh_norm import FusedTanhNorm, TanhNorm

HIDDEN, SIZE = 3, 4
TIGHT = {"rtol": 1e-11, "atol": 1e-12}

INDICES = {
    "unsorted": [2, 0, 2, 2, 0, 3, 0, 2, 3, 3, 2],
    "single": [0],
    "empty": [],
    "singles": [0, 1, 2, 3],
}


def problem(index: list[int]) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Index and, all wanting a gradient, ``y [5, 4], fixed [N, 3H+32]`` and the weights."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(5, SIZE), (len(index), 3 * HIDDEN + 32)]
    shapes += [(3 * HIDDEN + 32, SIZE), (HIDDEN + 32, 2 * HIDDEN), (32, HIDDEN)]
    shapes += [(2 * HIDDEN,), (2 * HIDDEN,), (HIDDEN,), (HIDDEN,)]
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        for shape in shapes
    ]
    return torch.tensor(index, dtype=torch.long), tensors


@pytest.mark.parametrize("rows", [1, 4, 100], ids="chunks-of-{}".format)
@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_value_and_derivative_do_not_depend_on_the_chunk(index, rows, monkeypatch):
    monkeypatch.setattr(resnet_gradient, "CHUNK", rows * 2 * HIDDEN)
    index, (y, fixed, *weights) = problem(index)
    cotangent = torch.randn_like(y)
    by_hand = GradientByHand.apply(y, fixed, index, 5, *weights)
    plain = plain_gradient_in_y(y, fixed, index, 5, Weights(*weights))
    torch.testing.assert_close(by_hand, plain, **TIGHT)
    got = torch.autograd.grad(by_hand, [y, fixed, *weights], cotangent)
    expected = torch.autograd.grad(plain, [y, fixed, *weights], cotangent)
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_without_a_graph_nothing_is_kept_and_the_value_is_the_same(monkeypatch):
    monkeypatch.setattr(resnet_gradient, "CHUNK", 4 * 2 * HIDDEN)
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    with torch.no_grad():
        value = resnet_gradient.gradient_in_y(y, fixed, index, 5, Weights(*weights))
    assert not value.requires_grad
    expected = plain_gradient_in_y(y, fixed, index, 5, Weights(*weights))
    torch.testing.assert_close(value, expected, **TIGHT)


def test_fused_tanh_norm_is_the_plain_one_with_both_derivatives():
    u, du, d, e = torch.randn(4, 6, 5, dtype=torch.float64)
    gamma, beta = torch.randn(2, 5, dtype=torch.float64)
    inputs = [t.requires_grad_() for t in (u, gamma, beta)]

    def tangent(*at: torch.Tensor) -> torch.Tensor:
        return torch.func.jvp(lambda v: TanhNorm(v, *at[1:]).output, (at[0],), (du,))[1]

    plain = TanhNorm(*inputs)
    fused = FusedTanhNorm.at(*(t.detach() for t in inputs))
    torch.testing.assert_close(fused.output, plain.output.detach(), **TIGHT)
    torch.testing.assert_close(fused.pull(d), plain(d).detach(), **TIGHT)

    torch.testing.assert_close(fused.push(du), tangent(*inputs).detach(), **TIGHT)
    total = (e * plain.output).sum() + (d * tangent(*inputs)).sum()
    expected = torch.autograd.grad(total, inputs)
    out = torch.empty_like(u)
    d_gamma, d_beta = fused.pull_both(e.clone(), d, out)
    for one, other in zip((out, d_gamma, d_beta), expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)
