"""Checks of layers and aggregations: two tables of functions."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable, Collection
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pyg_ea.testing.batch import SIZES, batch, close, require

Build = Callable[[], nn.Module]
Run = Callable[[nn.Module, torch.dtype], Tensor]
Call = Callable[[nn.Module, Tensor, Tensor | None, int | None], Tensor]


BF16 = 0.1  # of the result's scale: bf16 keeps 8 bits, and steps amplify


def _as_aggregation(
    module: nn.Module, x: Tensor, index: Tensor | None, num_sets: int | None
) -> Tensor:
    return module(x, index, dim_size=num_sets)


def check_module(
    build: Build, run: Run, *, no_gradient: Collection[str] = (), skip: Collection[str] = ()
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

    def run_as(module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        return run(module, dtype)

    _run(MODULE_CHECKS, _Case(build, run_as, tuple(no_gradient)), skip)


def check_aggregation(
    build: Build,
    channels: int,
    *,
    call: Call = _as_aggregation,
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
    ``order_of_sets``                    is kept in the output
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

    def run(module: nn.Module, dtype: torch.dtype = torch.float32) -> Tensor:
        x, index = batch(channels, dtype)
        return call(module, x, index, len(SIZES))

    _run(AGGREGATION_CHECKS, _Case(build, run, tuple(no_gradient), channels, call), skip)


def _have_finite_gradients(module: nn.Module) -> bool:
    return all(p.grad is None or bool(p.grad.isfinite().all()) for p in module.parameters())


class _Case(NamedTuple):
    """A module to check, and how to call it on the batch and on one set."""

    build: Build
    run: Callable[..., Tensor]
    no_gradient: tuple[str, ...]
    channels: int = 0
    call: Call = _as_aggregation

    def one_set(self, module: nn.Module, x: Tensor) -> Tensor:
        return self.call(module, x, torch.zeros(len(x), dtype=torch.long), 1)


def _near(half: Tensor, single: Tensor) -> None:
    require(half.isfinite().all(), "the output is not finite")
    half, single = half.detach().float(), single.detach()
    difference = float((half - single).abs().max() / single.abs().max().clamp(min=0.1))
    require(difference < BF16, f"differs from float32 by {difference:.2g} of its scale")


def _output(case: _Case, module: nn.Module) -> None:
    out = case.run(module)
    require(out.isfinite().all(), "the output is not finite")
    require(out.dtype == torch.float32, f"the output is {out.dtype} for float32")


def _gradients(case: _Case, module: nn.Module) -> None:
    out = case.run(module)
    weights = torch.linspace(-1, 1, out.numel()).view_as(out)
    (weights * out).sum().backward()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad and not name.startswith(case.no_gradient):
            gradient = torch.zeros(()) if parameter.grad is None else parameter.grad
            require(gradient.isfinite().all(), f"the gradient of {name} is not finite")
            require(gradient.any(), f"{name} has no gradient")


def _reset_parameters(case: _Case, module: nn.Module) -> None:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(123.0)
    module.reset_parameters()  # type: ignore[operator]
    for name, parameter in module.named_parameters():
        require((parameter != 123.0).all(), f"{name} kept its value")


def _deepcopy(case: _Case, module: nn.Module) -> None:
    out = case.run(module)
    twin = copy.deepcopy(module)
    require(torch.equal(case.run(twin), out), "the copy gives another output")
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.add_(0.5)
    require(torch.equal(case.run(module), out), "the copy shares parameters")


def _pickle(case: _Case, module: nn.Module) -> None:
    out = case.run(module)
    twin = pickle.loads(pickle.dumps(module))
    require(torch.equal(case.run(twin), out), "the copy gives another output")


def _state_dict(case: _Case, module: nn.Module) -> None:
    out = case.run(module)
    file = io.BytesIO()
    torch.save(module.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    other = case.build()
    other.load_state_dict(torch.load(file, weights_only=True))
    require(torch.equal(case.run(other), out), "the loaded module gives another output")


def _no_grad(case: _Case, module: nn.Module) -> None:
    with_graph = case.run(module)
    with torch.no_grad():
        out = case.run(module)
    require(not out.requires_grad, "the output keeps a graph")
    require(torch.equal(out, with_graph), "the output is another without a graph")


def _inference_mode(case: _Case, module: nn.Module) -> None:
    with torch.inference_mode():
        out = case.run(module)
    again = case.run(module)
    require(torch.equal(out, again.detach()), "the output is another in inference mode")
    again.sum().backward()
    require(_have_finite_gradients(module), "gradients afterwards are not finite")


def _train_and_eval(case: _Case, module: nn.Module) -> None:
    same = torch.equal(case.run(module.eval()), case.run(module.train()))
    require(same, "the output is another in eval mode")


def _float64(case: _Case, module: nn.Module) -> None:
    single = case.run(module)
    double = case.run(module.double(), torch.float64)
    require(double.dtype == torch.float64, f"the output is {double.dtype} for float64")
    scale = double.abs().max().clamp(min=1)
    require((single - double).abs().max() < 1e-3 * scale, "float64 gives another output")


def _bfloat16(case: _Case, module: nn.Module) -> None:
    single = case.run(module)
    half = case.run(module.bfloat16(), torch.bfloat16)
    require(half.dtype == torch.bfloat16, f"the output is {half.dtype} for bfloat16")
    _near(half, single)


def _autocast(case: _Case, module: nn.Module) -> None:
    single = case.run(module)
    with torch.autocast(single.device.type, dtype=torch.bfloat16):
        half = case.run(module)
    _near(half, single)
    half.float().sum().backward()
    require(_have_finite_gradients(module), "gradients are not finite")


def _empty_sets(case: _Case, module: nn.Module) -> None:
    for s, (out, size) in enumerate(zip(case.run(module), SIZES, strict=True)):
        expected = "not zero" if size else "zero"
        require(bool(out.any()) == (size > 0), f"set {s} of size {size} should be {expected}")


def _num_sets(case: _Case, module: nn.Module) -> None:
    x, index = batch(case.channels)
    expected = case.run(module)[: int(index.max()) + 1]
    out = case.call(module, x, index, None)
    require(torch.equal(out, expected), "the number of sets is not index.max() + 1 by default")


def _no_element(case: _Case, module: nn.Module) -> None:
    x, index = batch(case.channels)
    out = case.call(module, x[:0].requires_grad_(), index[:0], 3)
    require(len(out) == 3 and not out.any(), "expected three rows of zeros for empty sets")
    out.sum().backward()
    require(_have_finite_gradients(module), "gradients are not finite")
    require(len(case.call(module, x[:0], index[:0], None)) == 0, "expected no row for no set")


def _one_element(case: _Case, module: nn.Module) -> None:
    out = case.one_set(module, batch(case.channels)[0][:1])
    require(out.isfinite().all(), "the output is not finite")
    require(out.any(), "the output is zero")


def _no_index(case: _Case, module: nn.Module) -> None:
    x, _ = batch(case.channels)
    same = torch.equal(case.call(module, x, None, None), case.one_set(module, x))
    require(same, "without an index the result is not that of one set")


def _order_of_elements(case: _Case, module: nn.Module) -> None:
    x, index = batch(case.channels, torch.float64)
    order = torch.randperm(len(index), generator=torch.Generator().manual_seed(9))
    out = case.call(module.double(), x[order], index[order], len(SIZES))
    close(out, case.run(module, torch.float64), "the order of the elements matters")


def _order_of_sets(case: _Case, module: nn.Module) -> None:
    x, index = batch(case.channels, torch.float64)
    order = torch.randperm(len(SIZES), generator=torch.Generator().manual_seed(9))
    out = case.call(module.double(), x, order[index], len(SIZES))
    close(out[order], case.run(module, torch.float64), "the order of the sets is lost")


def _multiplicity(case: _Case, module: nn.Module) -> None:
    x, _ = batch(case.channels)
    difference = case.one_set(module, x.repeat(4, 1)) - case.one_set(module, x)
    require(difference.abs().max() > 1e-3, "each element four times gives the same")


def _other_sets(case: _Case, module: nn.Module) -> None:
    """One set of 7 alone, and among 256 others of all sizes."""
    generator = torch.Generator().manual_seed(4)
    sizes = torch.randint(0, 9, (257,), generator=generator)
    sizes[100] = 7
    index = torch.repeat_interleave(torch.arange(257), sizes)
    index = index[torch.randperm(len(index), generator=generator)]
    x = 0.5 * torch.randn(len(index), case.channels, dtype=torch.float64, generator=generator)
    members = x[index == 100].requires_grad_()
    among = case.call(module.double(), x.requires_grad_(), index, 257)[100]
    alone = case.one_set(module, members)[0]
    close(among, alone, "a set's result depends on its batch")
    weights = torch.linspace(-1, 1, len(alone), dtype=torch.float64)
    (grad,) = torch.autograd.grad(weights @ among, x)
    (expected,) = torch.autograd.grad(weights @ alone, members)
    require(expected.any(), "the gradient in x is zero")
    require(not grad[index != 100].any(), "a set's gradient reaches other sets")
    close(grad[index == 100], expected, "a set's gradient depends on its batch")


Check = Callable[[_Case, nn.Module], None]


def _table(*checks: Check) -> dict[str, Check]:
    return {check.__name__.lstrip("_"): check for check in checks}


# fmt: off
MODULE_CHECKS = _table(
    _output, _gradients, _reset_parameters, _deepcopy, _pickle, _state_dict, _no_grad,
    _inference_mode, _train_and_eval, _float64, _bfloat16, _autocast,
)
AGGREGATION_CHECKS = MODULE_CHECKS | _table(
    _empty_sets, _num_sets, _no_element, _one_element, _no_index, _order_of_elements,
    _order_of_sets, _multiplicity, _other_sets,
)
# fmt: on


def _run(checks: dict[str, Check], case: _Case, skip: Collection[str]) -> None:
    """Runs the checks of a table, each on a new module."""
    if unknown := set(skip).difference(checks):
        raise ValueError(f"no check is named {sorted(unknown)}; the names are {sorted(checks)}")
    for name, check in checks.items():
        if name in skip:
            continue
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                check(case, case.build())
        except AssertionError as error:
            raise AssertionError(f"check {name!r}: {error}") from error
