"""torch.compile: the same results, one graph, and eager where there is no compiler."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch import Tensor
from torch import _inductor as inductor
from torch._dynamo.utils import counters
from torch._inductor.utils import run_and_get_code

from pyg_ea import Checkpointed, EAAggregation, MeanPotential, NoPrior, Truncated, Unrolled

pytestmark = [
    # Dynamo looks at .grad of every input it traces, leaf or not.
    pytest.mark.filterwarnings(
        "ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning"
    ),
    # Inductor imports a module of torch that uses it.
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning"),
]

CHANNELS = 8
TOLERANCE = 1e-10  # float64: fused operations round differently
LAUNCHES = [(7, 6), (9, 7)]
"""Kernels of an inner step, forward and backward: generated ones, and products. In operations of
their own the elements' work takes some 40 and 110. The weights' gradients are six more products."""
SIZES = [(30, 4), (47, 6), (21, 9)]  # N, S

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, ("c++", "g++", "clang++"))), reason="no C++ compiler"
)


@pytest.fixture(autouse=True)
def _fresh_compiler():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def make(adjoint: object, steps: int = 3) -> EAAggregation:
    torch.manual_seed(0)
    return EAAggregation(CHANNELS, CHANNELS, steps=steps, adjoint=adjoint).double()


def batch(elements: int, segments: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(elements)
    x = torch.randn(elements, CHANNELS, dtype=torch.float64, generator=generator)
    return x.requires_grad_(), torch.randint(segments, (elements,), generator=generator)


def step(layer, x: Tensor, index: Tensor, segments: int, parameters) -> list[Tensor]:
    y = layer(x, index, dim_size=segments)
    return [y.detach(), *torch.autograd.grad(y.square().sum(), [x, *parameters])]


def check_equal(compiled, eager: EAAggregation, sizes=SIZES) -> None:
    """Compiled and eager agree on every size, gradients of x and of all parameters included."""
    parameters = list(eager.parameters())
    for elements, segments in sizes:
        x, index = batch(elements, segments)
        expected = step(eager, x, index, segments, parameters)
        assert all(g.abs().max() > 0 for g in expected)
        got = step(compiled, x, index, segments, list(compiled.parameters()))
        for mine, theirs in zip(got, expected, strict=True):
            atol = TOLERANCE * max(1.0, float(theirs.abs().max()))
            torch.testing.assert_close(mine, theirs, rtol=0, atol=atol)


@pytest.mark.skipif(
    torch.__version__ < "2.13", reason="torch 2.8 was seen to warn and to run uncompiled"
)
@needs_compiler
def test_compiled_in_place_equals_eager_for_every_adjoint() -> None:
    """One inductor graph each way for all sizes, numbers of steps, adjoints and grad modes."""
    compiled = make(Unrolled())
    compiled.compile(fullgraph=True)
    x, index = batch(*SIZES[0])
    with inductor.utils.fresh_cache():  # otherwise there may be no code to look at
        _, code = run_and_get_code(step, compiled, x, index, 4, list(compiled.parameters()))
    for source, (most_fused, most_products) in zip(code, LAUNCHES, strict=True):
        calls = source[source.index("def call(") :]
        assert calls.count("cpp_fused") <= most_fused
        assert calls.count("extern_kernels.") <= most_products
    for adjoint in (Unrolled(), Checkpointed(), Truncated(1)):
        for steps in (2, 3):
            compiled.adjoint, compiled.steps = adjoint, steps
            check_equal(compiled, make(adjoint, steps))

    x, index = batch(33, 5)
    expected = make(Unrolled())
    with torch.no_grad():
        torch.testing.assert_close(
            compiled(x, index, dim_size=5), expected(x, index, dim_size=5), rtol=0, atol=TOLERANCE
        )
    assert counters["stats"]["unique_graphs"] == 2


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")  # torch 2.8
@pytest.mark.parametrize("adjoint", [Unrolled(), Truncated(1)], ids=["unrolled", "truncated"])
def test_the_whole_layer_is_one_graph_for_all_batch_sizes(adjoint) -> None:
    """Traced through dynamo and autograd without code generation, which adds nothing here.

    Checkpointed and Implicit compile in place only: dynamo cannot trace what they do to backward.
    """
    one_graph = torch.__version__ >= "2.13"  # 2.8 was seen to break it, with equal results
    eager = make(adjoint, steps=2)
    compiled = torch.compile(eager, backend="aot_eager", fullgraph=one_graph, dynamic=True)
    check_equal(compiled, eager)
    if one_graph:
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]


def test_without_a_compiler_it_says_so_once_and_runs_uncompiled(monkeypatch) -> None:
    monkeypatch.setattr(inductor.config.cpp, "cxx", (None, "no-such-compiler"))
    layer = make(Unrolled())
    layer.compile()
    x, index = batch(*SIZES[0])
    x = x.detach()
    layer.requires_grad_(False)  # one attempt, forward only
    with pytest.warns(UserWarning, match=r"uncompiled: .*C\+\+ compiler") as caught:
        y = layer(x, index)
    assert len(caught) == 1
    assert "\n" not in str(caught[0].message)
    assert torch.equal(y, layer(x, index))
    torch.testing.assert_close(y, make(Unrolled())(x, index), rtol=0, atol=TOLERANCE)


def test_a_potential_without_closed_form_runs_uncompiled() -> None:
    layer = EAAggregation(CHANNELS, CHANNELS, potential=MeanPotential(), prior=NoPrior())
    with pytest.warns(UserWarning, match="MeanPotential has no closed-form gradient"):
        layer.compile()
    layer(torch.randn(5, CHANNELS))
    assert not counters["stats"]["unique_graphs"]
