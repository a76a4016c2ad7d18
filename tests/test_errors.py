"""A user's mistake is an error that says what was got, what was expected and what to do."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pyg_ea import (
    Checkpointed,
    EAAggregation,
    EAConv,
    EAGlobalPool,
    Implicit,
    L2Prior,
    NesterovSolver,
    ResNetPotential,
    Truncated,
)
from pyg_ea.diagnostics import DivergenceWarning
from pyg_ea.potentials import AttentionPotential, MaxPotential, MeanPotential, QuantilePotential

X = torch.ones(4, 3)
INDEX = torch.tensor([0, 0, 1, 1])


@pytest.fixture
def layer() -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(3, 5, steps=2)


def check_message(error: Exception, *words: str) -> None:
    """One line, holding each of the words."""
    text = str(error)
    assert "\n" not in text, text
    for word in words:
        assert word in text, f"{word!r} is not in: {text}"


BAD_INPUT = {  # name: (x, index, keywords, error, words of the message)
    "channels": (torch.ones(4, 2), INDEX, {}, ValueError, ["2 channels", "in_channels=3"]),
    "integer x": (X.long(), INDEX, {}, TypeError, ["torch.int64", "float"]),
    "one dimension": (torch.ones(4), INDEX, {}, ValueError, ["dim"]),
    "float64 x": (X.double(), INDEX, {}, TypeError, ["float64", "float32"]),
    "NaN": (X.where(X < 0, torch.nan), INDEX, {}, ValueError, ["12", "NaN"]),
    "infinity": (X * torch.inf, INDEX, {}, ValueError, ["infinite"]),
    "channels as dim": (X, INDEX[:3], {"dim": -1}, ValueError, ["dim=-1"]),
    "float index": (X, INDEX.float(), {}, TypeError, ["float32", "int64"]),
    "int32 index": (X, INDEX.int(), {}, TypeError, ["int32", "int64"]),
    "long index": (X, torch.zeros(5, dtype=torch.long), {}, ValueError, ["4", "[5]"]),
    "index matrix": (X, INDEX[:, None], {}, ValueError, ["[4]", "[4, 1]"]),
    "negative index": (X, INDEX - 1, {}, ValueError, ["-1", "0 or more"]),
    "negative index, dim_size": (X, INDEX - 1, {"dim_size": 3}, ValueError, ["-1", "0 or more"]),
    "index too large": (X, INDEX, {"dim_size": 1}, ValueError, ["1"]),
    "negative dim_size": (X[:0], INDEX[:0], {"dim_size": -1}, ValueError, ["dim_size", "-1"]),
    "falling ptr": (X, None, {"ptr": torch.tensor([0, 3, 2, 4])}, ValueError, ["ptr", "3, 2"]),
    "ptr too short": (X, None, {"ptr": torch.tensor([0, 3])}, ValueError, ["ptr", "4", "[0, 3]"]),
    "ptr not from 0": (X, None, {"ptr": torch.tensor([1, 4])}, ValueError, ["ptr", "[1, 4]"]),
    "float ptr": (X, None, {"ptr": torch.tensor([0.0, 4.0])}, TypeError, ["ptr", "float32"]),
    "ptr and dim_size": (
        X,
        None,
        {"ptr": torch.tensor([0, 4]), "dim_size": 3},
        ValueError,
        ["dim_size", "'3'", "'1'"],
    ),
    "ptr against index": (X, INDEX, {"ptr": torch.tensor([0, 1, 4])}, ValueError, ["ptr", "index"]),
}


@pytest.mark.parametrize(
    ("x", "index", "keywords", "error", "words"), BAD_INPUT.values(), ids=BAD_INPUT
)
def test_bad_input(layer, x, index, keywords, error, words) -> None:
    with pytest.raises(error) as caught:
        layer(x, index, **keywords)
    check_message(caught.value, *words)


def test_bad_input_leaves_the_last_solution(layer) -> None:
    layer(X, INDEX)
    solution = layer.solution
    with pytest.raises(ValueError, match="channels"):
        layer(torch.ones(4, 2), INDEX)
    assert layer.solution is solution


@pytest.mark.parametrize(
    "name", ["in_channels", "out_channels", "hidden_channels", "steps", "eval_steps"]
)
@pytest.mark.parametrize("module", [EAAggregation, EAGlobalPool])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-3, ValueError), (2.0, TypeError), ("5", TypeError), (True, TypeError)],
)
def test_sizes_and_steps_are_positive_integers(module, name, value, error) -> None:
    arguments = {"in_channels": 4, "out_channels": 4, name: value}
    with pytest.raises(error) as caught:
        module(**arguments)
    check_message(caught.value, name, repr(value))


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: NesterovSolver(lr=0.0), ["lr", "0.0", "positive"]),
        (lambda: NesterovSolver(lr=-0.1), ["lr", "-0.1", "positive"]),
        (lambda: NesterovSolver(lr=math.nan), ["lr", "nan"]),
        (lambda: NesterovSolver(lr=math.inf), ["lr", "inf"]),
        (lambda: NesterovSolver(momentum=1.0), ["momentum", "1.0", "(0, 1)"]),
        (lambda: NesterovSolver(momentum=-0.1), ["momentum", "-0.1", "(0, 1)"]),
        (lambda: NesterovSolver(momentum=0.0), ["momentum", "0.0", "trainable=False"]),
        (lambda: NesterovSolver(gtol=-1e-3), ["gtol", "-0.001"]),
        (lambda: NesterovSolver(gtol=math.nan), ["gtol", "nan"]),
        (lambda: NesterovSolver(clip=0.0), ["clip", "0.0", "positive"]),
        (lambda: NesterovSolver(clip=-1.0), ["clip", "-1.0", "positive"]),
        (lambda: L2Prior(0.0), ["weight", "0.0", "NoPrior"]),
        (lambda: L2Prior(-1.0), ["weight", "-1.0"]),
        (lambda: QuantilePotential(0.0), ["quantile", "0.0", "(0, 1)"]),
        (lambda: QuantilePotential(1.5), ["quantile", "1.5", "(0, 1)"]),
        (lambda: QuantilePotential([0.5, 1.0]), ["quantile", "[0.5, 1.0]", "(0, 1)"]),
        (lambda: QuantilePotential([]), ["quantile", "[]", "(0, 1)"]),
        (lambda: QuantilePotential(0.5, smoothing=0.0), ["smoothing", "0.0"]),
        (lambda: MaxPotential(0), ["max_count", "0"]),
        (lambda: Truncated(0), ["last", "0"]),
        (lambda: Implicit(damping=-1.0), ["damping", "-1.0"]),
        (lambda: Implicit(max_iterations=0), ["max_iterations", "0"]),
        (lambda: EAConv(4, 4, form="gat"), ["form", "'gat'", "gcn", "gin"]),
    ],
)
def test_arguments_out_of_range(build, words) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked below)
        build()
    check_message(caught.value, *words)


def test_truncated_counts_whole_steps() -> None:
    with pytest.raises(TypeError, match=r"last must be an integer, got 1\.5"):
        Truncated(1.5)


class Returns(nn.Module):
    """A potential or prior that returns what the test gives it."""

    def __init__(self, function) -> None:
        super().__init__()
        self.function = function

    def forward(self, *arguments: Tensor) -> Tensor:
        return self.function(*arguments)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda x, y: (x - y).square(), "[4, 3]"),
        (lambda x, y: (x - y).square().sum(), "[]"),
        (lambda x, y: (x - y).square().sum(dim=1, keepdim=True), "[4, 1]"),
    ],
    ids=["per channel", "one number", "column"],
)
def test_a_potential_of_the_wrong_shape(function, got) -> None:
    layer = EAAggregation(3, 3, steps=2, potential=Returns(function))
    with pytest.raises(ValueError, match="potential") as caught:
        layer(X, INDEX)
    check_message(caught.value, got, "[4]")


def test_a_prior_of_the_wrong_shape() -> None:
    layer = EAAggregation(3, 3, steps=2, prior=Returns(lambda y: y.square()))
    with pytest.raises(ValueError, match="prior") as caught:
        layer(X, INDEX)
    check_message(caught.value, "[2, 3]", "[2]")
    wrong = type("Wrong", (L2Prior,), {"forward": lambda self, y: y.square()})()
    with pytest.raises(ValueError, match=r"prior returned shape \[2, 3\]"):
        EAAggregation(3, 3, steps=2, prior=wrong)(X, INDEX)
    layer = EAAggregation(3, 3, steps=2, prior=lambda y: 0.0)
    with pytest.raises(ValueError, match=r"prior returned a float"):
        layer(X, INDEX)


@pytest.mark.parametrize(
    ("function", "got"),
    [
        (lambda n: 1.0, "returned a float"),
        (lambda n: n.new_ones(()), "shape []"),
        (lambda n: 1 / n[:, None], "shape [2, 1]"),
    ],
    ids=["float", "scalar", "column"],
)
def test_a_scaling_of_the_wrong_shape(function, got) -> None:
    layer = EAAggregation(3, 3, steps=2, scaling=function)
    with pytest.raises(ValueError, match="scaling") as caught:
        layer(X, INDEX)
    check_message(caught.value, got, "expected [2]")


def test_a_default_potential_for_other_sizes() -> None:
    with pytest.raises(ValueError, match="potential") as caught:
        EAAggregation(3, 5, potential=ResNetPotential(3, 4, 8))
    check_message(caught.value, "(3, 4)", "(3, 5)")


def test_a_potential_that_does_not_see_y() -> None:
    layer = EAAggregation(3, 3, steps=2, potential=Returns(lambda x, y: x.sum(dim=1)))
    with pytest.raises(ValueError, match="does not depend on y"):
        layer(X, INDEX)


@pytest.mark.parametrize(
    ("potential", "out_channels"),
    [
        (MeanPotential(), 5),
        (AttentionPotential(3), 3),
        (QuantilePotential([0.1, 0.3, 0.6, 0.9]), 3),
    ],
    ids=["mean", "attention", "quantiles"],
)
def test_channels_that_do_not_fit_the_potential(potential, out_channels) -> None:
    layer = EAAggregation(3, out_channels, steps=2, potential=potential)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 (the message is checked below)
        layer(X, INDEX)
    check_message(caught.value, "3", str(out_channels))


OTHER_KINDS = {  # arguments of a wrong kind: (arguments, words of the message)
    "adjoint": ({"adjoint": "implicit"}, ["adjoint", "Implicit()", "'implicit'"]),
    "adjoint class": ({"adjoint": Checkpointed}, ["adjoint", "Unrolled()", "Checkpointed"]),
    "prior": ({"prior": 0.1}, ["prior", "L2Prior(0.1)", "0.1"]),
    "prior class": ({"prior": L2Prior}, ["prior", "class L2Prior"]),
    "potential": ({"potential": "mean"}, ["potential", "(x [N, Dx], y [N, Dy]) -> [N]", "'mean'"]),
    "potential class": ({"potential": MeanPotential}, ["potential", "class MeanPotential"]),
    "solver": ({"solver": "nesterov"}, ["solver", "NesterovSolver", "'nesterov'"]),
    "solver class": ({"solver": NesterovSolver}, ["solver", "NesterovSolver"]),
    "scaling": ({"scaling": "log"}, ["scaling", "log_scaling", "'log'"]),
    "validate": ({"validate": "yes"}, ["validate", "True, False or None", "'yes'"]),
    "norm": ({"norm": "batch"}, ["norm", "torch.nn.LayerNorm", "'batch'"]),
    "norm module": ({"norm": nn.LayerNorm(3)}, ["norm", "torch.nn.LayerNorm itself"]),
    "norm function": ({"norm": lambda size: size}, ["norm", "torch.nn.LayerNorm"]),
}


@pytest.mark.parametrize(("arguments", "words"), OTHER_KINDS.values(), ids=OTHER_KINDS)
@pytest.mark.parametrize("module", [EAAggregation, EAGlobalPool])
def test_arguments_of_another_kind_are_refused_at_once(module, arguments, words) -> None:
    module = EAGlobalPool if "norm" in arguments else module
    with pytest.raises(TypeError) as caught:
        module(3, 3, **arguments)
    check_message(caught.value, *words)


@pytest.mark.parametrize("module", [EAAggregation, EAGlobalPool])
def test_a_width_beside_a_potential_is_refused(module) -> None:
    with pytest.raises(ValueError, match=r"hidden_channels .* no effect beside potential"):
        module(3, 3, hidden_channels=999, potential=MeanPotential())
    assert "hidden_channels" not in repr(module(3, 3, potential=MeanPotential()))


@pytest.mark.parametrize("integer", [np.int64, np.int32, torch.tensor])
def test_integers_of_numpy_and_torch_are_integers(integer) -> None:
    layer = EAAggregation(integer(3), integer(4), integer(5), integer(2), integer(6))
    assert layer(X).shape == (1, 4)
    sizes = (layer.in_channels, layer.out_channels, layer.steps, layer.eval_steps)
    assert all(type(size) is int for size in sizes)


DIVERGING = {  # L = 2 log2(n + 1), so these step sizes are far beyond 1.36 / L
    "slowly": (1.0, 8),
    "to infinity": (50.0, 40),
}


@pytest.mark.parametrize(("lr", "steps"), DIVERGING.values(), ids=DIVERGING)
@pytest.mark.parametrize("adjoint", [None, Checkpointed()], ids=["unrolled", "checkpointed"])
def test_a_diverging_inner_loop_is_reported(lr, steps, adjoint) -> None:
    layer = EAAggregation(
        3, 3, steps=steps, potential=MeanPotential(), solver=NesterovSolver(lr=lr), adjoint=adjoint
    )
    x = torch.cat([1 + torch.arange(12.0).view(4, 3), torch.zeros(2, 3)])  # a set at its minimum
    index = torch.tensor([0, 0, 1, 1, 2, 2])
    with pytest.warns(DivergenceWarning, match="lower the step size") as caught:
        layer(x, index, dim_size=4)
    assert len(caught) == 1
    assert caught[0].filename == __file__, "the warning points at the caller"
    assert layer.solution.diverged.tolist() == [True, True, False, False]
    report = layer.diagnose(x, index, dim_size=4)
    assert report.solution.diverged.tolist() == [True, True, False, False]
    assert "2 diverged" in str(report)


@pytest.mark.parametrize(("lr", "steps"), DIVERGING.values(), ids=DIVERGING)
def test_divergence_is_a_value_and_its_warning_is_optional(lr, steps) -> None:
    solver = NesterovSolver(lr=lr)
    layer = EAAggregation(
        3, 3, steps=steps, potential=MeanPotential(), solver=solver, validate=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _, solution = layer(1 + X, INDEX, return_solution=True)
    assert solution.diverged.all()


def test_a_healthy_inner_loop_is_not_reported() -> None:
    layer = EAAggregation(3, 3, steps=15, potential=MeanPotential())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        layer(torch.arange(12.0).view(4, 3), INDEX)
    assert not layer.solution.diverged.any()


def test_descending_from_a_flat_start_is_not_reported() -> None:
    """The gradient of a double well grows a hundredfold on the way down: that is no divergence."""

    def double_well(x: Tensor, y: Tensor) -> Tensor:
        return ((y - x).square() - 1).square().sum(dim=1) / 8

    layer = EAAggregation(
        3, 3, steps=60, potential=Returns(double_well), solver=NesterovSolver(lr=0.1)
    )
    x = torch.full((1, 3), 0.01)  # almost on the crest between the wells
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for steps in range(1, 61):
            layer.steps = steps
            layer(x)
            assert not layer.solution.diverged.any(), f"after {steps} steps"
    assert layer.solution.y.abs().min() > 0.5
