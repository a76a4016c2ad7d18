"""Checks for potentials, aggregations and layers of your own, for any test framework.

Each function raises an ``AssertionError`` that names the check and says what was expected. All run
on a CPU, in a few seconds, and leave the random state alone::

    from pyg_ea.testing import check_aggregation, check_potential


    def test_distance():
        check_potential(Distance(), 16, 16)
        check_aggregation(lambda: EAAggregation(16, 16, potential=Distance()), 16)
"""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Collection
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck
from torch.func import functional_call

from pyg_ea.potentials import bind
from pyg_ea.segments import Segments

__all__ = ["SIZES", "batch", "check_aggregation", "check_module", "check_potential"]

Function = Callable[[Tensor, Tensor], Tensor]
Build = Callable[[], nn.Module]
Run = Callable[[nn.Module, torch.dtype], Tensor]
Call = Callable[[nn.Module, Tensor, Tensor | None, int | None], Tensor]

SIZES = [3, 0, 1, 5, 2, 0]
"""Sizes of the sets of :func:`batch`: an empty set inside, a single element, an empty set last."""
ROUNDING = 1e-12  # of float64, where products of blocks sum in another order
BF16 = 0.1  # of the result's scale: bf16 keeps 8 bits, and steps amplify


def batch(
    channels: int, dtype: torch.dtype = torch.float32, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """The elements of the checks, in random order: ``x [N, channels]``, ``index [N]``."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.repeat_interleave(torch.arange(len(SIZES)), torch.tensor(SIZES))
    index = index[torch.randperm(len(index), generator=generator)]
    x = torch.randn(len(index), channels, generator=generator, dtype=torch.float64)
    return (0.5 * x).to(dtype), index


def check_potential(potential: Function, x_channels: int, y_channels: int) -> None:
    r"""Checks a potential :math:`F(x, y)`, in float64 at random points.

    - ``potential(x, y)`` is one finite number for each element, also where there is none;
    - an element's number does not depend on the other elements;
    - bound to sets, its value is :math:`\Phi_s(y) = \sum_{i \in s} F(x_i, y_s)` and its gradient
      :math:`\partial \Phi_s / \partial y_s`, for instance in a closed form of your own;
    - this gradient is not zero, and its derivatives in x, y and all parameters, with which a layer
      is trained, agree with finite differences.

    Args:
        potential: a :class:`~pyg_ea.Potential`, another module or a function; it is copied.
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
        _require(values.shape == x.shape[:1], f"returned shape {list(values.shape)}, expected [N]")
        _require(values.isfinite().all(), "returned values that are not finite")
        _require(potential(x[:0], y[:0]).shape == (0,), "expected shape [0] for no element")
        alone = torch.cat([potential(x[i : i + 1], y[index[i : i + 1]]) for i in range(len(x))])
        _close(alone, values, "the value of an element depends on the other elements")

        bound = _Bound(potential, segments)
        value = bind(potential, x, segments).value(y)
        _close(value, segments.sum(values), "the bound value is not the sum over each set")
        leaf = y.clone().requires_grad_()
        total = potential(x, leaf[index]).sum()
        _require(total.requires_grad, "does not depend on y")
        (expected,) = torch.autograd.grad(total, leaf)
        _require(expected.isfinite().all() and expected.any(), "has no gradient in y")
        _close(bound(x, y), expected, "the bound gradient is not the derivative of the value")

        named = {name: p.detach().requires_grad_() for name, p in bound.named_parameters()}
        inputs = (x.requires_grad_(), leaf, *named.values())

        def gradient(x: Tensor, y: Tensor, *parameters: Tensor) -> Tensor:
            return functional_call(bound, dict(zip(named, parameters, strict=True)), (x, y))

        try:
            gradcheck(gradient, inputs, fast_mode=True)
        except RuntimeError as error:
            raise AssertionError(f"the gradient's derivatives are wrong: {error}") from error


def check_module(
    build: Build,
    run: Run,
    *,
    no_gradient: Collection[str] = (),
    skip: Collection[str] = (),
) -> None:
    """Checks what any layer owes its user.

    ==================================== ===========================================================
    ``output``                           finite, float32 for float32 input
    ``gradients``                        every trained parameter gets a finite one that is not zero
    ``reset_parameters``                 re-initialises every parameter
    ``deepcopy``, ``pickle``             after use: the same output, parameters not shared
    ``state_dict``                       loads into a new module with ``weights_only=True``
    ``no_grad``, ``inference_mode``      the same output; training goes on afterwards
    ``train_and_eval``                   the same output
    ``float64``                          agrees with float32
    ``bfloat16``, ``autocast``           finite, near float32, finite gradients
    ==================================== ===========================================================

    Args:
        build: makes a new module, in float32 on the CPU.
        run: calls the module on a fixed batch of that dtype and returns its output.
        no_gradient: beginnings of names of trained parameters that may get no gradient.
        skip: names of checks to leave out.

    Raises:
        AssertionError: if a check fails.
        ValueError: if ``skip`` names no check.
    """
    _run(MODULE_CHECKS, _Context(build, run, tuple(no_gradient)), skip)


def check_aggregation(
    build: Build,
    channels: int,
    *,
    call: Call = lambda module, x, index, num_sets: module(x, index, dim_size=num_sets),
    no_gradient: Collection[str] = (),
    skip: Collection[str] = (),
) -> None:
    """Checks an aggregation of sets: all that :func:`check_module` does, and these.

    ==================================== ===========================================================
    ``empty_sets``                       are zero, and no other set is
    ``num_sets``                         without it, empty sets at the end are left out
    ``no_element``, ``one_element``      finite values and gradients
    ``no_index``                         all elements are one set
    ``order_of_elements``                does not matter
    ``order_of_sets``                    is that of the output
    ``multiplicity``                     each element four times gives another result
    ``other_sets``                       of a batch change neither a set's result nor its gradient
    ==================================== ===========================================================

    Args:
        build: makes a new module, in float32 on the CPU.
        channels: number of channels of an element.
        call: how the module is called: ``module, x [N, channels], index [N], num_sets`` to
            ``[num_sets, Dy]``. By default as a PyG aggregation, ``module(x, index, dim_size=...)``.
        no_gradient: beginnings of names of trained parameters that may get no gradient.
        skip: names of checks to leave out.

    Raises:
        AssertionError: if a check fails.
        ValueError: if ``skip`` names no check.
    """

    def run(module: nn.Module, dtype: torch.dtype) -> Tensor:
        x, index = batch(channels, dtype)
        return call(module, x, index, len(SIZES))

    _run(AGGREGATION_CHECKS, _Context(build, run, tuple(no_gradient), channels, call), skip)


def _require(condition: Tensor | bool, message: str) -> None:
    if not condition:
        raise AssertionError(message)


def _close(got: Tensor, expected: Tensor, message: str) -> None:
    scale = float(expected.detach().abs().max().clamp(min=1))
    torch.testing.assert_close(
        got, expected, rtol=0, atol=ROUNDING * scale, msg=lambda text: f"{message}: {text}"
    )


def _have_finite_gradients(module: nn.Module) -> bool:
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())


class _Bound(nn.Module):
    """A potential bound to sets, as a module: its parameters can be replaced."""

    def __init__(self, potential: Function, segments: Segments) -> None:
        super().__init__()
        self.potential, self.segments = potential, segments

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return bind(self.potential, x, self.segments).gradient(y)


@dataclass(frozen=True)
class _Context:
    """What the checks of one module need."""

    build: Build
    run_in: Run
    no_gradient: tuple[str, ...]
    channels: int = 0
    call: Call | None = None

    def run(self, module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.run_in(module, dtype)

    def one_set(self, module: nn.Module, x: Tensor) -> Tensor:
        assert self.call is not None
        return self.call(module, x, torch.zeros(len(x), dtype=torch.long), 1)


def _near(half: Tensor, single: Tensor) -> None:
    _require(half.isfinite().all(), "the output is not finite")
    half, single = half.detach().float(), single.detach()
    difference = float((half - single).abs().max() / single.abs().max().clamp(min=0.1))
    _require(difference < BF16, f"differs from float32 by {difference:.2g} of its scale")


def _output(context: _Context, module: nn.Module) -> None:
    out = context.run(module)
    _require(out.isfinite().all(), "the output is not finite")
    _require(out.dtype == torch.float32, f"the output is {out.dtype} for float32")


def _gradients(context: _Context, module: nn.Module) -> None:
    out = context.run(module)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (weights * out).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not name.startswith(context.no_gradient):
            gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
            _require(gradient.isfinite().all(), f"the gradient of {name} is not finite")
            _require(gradient.any(), f"{name} has no gradient")


def _reset_parameters(context: _Context, module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(123.0)
    module.reset_parameters()  # type: ignore[operator]
    for name, parameter in module.named_parameters():
        _require((parameter != 123.0).all(), f"{name} kept its value")


def _deepcopy(context: _Context, module: nn.Module) -> None:
    out = context.run(module)
    twin = copy.deepcopy(module)
    _require(torch.equal(context.run(twin), out), "the copy gives another output")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    _require(torch.equal(context.run(module), out), "the copy shares parameters")


def _pickle(context: _Context, module: nn.Module) -> None:
    out = context.run(module)
    twin = pickle.loads(pickle.dumps(module))
    _require(torch.equal(context.run(twin), out), "the copy gives another output")


def _state_dict(context: _Context, module: nn.Module) -> None:
    out = context.run(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = context.build()
    other.load_state_dict(torch.load(file, weights_only=True))
    _require(torch.equal(context.run(other), out), "the loaded module gives another output")


def _no_grad(context: _Context, module: nn.Module) -> None:
    with_graph = context.run(module)
    with torch.no_grad():
        out = context.run(module)
    _require(not out.requires_grad, "the output keeps a graph")
    _require(torch.equal(out, with_graph), "the output is another without a graph")


def _inference_mode(context: _Context, module: nn.Module) -> None:
    with torch.inference_mode():
        out = context.run(module)
    again = context.run(module)
    _require(torch.equal(out, again.detach()), "the output is another in inference mode")
    again.sum().backward()
    _require(_have_finite_gradients(module), "gradients afterwards are not finite")


def _train_and_eval(context: _Context, module: nn.Module) -> None:
    same = torch.equal(context.run(module.eval()), context.run(module.train()))
    _require(same, "the output is another in eval mode")


def _float64(context: _Context, module: nn.Module) -> None:
    single = context.run(module)
    double = context.run(module.double(), torch.float64)
    _require(double.dtype == torch.float64, f"the output is {double.dtype} for float64")
    scale = double.abs().max().clamp(min=1)
    _require((single - double).abs().max() < 1e-3 * scale, "float64 gives another output")


def _bfloat16(context: _Context, module: nn.Module) -> None:
    single = context.run(module)
    half = context.run(module.bfloat16(), torch.bfloat16)
    _require(half.dtype == torch.bfloat16, f"the output is {half.dtype} for bfloat16")
    _near(half, single)


def _autocast(context: _Context, module: nn.Module) -> None:
    single = context.run(module)
    with torch.autocast(single.device.type, dtype=torch.bfloat16):
        half = context.run(module)
    _near(half, single)
    half.float().sum().backward()
    _require(_have_finite_gradients(module), "gradients are not finite")


def _empty_sets(context: _Context, module: nn.Module) -> None:
    for s, (out, size) in enumerate(zip(context.run(module), SIZES, strict=True)):
        expected = "not zero" if size else "zero"
        _require(bool(out.any()) == (size > 0), f"set {s} of size {size} should be {expected}")


def _num_sets(context: _Context, module: nn.Module) -> None:
    x, index = batch(context.channels)
    expected = context.run(module)[: int(index.max()) + 1]
    out = context.call(module, x, index, None)
    _require(torch.equal(out, expected), "the number of sets is not index.max() + 1 by default")


def _no_element(context: _Context, module: nn.Module) -> None:
    x, index = batch(context.channels)
    out = context.call(module, x[:0].requires_grad_(), index[:0], 3)
    _require(len(out) == 3 and not out.any(), "expected three rows of zeros for empty sets")
    out.sum().backward()
    _require(_have_finite_gradients(module), "gradients are not finite")
    _require(len(context.call(module, x[:0], index[:0], None)) == 0, "expected no row for no set")


def _one_element(context: _Context, module: nn.Module) -> None:
    out = context.one_set(module, batch(context.channels)[0][:1])
    _require(out.isfinite().all(), "the output is not finite")
    _require(out.any(), "the output is zero")


def _no_index(context: _Context, module: nn.Module) -> None:
    x, _ = batch(context.channels)
    same = torch.equal(context.call(module, x, None, None), context.one_set(module, x))
    _require(same, "without an index the result is not that of one set")


def _order_of_elements(context: _Context, module: nn.Module) -> None:
    x, index = batch(context.channels, torch.float64)
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(9))
    out = context.call(module.double(), x[order], index[order], len(SIZES))
    _close(out, context.run(module, torch.float64), "the order of the elements matters")


def _order_of_sets(context: _Context, module: nn.Module) -> None:
    x, index = batch(context.channels, torch.float64)
    order = torch.randperm(len(SIZES), generator=torch.Generator().manual_seed(9))
    out = context.call(module.double(), x, order[index], len(SIZES))
    _close(out[order], context.run(module, torch.float64), "the order of the sets is lost")


def _multiplicity(context: _Context, module: nn.Module) -> None:
    x, _ = batch(context.channels)
    difference = context.one_set(module, x.repeat(4, 1)) - context.one_set(module, x)
    _require(difference.abs().max() > 1e-3, "each element four times gives the same")


def _other_sets(context: _Context, module: nn.Module) -> None:
    """One set of 7 alone, and among 256 others of all sizes."""
    generator = torch.Generator().manual_seed(4)
    sizes = torch.randint(0, 9, (257,), generator=generator)
    sizes[100] = 7
    index = torch.repeat_interleave(torch.arange(257), sizes)
    index = index[torch.randperm(len(index), generator=generator)]
    x = 0.5 * torch.randn(len(index), context.channels, dtype=torch.float64, generator=generator)
    members = x[index == 100].requires_grad_()
    among = context.call(module.double(), x.requires_grad_(), index, 257)[100]
    alone = context.one_set(module, members)[0]
    _close(among, alone, "a set's result depends on its batch")
    weights = torch.linspace(-1, 1, len(alone), dtype=torch.float64)
    (grad,) = torch.autograd.grad(weights @ among, x)
    (expected,) = torch.autograd.grad(weights @ alone, members)
    _require(expected.any(), "the gradient in x is zero")
    _require(not grad[index != 100].any(), "a set's gradient reaches other sets")
    _close(grad[index == 100], expected, "a set's gradient depends on its batch")


Check = Callable[[_Context, nn.Module], None]
MODULE_CHECKS: dict[str, Check] = {
    "output": _output,
    "gradients": _gradients,
    "reset_parameters": _reset_parameters,
    "deepcopy": _deepcopy,
    "pickle": _pickle,
    "state_dict": _state_dict,
    "no_grad": _no_grad,
    "inference_mode": _inference_mode,
    "train_and_eval": _train_and_eval,
    "float64": _float64,
    "bfloat16": _bfloat16,
    "autocast": _autocast,
}
AGGREGATION_CHECKS: dict[str, Check] = {
    **MODULE_CHECKS,
    "empty_sets": _empty_sets,
    "num_sets": _num_sets,
    "no_element": _no_element,
    "one_element": _one_element,
    "no_index": _no_index,
    "order_of_elements": _order_of_elements,
    "order_of_sets": _order_of_sets,
    "multiplicity": _multiplicity,
    "other_sets": _other_sets,
}


def _run(checks: dict[str, Check], context: _Context, skip: Collection[str]) -> None:
    """Runs the checks of a table, each on a new module."""
    if unknown := set(skip).difference(checks):
        raise ValueError(f"no check is named {sorted(unknown)}; the names are {sorted(checks)}")
    for name, check in checks.items():
        if name in skip:
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                check(context, context.build())
        except AssertionError as error:
            raise AssertionError(f"check {name!r}: {error}") from error
