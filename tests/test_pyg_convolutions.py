"""The layer as ``aggr=`` of PyG's convolutions: the values that PyG's own mean gives."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch_geometric.nn as pyg
from torch import Tensor, nn
from torch_geometric.nn.aggr import Aggregation

from pyg_ea import EAAggregation, NesterovSolver, SumEAAggregation
from pyg_ea.energy import NoPrior, mean_scaling
from pyg_ea.potentials import MeanPotential

N, D, OUT, E = 6, 4, 8, 12
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(N, D, dtype=torch.float64, generator=GENERATOR)
POSITIONS = torch.randn(N, 3, dtype=torch.float64, generator=GENERATOR)
NORMALS = nn.functional.normalize(POSITIONS.flip(0), dim=1)
EDGES = torch.randint(N - 1, (2, E), generator=GENERATOR)  # the last node has no neighbour
FEATURES = torch.rand(E, 3, dtype=torch.float64, generator=GENERATOR)
KINDS = torch.arange(E) % 2


def linear(inputs: int, outputs: int = OUT) -> nn.Module:
    return nn.Linear(inputs, outputs)


Build = Callable[..., nn.Module]
CONVOLUTIONS: dict[str, tuple[Build, int, tuple[object, ...]]] = {
    # name: (builder, size of a message, arguments after x)
    "SimpleConv": (lambda aggr: pyg.SimpleConv(aggr), D, (EDGES,)),
    "GCNConv": (lambda aggr: pyg.GCNConv(D, OUT, aggr=aggr), OUT, (EDGES,)),
    "ChebConv": (lambda aggr: pyg.ChebConv(D, OUT, 2, aggr=aggr), D, (EDGES,)),
    "SAGEConv": (lambda aggr: pyg.SAGEConv(D, OUT, aggr=aggr), D, (EDGES,)),
    "GraphConv": (lambda aggr: pyg.GraphConv(D, OUT, aggr=aggr), D, (EDGES,)),
    "GatedGraphConv": (lambda aggr: pyg.GatedGraphConv(OUT, 2, aggr=aggr), OUT, (EDGES,)),
    "ResGatedGraphConv": (lambda aggr: pyg.ResGatedGraphConv(D, OUT, aggr=aggr), OUT, (EDGES,)),
    "GATConv": (lambda aggr: pyg.GATConv(D, OUT, aggr=aggr), OUT, (EDGES,)),
    "GATConv-heads": (lambda aggr: pyg.GATConv(D, OUT, heads=2, aggr=aggr), OUT, (EDGES,)),
    "GATConv-mean-of-heads": (
        lambda aggr: pyg.GATConv(D, OUT, heads=3, concat=False, aggr=aggr),
        OUT,
        (EDGES,),
    ),
    "GATv2Conv": (lambda aggr: pyg.GATv2Conv(D, OUT, heads=2, aggr=aggr), OUT, (EDGES,)),
    "TransformerConv": (
        lambda aggr: pyg.TransformerConv(D, OUT, heads=2, aggr=aggr),
        OUT,
        (EDGES,),
    ),
    "SuperGATConv": (lambda aggr: pyg.SuperGATConv(D, OUT, heads=2, aggr=aggr), OUT, (EDGES,)),
    "AGNNConv": (lambda aggr: pyg.AGNNConv(aggr=aggr), D, (EDGES,)),
    "TAGConv": (lambda aggr: pyg.TAGConv(D, OUT, aggr=aggr), D, (EDGES,)),
    "GINConv": (lambda aggr: pyg.GINConv(linear(D), aggr=aggr), D, (EDGES,)),
    "GINEConv": (
        lambda aggr: pyg.GINEConv(linear(D), edge_dim=3, aggr=aggr),
        D,
        (EDGES, FEATURES),
    ),
    "ARMAConv": (lambda aggr: pyg.ARMAConv(D, OUT, num_stacks=2, aggr=aggr), OUT, (EDGES,)),
    "SGConv": (lambda aggr: pyg.SGConv(D, OUT, aggr=aggr), D, (EDGES,)),
    "SSGConv": (lambda aggr: pyg.SSGConv(D, OUT, 0.1, aggr=aggr), D, (EDGES,)),
    "APPNP": (lambda aggr: pyg.APPNP(2, 0.1, aggr=aggr), D, (EDGES,)),
    "MFConv": (lambda aggr: pyg.MFConv(D, OUT, aggr=aggr), D, (EDGES,)),
    "NNConv": (
        lambda aggr: pyg.NNConv(D, OUT, linear(3, D * OUT), aggr=aggr),
        OUT,
        (EDGES, FEATURES),
    ),
    "CGConv": (lambda aggr: pyg.CGConv(D, 3, aggr=aggr), D, (EDGES, FEATURES)),
    "EdgeConv": (lambda aggr: pyg.EdgeConv(linear(2 * D), aggr=aggr), OUT, (EDGES,)),
    "PointNetConv": (
        lambda aggr: pyg.PointNetConv(linear(D + 3), aggr=aggr),
        OUT,
        (POSITIONS, EDGES),
    ),
    "PPFConv": (
        lambda aggr: pyg.PPFConv(linear(D + 4), aggr=aggr),
        OUT,
        (POSITIONS, NORMALS, EDGES),
    ),
    "PointTransformerConv": (
        lambda aggr: pyg.PointTransformerConv(D, OUT, aggr=aggr),
        OUT,
        (POSITIONS, EDGES),
    ),
    "FeaStConv": (lambda aggr: pyg.FeaStConv(D, OUT, heads=2, aggr=aggr), OUT, (EDGES,)),
    "GMMConv": (lambda aggr: pyg.GMMConv(D, OUT, 3, 2, aggr=aggr), OUT, (EDGES, FEATURES)),
    "LEConv": (lambda aggr: pyg.LEConv(D, OUT, aggr=aggr), OUT, (EDGES,)),
    "ClusterGCNConv": (lambda aggr: pyg.ClusterGCNConv(D, OUT, aggr=aggr), D, (EDGES,)),
    "GENConv": (lambda aggr: pyg.GENConv(D, OUT, aggr=aggr), OUT, (EDGES,)),
    "GCN2Conv": (
        lambda aggr: pyg.GCN2Conv(D, 0.1, aggr=aggr),
        D,
        (X.flip(0), EDGES),
    ),
    "FiLMConv": (lambda aggr: pyg.FiLMConv(D, OUT, aggr=aggr), OUT, (EDGES,)),
    "FAConv": (lambda aggr: pyg.FAConv(D, aggr=aggr), D, (X.flip(0), EDGES)),
    "PDNConv": (lambda aggr: pyg.PDNConv(D, OUT, 3, 5, aggr=aggr), OUT, (EDGES, FEATURES)),
    "GeneralConv": (
        lambda aggr: pyg.GeneralConv(D, OUT, heads=2, attention=True, aggr=aggr),
        OUT,
        (EDGES,),
    ),
    "RGCNConv": (lambda aggr: pyg.RGCNConv(D, OUT, 2, aggr=aggr), D, (EDGES, KINDS)),
    "LGConv": (lambda aggr: pyg.LGConv(aggr=aggr), D, (EDGES,)),
}


def one_step_of_the_mean(channels: int) -> EAAggregation:
    """The mean: its energy has curvature 2, so a step of size 1/2 reaches the minimum."""
    return EAAggregation(
        channels,
        channels,
        steps=1,
        potential=MeanPotential(),
        prior=NoPrior(),
        solver=NesterovSolver(lr=0.5, momentum=0.0, gtol=0.0, trainable=False),
        scaling=mean_scaling,
    )


def output(build: Build, aggr: str | Aggregation, arguments: tuple[object, ...]) -> Tensor:
    torch.manual_seed(0)
    convolution = build(aggr).double()
    x = X.clone().requires_grad_()
    out = convolution(x, *arguments)
    out.sum().backward()
    assert x.grad.isfinite().all()
    return out.detach()


@pytest.mark.filterwarnings("ignore:.*index_reduce.*:UserWarning")
# some messages are zero: the norm in a new potential makes the first of two steps too long
@pytest.mark.filterwarnings("ignore::pyg_ea.diagnostics.DivergenceWarning")
@pytest.mark.parametrize(
    ("build", "channels", "arguments"), CONVOLUTIONS.values(), ids=CONVOLUTIONS
)
def test_equals_the_mean(build, channels, arguments) -> None:
    expected = output(build, "mean", arguments)
    got = output(build, one_step_of_the_mean(channels), arguments)
    # the step size was stored in float32 before the module became float64
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-7)
    for learned in (EAAggregation(channels, channels, steps=2), SumEAAggregation(channels)):
        assert output(build, learned, arguments).shape == expected.shape


@pytest.mark.parametrize("dim", [0, 1, -2])
def test_the_result_is_contiguous(dim) -> None:
    x = torch.randn(5, 6, D) if dim == 0 else torch.randn(6, 5, D)
    index = torch.tensor([0, 2, 1, 0, 2])
    for layer in (EAAggregation(D, 3, steps=2), SumEAAggregation(D)):
        out = layer(x, index, dim_size=4, dim=dim)
        assert out.is_contiguous()
        assert out.shape[dim] == 4
