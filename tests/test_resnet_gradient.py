"""The gradient by hand against the same formula in plain operations, chunk by chunk."""

import pytest
import torch

from pyg_ea.potentials import resnet_gradient
from pyg_ea.potentials.collector import collect
from pyg_ea.potentials.resnet_gradient import (
    Weights,
    gradient_in_y,
    plain_gradient_in_y,
)

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
    by_hand = gradient_in_y(y, fixed, index, 5, Weights(*weights))
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
        value = gradient_in_y(y, fixed, index, 5, Weights(*weights))
    assert not value.requires_grad
    expected = plain_gradient_in_y(y, fixed, index, 5, Weights(*weights))
    torch.testing.assert_close(value, expected, **TIGHT)


def test_norms_of_another_precision_are_not_read_as_if_they_were_of_this_one():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    expected = gradient_in_y(y, fixed, index, 5, Weights(*weights))
    single = [tensor.float() for tensor in (y, fixed, *weights[:3])]
    got = gradient_in_y(*single[:2], index, 5, Weights(*single[2:], *weights[3:]))
    torch.testing.assert_close(got.double(), expected, rtol=1e-4, atol=1e-4)


def two_steps(gradient, y):
    """Two gradients, the second where the first led, as the solver takes them."""
    return gradient(y - 0.1 * gradient(y)).square().sum()


def losses(index, y, fixed, weights):
    """Of two steps whose gradients of ``fixed`` are collected, and of two in plain operations."""
    shared = collect(fixed)
    by_hand = two_steps(lambda y: gradient_in_y(y, fixed, index, 5, weights, shared), y)
    return by_hand, two_steps(lambda y: plain_gradient_in_y(y, fixed, index, 5, weights), y)


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_collected_over_two_steps_the_gradient_is_that_of_autograd(index):
    index, (y, fixed, *weights) = problem(index)
    by_hand, plain = losses(index, y, fixed, Weights(*weights))
    got, expected = (torch.autograd.grad(loss, [y, fixed, *weights]) for loss in (by_hand, plain))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)


def test_collected_gradients_of_several_passes_do_not_mix():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    loss, plain = losses(index, y, fixed, Weights(*weights))
    (expected,) = torch.autograd.grad(plain, fixed)

    def check(**options):
        (got,) = torch.autograd.grad(loss, fixed, retain_graph=True, **options)
        torch.testing.assert_close(got, expected, **TIGHT)

    check()
    torch.autograd.grad(loss, y, retain_graph=True)  # hands nothing over
    torch.autograd.grad(loss, weights[0], retain_graph=True)
    check()
    check(create_graph=True)
    check()


def test_a_pass_that_lost_a_step_is_an_error_not_a_wrong_gradient():
    fixed = torch.ones(2, 3, requires_grad=True)
    token, collector = collect(fixed)

    class Step(torch.autograd.Function):
        @staticmethod
        def forward(ctx, token):
            return token.clone()

        @staticmethod
        def backward(ctx, _):
            return collector.take_part(fixed)[1]

    class Other(Step):
        @staticmethod
        def backward(ctx, _):
            collector.backward_pass = -2  # as a pass at the same time would
            return collector.take_part(fixed)[1]

    with pytest.raises(RuntimeError, match="two backward passes"):
        (Other.apply(token) + Step.apply(token)).backward()


def test_nothing_is_handed_over_where_there_is_no_gradient():
    index, (y, fixed, *weights) = problem(INDICES["unsorted"])
    loss, plain = losses(index, y, fixed.detach(), Weights(*weights))
    got, expected = (torch.autograd.grad(each, [y, *weights]) for each in (loss, plain))
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)
