"""Inside PyG's own convolutions, aggregations and transforms, and under DDP."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard
from torch.multiprocessing import spawn
from torch.nn.parallel import DistributedDataParallel
from torch_geometric.nn import GCNConv, GINConv, GINEConv, SAGEConv, to_hetero
from torch_geometric.nn.aggr import DegreeScalerAggregation, MultiAggregation

from pyg_ea import EAAggregation, EAConv, EAGlobalPool, auxiliary_loss, collect_solutions
from pyg_ea.potentials import MeanPotential

CHANNELS, OUT = 6, 5
EDGES = torch.tensor([[0, 1, 2, 3, 4, 4, 0, 2], [1, 0, 1, 1, 3, 0, 3, 0]])  # 2 and 4 get none


def aggregation(channels: int = CHANNELS) -> EAAggregation:
    return EAAggregation(channels, channels, 8, steps=4)


def nodes() -> Tensor:
    return torch.randn(5, CHANNELS, generator=torch.Generator().manual_seed(0))


class WithEdges(nn.Module):
    """GINEConv with edge features bound, so that all hosts are called alike."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = GINEConv(nn.Linear(CHANNELS, OUT), edge_dim=3, aggr=aggregation())

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        generator = torch.Generator().manual_seed(2)
        edge_attr = torch.randn(EDGES.shape[1], 3, generator=generator, dtype=torch.float64)
        by_edge = {tuple(e): a for e, a in zip(EDGES.T.tolist(), edge_attr, strict=True)}
        rows = [by_edge[tuple(e)] for e in edge_index.T.tolist()]
        return self.conv(x, edge_index, torch.stack(rows).to(x.dtype))


HOSTS = {
    "GINConv": lambda: GINConv(nn.Linear(CHANNELS, OUT), aggr=aggregation()),
    "GINEConv": WithEdges,
    "GCNConv": lambda: GCNConv(CHANNELS, OUT, aggr=aggregation(OUT)),
    "SAGEConv": lambda: SAGEConv(CHANNELS, OUT, aggr=aggregation()),
}


@pytest.mark.parametrize("host", HOSTS)
def test_inside_convolutions(host: str) -> None:
    torch.manual_seed(0)
    conv = HOSTS[host]()
    x = nodes().requires_grad_()
    out = conv(x, EDGES)
    assert out.shape == (5, OUT)
    assert out.isfinite().all()
    out.square().sum().backward()
    assert x.grad.isfinite().all()
    for name, parameter in conv.named_parameters():
        assert parameter.grad.abs().max() > 0, name

    conv = conv.double()
    order = torch.tensor([3, 0, 7, 1, 6, 2, 5, 4])
    out = conv(nodes().double(), EDGES)
    torch.testing.assert_close(conv(nodes().double(), EDGES[:, order]), out, rtol=0, atol=1e-12)
    conv.reset_parameters() if host != "GINEConv" else conv.conv.reset_parameters()
    assert not torch.equal(conv(nodes().double(), EDGES), out)


def test_the_convolution_s_aggregate_is_that_of_the_layer() -> None:
    torch.manual_seed(0)
    layer = aggregation()
    conv = GINConv(nn.Identity(), aggr=layer)
    expected = nodes() + layer(nodes()[EDGES[0]], EDGES[1], dim_size=5)
    torch.testing.assert_close(conv(nodes(), EDGES), expected)
    assert (conv(nodes(), EDGES)[[2, 4]] == nodes()[[2, 4]]).all()


def test_inside_multi_aggregation() -> None:
    torch.manual_seed(0)
    layer = aggregation()
    multi = MultiAggregation(["mean", layer, "max"])
    index = torch.tensor([0, 0, 2, 2, 2])
    out = multi(nodes(), index)
    assert out.shape == (3, 3 * CHANNELS)
    assert torch.equal(out[:, CHANNELS : 2 * CHANNELS], layer(nodes(), index))
    assert torch.equal(out[:, :CHANNELS], MultiAggregation(["mean"])(nodes(), index))
    conv = SAGEConv(CHANNELS, OUT, aggr=["mean", aggregation()])
    assert conv(nodes(), EDGES).shape == (5, OUT)


def test_inside_degree_scaler_aggregation() -> None:
    torch.manual_seed(0)
    layer = aggregation()
    degrees = torch.tensor([2, 0, 1, 2])
    scaler = ["identity", "amplification", "linear"]
    scaled = DegreeScalerAggregation(layer, scaler, degrees)
    index = torch.tensor([0, 0, 2, 2, 2])
    out = scaled(nodes(), index)
    plain = layer(nodes(), index)
    assert out.shape == (3, 3 * CHANNELS)
    assert torch.equal(out[:, :CHANNELS], plain)
    count = torch.tensor([2.0, 0.0, 3.0])[:, None]
    torch.testing.assert_close(out[:, 2 * CHANNELS :], plain * count / scaled.avg_deg_lin)


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = SAGEConv(CHANNELS, CHANNELS, aggr=aggregation())
        self.second = EAConv(CHANNELS, OUT)

    def forward(self, x: Tensor, edge_index: Tensor) -> Tensor:
        return self.second(self.first(x, edge_index).relu(), edge_index)


def test_to_hetero() -> None:
    torch.manual_seed(0)
    relations = [("atom", "bond", "atom"), ("atom", "in", "ring"), ("ring", "has", "atom")]
    model = to_hetero(Network(), (["atom", "ring"], relations))
    x = {"atom": nodes(), "ring": nodes()[:2]}
    edges = {
        relations[0]: EDGES,
        relations[1]: torch.tensor([[0, 1, 2], [0, 0, 1]]),
        relations[2]: torch.tensor([[0, 0, 1], [0, 1, 2]]),
    }
    with collect_solutions() as solutions:
        out = model(x, edges)
    assert out["atom"].shape == (5, OUT)
    assert out["ring"].shape == (2, OUT)
    sum(o.square().sum() for o in out.values()).backward()
    layers = [m for m in model.modules() if isinstance(m, EAAggregation)]
    assert len(layers) == 2 * len(relations)
    assert all(layer.solver.raw_lr.grad is not None for layer in layers)
    assert len(solutions) == len(layers)


# DDP ------------------------------------------------------------------------------------------

GRAPHS = 8


def ddp_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(EAGlobalPool(CHANNELS, OUT, 8, steps=4), nn.Linear(OUT, 1)).double()


def ddp_loss(model: nn.Module, graphs: list[int]) -> Tensor:
    """Mean task loss over the given graphs plus the auxiliary loss."""
    generator = torch.Generator().manual_seed(3)
    all_x = torch.randn(GRAPHS, 5, CHANNELS, dtype=torch.float64, generator=generator)
    x = all_x[graphs].flatten(0, 1)
    batch = torch.arange(len(graphs)).repeat_interleave(5)
    with collect_solutions() as solutions:
        out = model(x, batch)
    return out.square().mean() + auxiliary_loss(solutions)


class Readout(nn.Module):
    """Pooling and a head, called with x and batch."""

    def __init__(self) -> None:
        super().__init__()
        self.pool, self.head = ddp_model()

    def forward(self, x: Tensor, batch: Tensor) -> Tensor:
        return self.head(self.pool(x, batch))


def ddp_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=2,
        timeout=timedelta(minutes=2),
    )
    model = Readout()
    parallel = DistributedDataParallel(model)
    for _ in range(2):  # a second pass raises if the first left a parameter without gradient
        parallel.zero_grad()
        ddp_loss(parallel, list(range(rank, GRAPHS, 2))).backward()
    torch.save([p.grad for p in model.parameters()], Path(folder) / f"{rank}.pt")
    # Before the group: if its last reference is that of DDP's reducer, torch joins gloo's thread
    # while it holds the GIL, for which that thread may be waiting.
    del parallel
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_two_processes_have_the_gradients_of_one(tmp_path: Path) -> None:
    spawn(ddp_process, (str(tmp_path),), nprocs=2)
    model = Readout()
    ddp_loss(model, list(range(GRAPHS))).backward()
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for (name, parameter), grad in zip(model.named_parameters(), got, strict=True):
            assert parameter.grad.abs().max() > 0, name
            torch.testing.assert_close(grad, parameter.grad, rtol=1e-10, atol=1e-12, msg=name)


# FSDP -----------------------------------------------------------------------------------------

LEARNING_RATE = 0.05
WRAPPED = {  # what is sharded: the modules, by FSDP 1 or 2
    "pool": lambda model, mesh: fully_shard(model.pool, mesh=mesh),
    "model": lambda model, mesh: fully_shard(model, mesh=mesh),
    "pool by FSDP 1": lambda model, mesh: wrap(model, "pool"),
}
REFUSED = {  # parts of a potential
    "potential": lambda model, mesh: fully_shard(model.pool.aggr.potential, mesh=mesh),
    "layer": lambda model, mesh: fully_shard(model.pool.aggr.potential.layer1, mesh=mesh),
    "layer by FSDP 1": lambda model, mesh: wrap(model.pool.aggr.potential, "layer1"),
}


def wrap(parent: nn.Module, name: str) -> None:
    cpu = torch.device("cpu")
    part = FullyShardedDataParallel(getattr(parent, name), device_id=cpu, use_orig_params=True)
    setattr(parent, name, part)


def train(model: nn.Module, graphs: list[int], lr: float) -> list[Tensor]:
    """Losses of three steps."""
    losses = []
    for _ in range(3):
        model.zero_grad()
        loss = ddp_loss(model, graphs)
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.grad is not None:
                    parameter -= lr * parameter.grad
        losses.append(loss.detach())
    return losses


def fsdp_process(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    method = f"file://{folder}/rendezvous"
    torch.distributed.init_process_group("gloo", init_method=method, rank=rank, world_size=2)
    mesh, results = init_device_mesh("cpu", (2,)), {}
    for name, shard in {**WRAPPED, **REFUSED}.items():
        model = Readout()
        shard(model, mesh)
        try:
            results[name] = train(model, list(range(GRAPHS)), LEARNING_RATE)
        except RuntimeError as error:
            results[name] = str(error)
    torch.save(results, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_sharded_by_fsdp(tmp_path: Path) -> None:
    """Both processes see the same graphs, so that gradients are those of one process.

    FSDP averages gradients over processes, also of the head, which is not sharded.
    """
    spawn(fsdp_process, (str(tmp_path),), nprocs=2)
    expected = train(Readout(), list(range(GRAPHS)), LEARNING_RATE)
    assert expected[0] > expected[-1]
    for rank in range(2):
        got = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in WRAPPED:
            for mine, theirs in zip(got[name], expected, strict=True):
                torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12, msg=name)
        for name in REFUSED:
            assert "shard the whole EAAggregation" in got[name], name


def test_a_layer_without_weights_of_its_own_works_as_aggr_too() -> None:
    conv = SAGEConv(
        CHANNELS, OUT, aggr=EAAggregation(CHANNELS, CHANNELS, potential=MeanPotential())
    )
    assert conv(nodes(), EDGES).isfinite().all()
