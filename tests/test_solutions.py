"""Solutions for the auxiliary loss: shared layers, threads, activation checkpointing."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch_geometric.nn import GINConv

from pyg_ea import (
    Checkpointed,
    Truncated,
    auxiliary_loss,
    collect_solutions,
)
from tests.small_layer import (
    BATCH,
    CHANNELS,
    CLOSE,
    EDGES,
    NODES,
    aggregation,
    loss_of,
    nodes,
    sum_of_squares,
)

# The auxiliary loss ----------------------------------------------------------------------------


class Twice(nn.Module):
    """One layer used twice in a forward pass."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = aggregation()
        self.other = aggregation()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, BATCH) + self.layer(2 * x, BATCH) + self.other(x, BATCH)


def test_a_layer_used_twice_counts_twice() -> None:
    model = Twice()
    x = nodes()
    expected = loss_of(model.layer, x) + loss_of(model.layer, 2 * x) + loss_of(model.other, x)
    gradients = torch.autograd.grad(expected, list(model.parameters()))
    for _ in range(2):  # a new block starts anew
        with collect_solutions() as solutions:
            model(x)
        total = auxiliary_loss(solutions)
        torch.testing.assert_close(total, expected, **CLOSE)
        got = torch.autograd.grad(total, list(model.parameters()))
        for mine, theirs in zip(got, gradients, strict=True):
            torch.testing.assert_close(mine, theirs, **CLOSE)
    with collect_solutions() as solutions:
        model(x)
        with collect_solutions() as inner:
            model(x)
    assert (len(inner), len(solutions)) == (3, 6)
    torch.testing.assert_close(auxiliary_loss(solutions), 2 * expected, **CLOSE)


def test_two_convolutions_share_one_aggregation() -> None:
    shared = aggregation(CHANNELS)
    first, second = (GINConv(nn.Identity(), aggr=shared) for _ in range(2))

    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convs = nn.ModuleList([first, second])

        def forward(self, x: Tensor) -> Tensor:
            return self.convs[1](self.convs[0](x, EDGES), EDGES)

    model, x = Shared(), nodes()
    with collect_solutions() as solutions:
        model(x)
    total = auxiliary_loss(solutions)
    hidden = first(x, EDGES)
    parts = []
    for given in (x, hidden):
        solution = shared(given[EDGES[0]], EDGES[1], dim_size=NODES, return_solution=True)[1]
        parts.append(auxiliary_loss(solution))
    torch.testing.assert_close(total, parts[0] + parts[1], **CLOSE)


def test_threads_gather_their_own_solutions() -> None:
    layers = [aggregation() for _ in range(4)]
    inside = threading.Barrier(len(layers))

    def run(layer: nn.Module) -> tuple[int, Tensor]:
        with collect_solutions() as solutions:
            inside.wait()
            layer(nodes(), BATCH)
            inside.wait()
        return len(solutions), auxiliary_loss(solutions)

    with collect_solutions() as outside, ThreadPoolExecutor(len(layers)) as pool:
        results = list(pool.map(run, layers))
    assert not outside
    for layer, (number, loss) in zip(layers, results, strict=True):
        assert number == 1
        torch.testing.assert_close(loss, loss_of(layer, nodes()), **CLOSE)


def test_an_error_in_a_block_closes_it() -> None:
    with pytest.raises(RuntimeError, match="boom"), collect_solutions() as solutions:
        raise RuntimeError("boom")
    aggregation()(nodes(), BATCH)
    assert not solutions


def test_tied_weights_get_the_sum_of_their_gradients() -> None:
    tied = nn.ModuleList([aggregation(), aggregation()])
    tied[1].potential = tied[0].potential
    separate = nn.ModuleList([copy.deepcopy(layer) for layer in tied])
    for layers in (tied, separate):
        with collect_solutions() as solutions:
            loss = sum(
                sum_of_squares(layer((i + 1) * nodes(), BATCH)) for i, layer in enumerate(layers)
            )
        (loss + auxiliary_loss(solutions)).backward()
    for name, parameter in tied[0].potential.named_parameters():
        parts = [layer.potential.get_parameter(name).grad for layer in separate]
        torch.testing.assert_close(parameter.grad, parts[0] + parts[1], **CLOSE)


# Activation checkpointing ----------------------------------------------------------------------


def gradients_through(
    run: Callable[[nn.Module, Tensor], Tensor], auxiliary: bool, adjoint: object = None
) -> list[Tensor]:
    layer = aggregation(adjoint=adjoint)
    x = nodes().requires_grad_()
    with collect_solutions() as solutions:
        loss = sum_of_squares(run(layer, x))
    if auxiliary:
        loss = loss + auxiliary_loss(solutions)
    return list(torch.autograd.grad(loss, [x, *layer.parameters()], allow_unused=True))


@pytest.mark.parametrize("adjoint", [None, Checkpointed(), Truncated(2)])
@pytest.mark.parametrize("auxiliary", [False, True], ids=["task", "task and auxiliary"])
def test_activation_checkpointing(auxiliary, adjoint) -> None:
    def run(layer: nn.Module, x: Tensor) -> Tensor:
        return checkpoint(layer, x, BATCH, use_reentrant=False)

    expected = gradients_through(lambda layer, x: layer(x, BATCH), auxiliary, adjoint)
    for got, wanted in zip(gradients_through(run, auxiliary, adjoint), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def reentrant_gradients(auxiliary: bool) -> list[Tensor]:
    layer = aggregation()
    x = nodes().requires_grad_()
    with collect_solutions() as solutions:
        loss = sum_of_squares(checkpoint(layer, x, BATCH, use_reentrant=True))
    if auxiliary:
        loss = loss + auxiliary_loss(solutions)
    loss.backward()
    return [x.grad, *(p.grad for p in layer.parameters())]


def test_reentrant_checkpointing_has_the_same_gradients() -> None:
    expected = gradients_through(lambda layer, x: layer(x, BATCH), auxiliary=False)
    for got, wanted in zip(reentrant_gradients(auxiliary=False), expected, strict=True):
        torch.testing.assert_close(got, wanted, **CLOSE)


def test_reentrant_checkpointing_makes_the_auxiliary_loss_a_constant_and_says_so() -> None:
    with pytest.warns(UserWarning, match="auxiliary loss"):
        reentrant_gradients(auxiliary=True)


def test_a_constant_auxiliary_loss_is_said_where_gradients_are_enabled() -> None:
    layer = aggregation()
    with torch.no_grad():
        solution = layer(nodes(), BATCH, return_solution=True)[1]
        assert auxiliary_loss(solution) > 0  # no warning: gradients are disabled
    solution = layer.eval()(nodes(), BATCH, return_solution=True)[1]
    assert auxiliary_loss(solution).requires_grad  # no warning: it has a graph
    layer.train().requires_grad_(False)
    solution = layer(nodes(), BATCH, return_solution=True)[1]
    with pytest.warns(UserWarning, match="auxiliary loss"):
        auxiliary_loss(solution)
