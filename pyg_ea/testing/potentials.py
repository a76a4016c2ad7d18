"""Checks of potentials."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from pyg_ea.potentials import bind
from pyg_ea.segments import Segments
from pyg_ea.testing.batch import SIZES, batch, close, require

Function = Callable[[Tensor, Tensor], Tensor]


def check_potential(potential: Function, x_channels: int, y_channels: int) -> None:
    r"""Checks a potential :math:`F(x, y)`, in float64 at random points.

    - ``potential(x, y)`` is one finite number for each element, also where there is none;
    - an element's number does not depend on the other elements;
    - bound to sets, its value is :math:`\Phi_s(y) = \sum_{i \in s} F(x_i, y_s)` and its gradient
      :math:`\partial \Phi_s / \partial y_s`, for instance in a closed form of your own;
    - this gradient is not zero, and its derivatives in x, y and all parameters, with which a layer
      is trained, agree with finite differences.

    Args:
        potential: a :class:`~pyg_ea.potentials.Potential`, another module or a function; it is
            copied.
        x_channels: number of channels :math:`D_x` of an element.
        y_channels: number of channels :math:`D_y` of y.

    Raises:
        AssertionError: if a check fails.
    """
    if isinstance(potential, nn.Module):
        potential = copy.deepcopy(potential).double()
    x, index = batch(x_channels, torch.float64)
    y = batch(y_channels, torch.float64, seed=1)[0][: len(SIZES)]
    segments = Segments(index, len(SIZES))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        values = potential(x, y[index])
        require(values.shape == x.shape[:1], f"returned shape {list(values.shape)}, expected [N]")
        require(values.isfinite().all(), "returned values that are not finite")
        require(potential(x[:0], y[:0]).shape == (0,), "expected shape [0] for no element")
        alone = torch.cat([potential(x[i : i + 1], y[index[i : i + 1]]) for i in range(len(x))])
        close(alone, values, "the value of an element depends on the other elements")

        bound = _Bound(potential, segments)
        value = bind(potential, x, segments).value(y)
        close(value, segments.sum(values), "the bound value is not the sum over each set")
        leaf = y.clone().requires_grad_()
        total = potential(x, leaf[index]).sum()
        require(total.requires_grad, "does not depend on y")
        (expected,) = torch.autograd.grad(total, leaf)
        require(expected.isfinite().all() and expected.any(), "has no gradient in y")
        close(bound(x, y), expected, "the bound gradient is not the derivative of the value")

        named = {name: p.detach().requires_grad_() for name, p in bound.named_parameters()}
        inputs = (x.requires_grad_(), leaf, *named.values())

        def gradient(x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
            return functional_call(bound, dict(zip(named, parameters, strict=True)), (x, y))

        try:
            gradcheck(gradient, inputs, fast_mode=True)
        except RuntimeError as error:
            raise AssertionError(f"the gradient's derivatives are wrong: {error}") from error


class _Bound(nn.Module):
    """A potential bound to sets, as a module: its parameters can be replaced."""

    def __init__(self, potential: Function, segments: Segments) -> None:
        super().__init__()
        self.potential, self.segments = potential, segments

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return bind(self.potential, x, self.segments).gradient(y)
