"""The network around a readout: the norm before it, the head behind it, whose rate is whose."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch_geometric.data import Batch, Data

from experiments.molpcba.config import Config, parse, resolve
from experiments.molpcba.model import MoleculeNetwork
from experiments.molpcba.training import MoleculeTraining

TASKS = 3


def config_of(*flags: str) -> Config:
    small = ["--width", "8", "--layers", "1", "--ea-width", "24", "--dropout", "0"]
    return resolve(parse([*small, *flags]), "embedded-nci")


def network_of(*flags: str) -> MoleculeNetwork:
    torch.manual_seed(0)
    return MoleculeNetwork(config_of(*flags), TASKS, torch.tensor([2, 3])).eval()


@pytest.fixture
def batch() -> Batch:
    bonds = torch.tensor([[0, 1], [1, 0]])
    graphs = [
        Data(
            x=torch.zeros(size, 9, dtype=torch.long),
            edge_index=bonds,
            edge_attr=torch.zeros(2, 3, dtype=torch.long),
        )
        for size in (2, 3)
    ]
    return Batch.from_data_list(graphs)


def test_the_readout_sees_normed_nodes(batch):
    network, seen = network_of("--readout", "sum", "--input-norm", "layer"), []
    network.readout.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(batch)
    nodes = network.encode(batch)
    torch.testing.assert_close(seen[0], nn.functional.layer_norm(nodes, (8,)))
    plain = network_of("--readout", "sum")
    assert not {key for key in plain.state_dict() if key.startswith("input_norm")}


@pytest.mark.parametrize(
    ("name", "kind"),
    [("layer", nn.LayerNorm), ("batch", nn.BatchNorm1d), ("none", nn.Identity)],
)
def test_the_norm_behind_each_part_of_a_readout(name, kind):
    network = network_of("--readout", "mean+sum", "--readout-norm", name)
    assert [isinstance(own, kind) for own in network.readout.norms] == [True, True]


@pytest.mark.parametrize("local", ["sum", "ea", "sum+ea"])
def test_messages_are_normed_before_they_are_aggregated(batch, local):
    network, seen = network_of("--local", local, "--message-norm", "layer"), []
    aggr = network.convs[0].aggr_module
    aggr.norm.register_forward_hook(lambda module, args, output: seen.append((args[0], output)))
    aggr.aggr.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    network(batch)
    (messages, normed), aggregated = seen
    torch.testing.assert_close(normed, nn.functional.layer_norm(messages, (8,)))
    torch.testing.assert_close(aggregated, normed)


def test_a_linear_layer_stands_beside_the_hidden_one(batch):
    network = network_of("--readout", "mean", "--head-width", "5", "--head-skip", "linear")
    y = network.readout(network.encode(batch), batch.batch, dim_size=2)
    torch.testing.assert_close(network(batch), network.head.head(y) + network.head.skip(y))
    assert [tuple(own.weight.shape) for own in network.head.head if hasattr(own, "weight")] == [
        (5, 8),
        (TASKS, 5),
    ]
    assert network.head.skip.weight.shape == (TASKS, 8)


def test_deep_sets_has_the_size_of_ea():
    for readout in ("ea", "deepsets"):
        assert network_of("--readout", readout).head.in_features == 24


@pytest.mark.parametrize("readout", ["ea", "pyg-ea", "mean"])
def test_the_rate_of_its_own_is_that_of_ea_and_of_pygs(readout, tiny_data):
    config = config_of("--readout", readout, "--lr", "0.01", "--ea-lr", "0.001")
    module = MoleculeTraining(config, tiny_data)
    groups = module._parameter_groups()
    rates = {p: group.get("lr", 0.01) for group in groups for p in group["params"]}
    assert rates.keys() == set(module.parameters())
    for name, parameter in module.named_parameters():
        is_ea = name.startswith("network.readout.aggrs") and readout != "mean"
        assert rates[parameter] == (0.001 if is_ea else 0.01), name
