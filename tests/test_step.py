"""A step of the solver, in C where it was built, against the same in plain operations."""

from __future__ import annotations

import pytest
import torch

from pyg_ea import native
from pyg_ea import step as module
from pyg_ea.step import Step, plain_step, step

GTOL = 0.05
built = pytest.mark.skipif(native.LIBRARY is None, reason="the C kernels were not built")


@pytest.fixture(params=[1, 3], ids="{}-threads".format)
def _threads(request, monkeypatch):
    monkeypatch.setattr(module, "GRAIN", 8)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


def problem(rows: int, columns: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """``y, momentum, g [rows, columns]``, step size and momentum; every third row stands still."""
    generator = torch.Generator().manual_seed(0)
    y, m, g = torch.randn(3, rows, columns, generator=generator, dtype=torch.float64)
    g[::3] *= 0.9 * GTOL / g[::3].abs().amax(dim=1, keepdim=True)
    scalars = [torch.tensor(value, dtype=dtype) for value in (0.1, 0.8)]
    return [y.to(dtype), m.to(dtype), g.to(dtype), *scalars]


def outcome(function, inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """What a step gives, and the gradients of its inputs."""
    inputs = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    results = function(*inputs, GTOL)
    generator = torch.Generator().manual_seed(1)
    cotangents = [
        torch.randn(result.shape, generator=generator, dtype=torch.float64).to(result.dtype)
        for result in results[:4]
    ]
    return [*results, *torch.autograd.grad(results[:4], inputs, cotangents)]


@built
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 7), (40, 33), (0, 5)], ids="{}".format)
@pytest.mark.parametrize(
    ("dtype", "close"),
    [
        (torch.float64, {"rtol": 1e-12, "atol": 1e-12}),
        (torch.float32, {"rtol": 1e-4, "atol": 1e-5}),
    ],
    ids=["float64", "float32"],
)
@pytest.mark.usefixtures("_threads")
def test_value_and_derivative_are_those_of_plain_operations(rows, columns, dtype, close):
    by_hand = outcome(step, problem(rows, columns, dtype))
    plain = outcome(plain_step, problem(rows, columns))
    assert "StepByHand" in type(by_hand[0].grad_fn).__name__
    for one, other in zip(by_hand, plain, strict=True):
        assert one.dtype == (torch.bool if other.dtype == torch.bool else dtype)
        torch.testing.assert_close(one.to(other.dtype), other, **close)


def test_a_row_below_the_tolerance_stands_still_while_its_velocity_goes_on():
    y, m, g, lr, mu = problem(6, 4)
    result = step(y, m, g, lr, mu, GTOL)
    torch.testing.assert_close(result.momentum, mu * m - lr * g)
    torch.testing.assert_close(result.ahead, result.y + mu * result.momentum)
    assert (result.largest < GTOL).tolist() == [True, False, False] * 2
    assert torch.equal(result.y[::3], y[::3])
    torch.testing.assert_close(result.y[1], (y + result.momentum)[1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_is_seen_and_stays_in_its_row(bad):
    inputs = problem(6, 4)
    inputs[2][1, 2] = bad  # a gradient: NaN does not move y, infinity does
    inputs[0][4, 3] = bad
    result = step(*inputs, GTOL)
    plain = plain_step(*inputs, GTOL)
    for one, other in zip(result, plain, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)
    infinite = abs(bad) == float("inf")
    assert result.diverged.tolist() == [False, infinite, False, False, True, False]
    assert result.largest.isfinite().tolist() == [True, False, True, True, True, True]


@pytest.mark.parametrize("function", [step, plain_step])
def test_first_and_second_derivatives(function):
    inputs = [tensor.requires_grad_() for tensor in problem(4, 3)]

    def differentiable(*tensors: torch.Tensor) -> Step:
        return function(*tensors, GTOL)[:4]

    assert torch.autograd.gradcheck(differentiable, inputs)
    assert torch.autograd.gradgradcheck(differentiable, inputs)


@built
def test_operands_in_any_layout_and_without_all_gradients():
    y, m, g, lr, mu = problem(5, 4)
    y_t = y.T.contiguous().T.requires_grad_()
    result = step(y_t, m, g[:1].expand(5, 4), lr, mu, GTOL)
    (got,) = torch.autograd.grad(result.y.sum(), y_t)
    assert torch.equal(got, torch.ones_like(y))
    torch.testing.assert_close(result.y, plain_step(y, m, g[:1].expand(5, 4), lr, mu, GTOL).y)


@pytest.mark.parametrize("case", ["clip", "precision", "device"])
def test_what_the_c_code_cannot_do_goes_through_plain_operations(case):
    inputs, clip = problem(4, 3), None
    if case == "clip":
        clip = 0.5
    elif case == "precision":
        inputs = [*(tensor.bfloat16() for tensor in inputs)]
    else:
        inputs = [tensor.to("meta") for tensor in inputs]
    result = step(*(tensor.requires_grad_() for tensor in inputs), GTOL, clip)
    assert "StepByHand" not in type(result.y.grad_fn).__name__
    if clip:
        assert result.y.detach().abs().max() == clip
