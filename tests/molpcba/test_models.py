"""The networks against plain formulas, and each readout and aggregation in them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch
from torch_geometric.nn.aggr import EquilibriumAggregation

from experiments.molpcba.adjoints import ADJOINTS, build_adjoint
from experiments.molpcba.config import Config
from experiments.molpcba.convs import GCNLayer, GINLayer
from experiments.molpcba.inner import InnerLoopMeter, ea_layers
from experiments.molpcba.models import build_network
from experiments.molpcba.norms import BatchNorm
from experiments.molpcba.presets import resolve
from experiments.molpcba.readouts import PARTS, PyGEquilibriumAggregation, Site, build_readout
from pyg_ea import Truncated, auxiliary_loss

SMALL = Config(
    width=12, ea_width=12, layers=2, steps=3, dropout=0.0, epochs=1, batch_size=8, lr=0.01
)


def network(tasks: int = 3, **settings):
    torch.manual_seed(0)
    return build_network(resolve(replace(SMALL, **settings), "tiny"), tasks)


@pytest.fixture
def batch(tiny_data) -> Batch:
    """Twelve molecules, a single atom among them."""
    sodium = list(tiny_data.smiles).index("[Na+]")
    return tiny_data.graphs.batch(torch.tensor([*range(20, 31), sodium]))


def test_gin_layer_is_the_formula(batch):
    torch.manual_seed(1)
    layer = GINLayer(5).double().eval()
    nn.init.constant_(layer.eps, 0.3)
    x = torch.randn(batch.num_nodes, 5, dtype=torch.float64)
    received = torch.zeros_like(x)
    bonds = layer.bond_encoder(batch.edge_attr)
    for e, (source, target) in enumerate(batch.edge_index.T.tolist()):
        received[target] += torch.relu(x[source] + bonds[e])
    expected = layer.mlp(1.3 * x + received)
    torch.testing.assert_close(layer(x, batch.edge_index, batch.edge_attr), expected)


def test_gcn_layer_is_the_formula(batch):
    torch.manual_seed(1)
    layer = GCNLayer(5).double()
    x = torch.randn(batch.num_nodes, 5, dtype=torch.float64)
    h, bonds = layer.linear(x), layer.bond_encoder(batch.edge_attr)
    degree = torch.ones(batch.num_nodes, dtype=torch.float64)
    for source in batch.edge_index[0].tolist():
        degree[source] += 1
    expected = torch.relu(h + layer.root.weight) / degree[:, None]
    for e, (source, target) in enumerate(batch.edge_index.T.tolist()):
        weight = (degree[source] * degree[target]) ** -0.5
        expected[target] = expected[target] + weight * torch.relu(h[source] + bonds[e])
    torch.testing.assert_close(layer(x, batch.edge_index, batch.edge_attr), expected)


@pytest.mark.parametrize("readout", [*PARTS, "ea+mean+sum+max", "set2set+ea"])
def test_each_readout_gives_finite_logits_and_gradients(readout, batch):
    model = network(readout=readout)
    logits = model(batch)
    assert logits.shape == (12, 3)
    logits.square().sum().backward()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    assert model.head.in_features == {
        "set2set": 24,
        "pna": 144,
        "ea+mean+sum+max": 48,
        "set2set+ea": 36,
    }.get(readout, 12)


@pytest.mark.parametrize("readout", ["ea", "pyg-ea", "ea+mean"])
def test_ea_width_is_the_size_of_ea_s_vector_alone(readout, batch):
    net = network(readout=readout, ea_width=20, local="ea")
    assert net(batch).shape == (12, 3)
    assert net.head.in_features == (32 if readout == "ea+mean" else 20)
    assert {layer.out_channels for layer in ea_layers(net.convs).values()} == {12}


def test_parts_stand_side_by_side_each_behind_its_own_norm():
    x, batch = torch.randn(7, 4), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    site = Site(4, ea=None, ea_width=4, potential_width=4, steps=1)
    together = build_readout("mean+sum", site)(x, batch)
    for i, part in enumerate(("mean", "sum")):
        plain = build_readout(part, site, norm=False)(x, batch)
        expected = torch.nn.functional.layer_norm(plain, (4,))
        torch.testing.assert_close(together[:, 4 * i : 4 * i + 4], expected)


def test_pna_s_scalers_are_relative_to_the_training_graphs(batch):
    sizes = torch.tensor([3, 3, 12])
    net = build_network(resolve(replace(SMALL, readout="pna"), "tiny"), 3, sizes)
    expected = torch.log(sizes + 1.0).mean()
    torch.testing.assert_close(net.readout.aggrs[0].avg_deg_log[0], expected)
    other = network(readout="pna")  # as for a checkpoint: the averages come with the state
    other.load_state_dict(net.state_dict())
    torch.testing.assert_close(other.eval()(batch), net.eval()(batch))


def test_pyg_s_ea_is_pyg_s():
    torch.manual_seed(0)
    ours = PyGEquilibriumAggregation(Site(4, ea=None, ea_width=5, potential_width=3, steps=2))
    theirs = EquilibriumAggregation(4, 5, [6, 3], grad_iter=2)
    theirs.load_state_dict(ours.state_dict())
    x, batch = torch.randn(7, 4), torch.tensor([0, 0, 0, 1, 1, 1, 1])
    expected = theirs(x, batch)
    assert torch.equal(ours(x, batch), expected)
    with torch.inference_mode():
        assert torch.equal(ours(x.clone(), batch.clone()), expected)
    with torch.no_grad():
        assert not ours(x, batch).requires_grad
    expected.sum().backward()
    without = {name for name, p in theirs.named_parameters() if p.grad is None}
    assert without == {name for name, p in ours.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize("model", ["gin", "gcn"])
@pytest.mark.parametrize("virtual_node", [False, True])
def test_local_ea_reaches_every_layer(model, virtual_node, batch):
    net = network(model=model, local="ea", readout="mean", virtual_node=virtual_node)
    assert set(ea_layers(net)) == {"conv0", "conv1"}
    loss = net(batch).square().sum() + auxiliary_loss(net.convs)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("adjoint", [*ADJOINTS, "truncated-2", "truncated-9"])
@pytest.mark.filterwarnings("ignore:the implicit gradient")
def test_adjoints_agree_on_the_output(adjoint, batch):
    expected = network(steps=6)(batch)
    torch.testing.assert_close(network(steps=6, adjoint=adjoint)(batch), expected)


def test_truncated_takes_any_number_of_steps():
    assert [build_adjoint(f"truncated-{k}") for k in (1, 12)] == [Truncated(1), Truncated(12)]


def test_bonds_matter_in_every_message(batch):
    net = network(local="ea").eval()
    before = net(batch)
    other = batch.clone()
    other.edge_attr = (other.edge_attr + 1) % 2
    assert not torch.allclose(before, net(other))


@pytest.mark.parametrize("settings", [{}, {"local": "ea"}, {"readout": "ea+mean+sum+max"}])
def test_a_molecule_is_predicted_alone_as_in_company(settings, tiny_data):
    net = network(**settings).double().eval()
    together = net(tiny_data.graphs.batch(torch.arange(10)))
    alone = torch.cat([net(tiny_data.graphs.batch(torch.tensor([i]))) for i in range(10)])
    torch.testing.assert_close(together, alone, atol=1e-12, rtol=0)


def test_virtual_node_lets_distant_atoms_meet(tiny_data):
    chain = list(tiny_data.smiles).index(max(tiny_data.smiles, key=len))
    batch = tiny_data.graphs.batch(torch.tensor([chain]))
    changed = batch.clone()
    changed.x = changed.x.clone()
    changed.x[-1, 0] += 1
    for virtual_node in (False, True):
        net = network(virtual_node=virtual_node).double().eval()
        first = (net.encode(batch) - net.encode(changed)).abs().sum(dim=1)
        assert bool((first > 1e-12).all()) is virtual_node


def test_settings_reach_the_ea_layer():
    net = network(
        steps=4, eval_steps=9, potential_width=7, inner_lr=0.3, inner_momentum=0.5,
        inner_gtol=0.2, inner_clip=2.0, regulariser=0.7,
    )  # fmt: skip
    layer = ea_layers(net)["readout"]
    assert (layer.steps, layer.eval_steps, layer.hidden_channels) == (4, 9, 7)
    assert layer.solver.lr.item() == pytest.approx(0.3)
    assert layer.solver.momentum.item() == pytest.approx(0.5)
    assert (layer.solver.gtol, layer.solver.clip) == (0.2, 2.0)
    assert layer.prior.weight.item() == pytest.approx(0.7)


def test_batch_norm_is_torchs_and_bears_a_single_row():
    ours, theirs = BatchNorm(3), nn.BatchNorm1d(3)
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours(x), theirs(x))
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours(x[:1]), theirs.eval()(x[:1]))


def test_meter_averages_over_segments_not_batches(tiny_data):
    net = network()
    layer = ea_layers(net)["readout"]
    meter = InnerLoopMeter(net)
    norms = []
    for index in (torch.arange(3), torch.arange(3, 20)):
        net(tiny_data.graphs.batch(index))
        norms.append(layer.solution.gradient_mean_square.detach())
        meter.update()
    row = meter.compute()
    assert row["readout_gradient"] == pytest.approx(float(torch.cat(norms).mean().sqrt()))
    assert row["readout_steps"] == 3
    assert row["readout_step_size"] == pytest.approx(0.125)
    assert row["readout_diverged"] == 0
