"""Tracing is refused in one line; ``torch.export`` works."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn
from torch_geometric.nn import aggr

from pyg_ea import (
    EAAggregation,
    EAGlobalPool,
    NormedMultiAggregation,
)
from tests.small_layer import (
    BATCH,
    CHANNELS,
    CLOSE,
    EDGES,
    OUT,
    Network,
    Readout,
    nodes,
    with_own_potential,
)

# Tracing ---------------------------------------------------------------------------------------


def by_trace(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    torch.jit.trace(model, arguments, check_trace=False)


def by_script(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    torch.jit.script(model)


def by_onnx(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    torch.onnx.export(model, arguments, io.BytesIO(), dynamo=False)


def by_tensorboard(model: nn.Module, arguments: tuple[Tensor, ...]) -> None:
    tensorboard = pytest.importorskip("torch.utils.tensorboard._pytorch_graph")
    tensorboard.graph(model, arguments)  # what SummaryWriter.add_graph calls


@pytest.mark.filterwarnings("ignore")  # torch's deprecation of tracing, in several places
@pytest.mark.parametrize("called", [False, True], ids=["uncalled", "called"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
@pytest.mark.parametrize("tracer", [by_trace, by_script, by_onnx, by_tensorboard])
@pytest.mark.parametrize(
    ("build", "arguments"),
    [
        (Network, (nodes(torch.float32), EDGES, BATCH)),
        (Readout, (nodes(torch.float32),)),
        (lambda: EAGlobalPool(CHANNELS, OUT), (nodes(torch.float32), BATCH)),
        (lambda: EAAggregation(CHANNELS, OUT), (nodes(torch.float32), BATCH)),
    ],
    ids=["network", "readout", "pool", "layer"],
)
def test_tracing_is_refused_in_one_line(build, arguments, tracer, training, called) -> None:
    model = build().train(training)
    if called:
        model(*arguments)
    with pytest.raises(RuntimeError) as caught:
        tracer(model, arguments)
    text = str(caught.value).strip()
    assert "\n" not in text, text
    assert "torch.export" in text
    assert "torch.compile" in text
    assert model(*arguments).isfinite().all()  # the model goes on working


# torch.export ----------------------------------------------------------------------------------


class OfGraphs(nn.Module):
    """A network for a batch of graphs, of which something is known besides."""

    def __init__(self) -> None:
        super().__init__()
        self.network = Network()

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor, known: Tensor) -> Tensor:
        h = self.network.conv(x, edge_index).relu()
        pooled = self.network.pool(h, batch, known.shape[0])
        return torch.cat([self.network.head(pooled), known], dim=1)


def random_graphs(num_nodes: int, num_edges: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(num_nodes)
    x = torch.randn(num_nodes, CHANNELS, dtype=torch.float64, generator=generator)
    return x, torch.randint(num_nodes, (2, num_edges), generator=generator)


NUM_NODES, NUM_EDGES, NUM_GRAPHS = map(torch.export.Dim, ("nodes", "edges", "graphs"))


@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_export_with_dynamic_sizes(training) -> None:
    model = OfGraphs().double().train(training)
    shapes = ({0: NUM_NODES}, {1: NUM_EDGES}, {0: NUM_NODES}, {0: NUM_GRAPHS})
    arguments = nodes(), EDGES, BATCH, torch.ones(5, 1, dtype=torch.float64)
    exported = torch.export.export(model, arguments, dynamic_shapes=shapes).module()
    for num_nodes, num_edges, graphs in ((7, 9, 4), (11, 30, 2), (40, 100, 9)):
        x, edges = random_graphs(num_nodes, num_edges)
        batch = torch.arange(num_nodes) * graphs // num_nodes
        arguments = x, edges, batch, torch.ones(graphs, 1, dtype=torch.float64)
        torch.testing.assert_close(exported(*arguments), model(*arguments), **CLOSE)


def test_export_for_one_graph_with_dynamic_sizes() -> None:
    model = Network().double().eval()
    shapes = {"x": {0: NUM_NODES}, "edge_index": {1: NUM_EDGES}, "batch": None}
    exported = torch.export.export(model, (nodes(), EDGES, None), dynamic_shapes=shapes).module()
    for num_nodes, num_edges in ((7, 9), (11, 30), (40, 100)):
        x, edges = random_graphs(num_nodes, num_edges)
        torch.testing.assert_close(exported(x, edges, None), model(x, edges, None), **CLOSE)


def test_export_of_a_readout_beside_others() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            parts = [EAAggregation(CHANNELS, OUT, steps=3), aggr.SumAggregation()]
            self.pool = NormedMultiAggregation(parts, [OUT, CHANNELS])

        def forward(self, x: Tensor, batch: Tensor, size: int) -> Tensor:
            return self.pool(x, batch, dim_size=size)

    model = Model().double().eval()
    exported = torch.export.export(
        model, (nodes(), BATCH, 4), dynamic_shapes=({0: NUM_NODES}, {0: NUM_NODES}, None)
    ).module()
    x, batch = nodes()[:5], BATCH[:5]
    torch.testing.assert_close(exported(x, batch, 4), model(x, batch, 4), **CLOSE)


def test_export_refuses_a_gradient_by_autograd_in_one_line() -> None:
    layer = with_own_potential().eval()
    with pytest.raises(TypeError, match=r"gradient of their own, as ResNetPotential") as caught:
        torch.export.export(layer, (nodes(), BATCH), {"dim_size": 4}, strict=False)
    assert "\n" not in str(caught.value)
