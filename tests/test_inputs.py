"""Kinds of index, edges, elements and devices that users pass to a layer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch_geometric import EdgeIndex, Index
from torch_geometric.nn import GINConv, GINEConv, MultiAggregation, SAGEConv

from pyg_ea import (
    Checkpointed,
    EAConv,
    EAGlobalPool,
    NormedMultiAggregation,
    Truncated,
    auxiliary_loss,
    solve_backend,
)
from tests.small_layer import (
    BACKENDS,
    BATCH,
    CHANNELS,
    CLOSE,
    EDGES,
    NODES,
    OUT,
    aggregation,
    close,
    nodes,
    sum_of_squares,
)

# Index and EdgeIndex ---------------------------------------------------------------------------

SET_MODULES: dict[str, Callable[[], nn.Module]] = {
    "EAAggregation": aggregation,
    "EAGlobalPool": lambda: EAGlobalPool(CHANNELS, OUT, steps=4),
    "NormedMultiAggregation": lambda: NormedMultiAggregation(
        [aggregation(), "mean"], [OUT, CHANNELS]
    ),
    "MultiAggregation": lambda: MultiAggregation([aggregation(), "mean"]),
    "eval mode": lambda: aggregation().eval(),
    "checkpointed": lambda: aggregation(adjoint=Checkpointed()),
    "truncated": lambda: aggregation(adjoint=Truncated(2)),
}
INDICES = {
    "unsorted": Index(BATCH),
    "with size": Index(BATCH, dim_size=4),
    "sorted": Index(BATCH.sort().values, is_sorted=True),
    "sorted with size": Index(BATCH.sort().values, dim_size=4, is_sorted=True),
    "row of an EdgeIndex": EdgeIndex(torch.stack([BATCH, BATCH]))[1],
    "strided view": torch.stack([BATCH, BATCH], dim=1)[:, 0],
    "expanded": torch.tensor([3]).expand(NODES),
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
@pytest.mark.parametrize("build", SET_MODULES.values(), ids=SET_MODULES)
def test_kinds_of_index(build, index) -> None:
    module = build().double()
    plain = index.as_tensor() if isinstance(index, Index) else index.clone()
    results = []
    for given in (index, plain):
        x = nodes().requires_grad_()
        out = module(x, given)
        gradients = torch.autograd.grad(sum_of_squares(out), [x, *module.parameters()])
        results.append((out, *gradients))
    assert type(results[0][0]) is Tensor
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


@pytest.mark.parametrize("backend", BACKENDS)
def test_kinds_of_index_in_every_implementation(backend) -> None:
    layer = aggregation()
    expected = layer(nodes(), BATCH)
    with solve_backend(backend):
        torch.testing.assert_close(layer(nodes(), Index(BATCH)), expected, **CLOSE)


def test_diagnose_takes_an_index() -> None:
    layer = aggregation()
    expected = layer.diagnose(nodes(), BATCH)
    got = layer.diagnose(nodes(), Index(BATCH))
    torch.testing.assert_close(got.energy_after, expected.energy_after)
    assert str(got) == str(expected)


CONVOLUTIONS: dict[str, Callable[[], nn.Module]] = {
    "GINConv": lambda: GINConv(nn.Linear(CHANNELS, OUT), aggr=aggregation(CHANNELS)),
    "SAGEConv": lambda: SAGEConv(CHANNELS, OUT, aggr=aggregation(CHANNELS)),
    "SAGEConv, two": lambda: SAGEConv(CHANNELS, OUT, aggr=["mean", aggregation(CHANNELS)]),
    "EAConv gin": lambda: EAConv(CHANNELS, OUT),
    "EAConv gcn": lambda: EAConv(CHANNELS, OUT, "gcn"),
    "EAConv in GINConv's place": lambda: EAConv(CHANNELS, OUT, aggr=aggregation(CHANNELS)),
}
BY_ROW, BY_COLUMN = (EDGES[:, EDGES[i].argsort(stable=True)] for i in (0, 1))
SQUARE = (NODES, NODES)
EDGE_INDICES = {
    "unsorted": EdgeIndex(EDGES),
    "with size": EdgeIndex(EDGES, sparse_size=SQUARE),
    "by row": EdgeIndex(BY_ROW, sort_order="row", sparse_size=SQUARE),
    "by column": EdgeIndex(BY_COLUMN, sort_order="col", sparse_size=SQUARE),
    "by column, cached": EdgeIndex(BY_COLUMN, sort_order="col", sparse_size=SQUARE).fill_cache_(),
}


@pytest.mark.parametrize("edges", EDGE_INDICES.values(), ids=EDGE_INDICES)
@pytest.mark.parametrize("build", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_kinds_of_edge_index(build, edges) -> None:
    conv = build().double()
    results = []
    for given in (edges, EDGES):
        x = nodes().requires_grad_()
        out = conv(x, given)
        results.append((out, *torch.autograd.grad(sum_of_squares(out), [x, *conv.parameters()])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)


def test_edge_index_with_edge_features() -> None:
    torch.manual_seed(0)
    edge_attr = torch.randn(EDGES.shape[1], 3, dtype=torch.float64)
    for conv in (
        GINEConv(nn.Linear(CHANNELS, OUT), edge_dim=3, aggr=aggregation(CHANNELS)).double(),
        EAConv(CHANNELS, OUT, edge_dim=3).double(),
    ):
        expected = conv(nodes(), EDGES, edge_attr)
        torch.testing.assert_close(conv(nodes(), EdgeIndex(EDGES), edge_attr), expected, **CLOSE)


# Kinds of elements -----------------------------------------------------------------------------


class Tagged(Tensor):
    """A subclass of Tensor that shares its memory."""


ELEMENTS: dict[str, Callable[[Tensor], Tensor]] = {
    "parameter": nn.Parameter,
    "subclass": lambda x: x.as_subclass(Tagged),
    "column-major": lambda x: x.T.contiguous().T,
    "strided": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
    "view with offset": lambda x: torch.cat([x[:1], x])[1:],
    "conjugate view": lambda x: torch.complex(x, x).conj().real,
    "negated view": lambda x: torch.complex(x, -x).conj().imag,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ELEMENTS.values(), ids=ELEMENTS)
def test_kinds_of_elements(kind, backend) -> None:
    layer = aggregation()
    expected = layer(nodes(), BATCH)
    with solve_backend(backend):
        torch.testing.assert_close(
            layer(kind(nodes()), BATCH).as_subclass(Tensor), expected, **CLOSE
        )


def test_one_row_for_all_elements() -> None:
    layer = aggregation()
    row = nodes()[:1]
    expected = layer(row.repeat(NODES, 1), BATCH)
    torch.testing.assert_close(layer(row.expand(NODES, -1), BATCH), expected, **CLOSE)


@pytest.mark.parametrize(
    "x",
    [nodes().numpy(), nodes().to_sparse(), nodes().tolist(), None],
    ids=["numpy", "sparse", "list", "none"],
)
def test_elements_that_are_refused(x) -> None:
    with pytest.raises((TypeError, ValueError, RuntimeError, AttributeError)) as caught:
        aggregation()(x, BATCH)
    assert str(caught.value)


# Implementations -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_default_device(backend) -> None:
    layer, x = aggregation(), nodes().requires_grad_()
    expected = layer(x, BATCH)
    gradients = torch.autograd.grad(expected.sum(), [x, *layer.parameters()])
    with torch.device("meta"), solve_backend(backend):
        y = layer(x, BATCH)
        got = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
    close((y, *got), (expected, *gradients))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_that_is_a_negated_view(backend) -> None:
    layer = aggregation()
    weight = layer.potential.norm1.weight.detach()
    negated = {"potential.norm1.weight": torch._neg_view(-weight)}
    with solve_backend(backend):
        close(functional_call(layer, negated, (nodes(), BATCH)), layer(nodes(), BATCH))


def test_an_unknown_implementation_is_refused() -> None:
    with pytest.raises(ValueError, match="native"), solve_backend("cuda"):
        pass


@pytest.mark.parametrize("backend", BACKENDS)
def test_implementations_agree(backend) -> None:
    results = []
    for name in ("plain", backend):
        layer = aggregation()
        x = nodes().requires_grad_()
        with solve_backend(name):
            out, solution = layer(x, BATCH, return_solution=True)
            loss = sum_of_squares(out) + auxiliary_loss(solution) + auxiliary_loss(solution, "path")
            results.append((out, *torch.autograd.grad(loss, [x, *layer.parameters()])))
    for got, expected in zip(*results, strict=True):
        torch.testing.assert_close(got, expected, **CLOSE)
