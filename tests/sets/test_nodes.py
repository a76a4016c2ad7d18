"""Node classification: the graph, every aggregator, the command."""

import pytest
import torch

from experiments import nodes
from experiments.nodes import AGGREGATORS, NODES, SPLIT, NodeNetwork, evaluate, sample_graph
from experiments.studies.records import Records

TINY = [
    *("--steps", "4", "--evaluations", "2", "--seeds", "2", "--width", "8", "--dropout", "0"),
    *("--learning_rates", "[0.001, 0.01]", "--norms", "[null, both]", "--results", "results"),
]


def test_a_graph_has_the_degrees_and_parts_it_says():
    graph = sample_graph(3)
    source, target = graph.edge_index
    same = (graph.y[source] == graph.y[target]).sum() / NODES
    assert float(same) == pytest.approx(nodes.DEGREES[0], abs=0.3)
    assert len(source) / NODES - float(same) == pytest.approx(nodes.DEGREES[1], abs=0.3)
    assert not (source == target).any()
    assert graph.part.bincount().tolist() == [*SPLIT, NODES - sum(SPLIT)]
    assert torch.equal(sample_graph(3).x, graph.x)
    assert not torch.equal(sample_graph(4).edge_index, graph.edge_index)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_parameter_gets_a_gradient(name):
    torch.manual_seed(0)
    graph, network = sample_graph(0), NodeNetwork(name, 32, "both", 0.0)
    network(graph.x, graph.edge_index).square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


def test_outliers_are_not_scored_and_reach_their_neighbours():
    class Right(torch.nn.Module):
        def forward(self, x, edges):
            self.x = x
            return torch.nn.functional.one_hot(graph.y)

    graph, model = sample_graph(0), Right()
    assert evaluate(model, graph, 2, 0.3) == 1
    changed = (model.x != graph.x).any(dim=1).float().mean()
    assert float(changed) == pytest.approx(0.3, abs=0.03)
    assert evaluate(model, graph, 2) == 1
    assert torch.equal(model.x, graph.x)


def test_the_command_tunes_records_and_continues(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert nodes.main([*TINY, "--methods", "[sum, median]"]) == 0
    records = Records(tmp_path / "results")
    assert list(records.runs["row"]) == ["sum", "sum", "median", "median"]
    assert records.runs["fingerprint"].nunique() == 2
    assert records.runs.filter(like="outliers").notna().all(axis=None)
    for row, best in records.best_values(is_lower_better=False).items():
        rates = [own["learning_rate"] for own in records.tried(row) if own["norm"] == best["norm"]]
        assert min(rates) < best["learning_rate"] < max(rates)  # the edge is not chosen
    monkeypatch.setattr(nodes, "NodeNetwork", None)
    assert nodes.main([*TINY, "--methods", "[sum, median]"]) == 0
    assert "norm, learning_rate are each row's best of" in capsys.readouterr().out
    assert nodes.main([*TINY, "--methods", "[summ]"]) == 2
    assert "row summ: expected some of sum" in capsys.readouterr().err
