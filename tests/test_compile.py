"""torch.compile: the same results, from one graph."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.utils import counters

from pyg_ea import (
    EAAggregation,
    EAGlobalPool,
    Truncated,
    Unrolled,
    auxiliary_loss,
    collect_solutions,
)

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
SIZES = [(30, 4), (47, 6), (21, 9)]  # N, S

ONE_GRAPH = torch.__version__ >= "2.13"  # 2.8 was seen to break it, with equal results
needs_one_graph = pytest.mark.skipif(not ONE_GRAPH, reason="torch 2.8 was seen to break the graph")


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


@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace:UserWarning")  # torch 2.8
@pytest.mark.parametrize("adjoint", [Unrolled(), Truncated(1)], ids=["unrolled", "truncated"])
def test_the_whole_layer_is_one_graph_for_all_batch_sizes(adjoint) -> None:
    """Traced through dynamo and autograd without code generation, which adds nothing here.

    Not Checkpointed and Implicit: dynamo cannot trace their backward.
    """
    eager = make(adjoint, steps=2)
    compiled = torch.compile(eager, backend="aot_eager", fullgraph=ONE_GRAPH, dynamic=True)
    check_equal(compiled, eager)
    if ONE_GRAPH:
        assert counters["stats"]["unique_graphs"] == 1
        assert not counters["graph_break"]


class OwnPotential(nn.Module):
    """A potential without a closed form."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * CHANNELS, 5)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return torch.tanh(self.linear(torch.cat([x, y], dim=-1))).square().sum(dim=-1)


@needs_one_graph
@pytest.mark.parametrize(
    "own", [{"potential": OwnPotential()}, {"prior": lambda y: y.pow(4).sum(dim=-1)}]
)
def test_training_with_a_gradient_by_autograd(own) -> None:
    torch.manual_seed(0)
    eager = EAAggregation(CHANNELS, CHANNELS, steps=2, **own).double()
    check_equal(torch.compile(eager, backend="aot_eager", fullgraph=True), eager, SIZES[:1])


class Model(nn.Module):
    """One layer called twice, and another."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.pool = EAGlobalPool(CHANNELS, CHANNELS, steps=2)
        self.other = EAGlobalPool(CHANNELS, CHANNELS, steps=2)

    def forward(self, x: Tensor, index: Tensor, segments: int) -> Tensor:
        return self.other(self.pool(x, index, segments) + self.pool(2 * x, index, segments))


def auxiliary_gradients(model: nn.Module, parameters) -> tuple[int, list[Tensor]]:
    x, index = batch(*SIZES[0])
    with collect_solutions() as solutions:
        y = model(x, index, SIZES[0][1])
    loss = y.square().sum() + auxiliary_loss(solutions)
    return len(solutions), list(torch.autograd.grad(loss, [x, *parameters]))


@needs_one_graph
def test_solutions_are_collected_from_compiled_code() -> None:
    eager = Model().double()
    parameters = list(eager.parameters())
    compiled = torch.compile(eager, backend="aot_eager", fullgraph=True)
    number, expected = auxiliary_gradients(eager, parameters)
    assert number == 3
    for _ in range(2):
        number, got = auxiliary_gradients(compiled, parameters)
        assert number == 3
        for mine, theirs in zip(got, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=TOLERANCE, atol=TOLERANCE)
    x, index = batch(*SIZES[0])
    compiled(x, index, SIZES[0][1])  # no block, nothing collected
    assert not eager.pool.solution.y.requires_grad


@needs_one_graph
def test_a_block_inside_compiled_code() -> None:
    model = Model().double()
    x, index = batch(*SIZES[0])

    def loss(x: Tensor) -> Tensor:
        with collect_solutions() as solutions:
            y = model(x, index, SIZES[0][1])
        return y.sum() + auxiliary_loss(solutions)

    expected = loss(x)
    got = torch.compile(loss, backend="aot_eager", fullgraph=True)(x)
    torch.testing.assert_close(got, expected, rtol=TOLERANCE, atol=TOLERANCE)
