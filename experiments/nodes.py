"""Node classification on block-model graphs: aggregators over neighbours, outliers at test.

``python -m experiments.nodes``: see ``--help``. A seed decides a graph of 2,000 nodes in 4 classes.
A node has edges to 6 nodes of its class and to 4 others on average. Its features are the centre of
its class and noise, too much to tell the class without the neighbours.
"""

from __future__ import annotations

import sys

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F
from torch_geometric.data import Data
from torch_geometric.nn import SAGEConv
from torch_geometric.transforms import RandomNodeSplit
from torch_geometric.utils import stochastic_blockmodel_graph

from experiments.records import Run
from experiments.sets.aggregators import AGGREGATORS, Normed
from experiments.sets.study import Task, study_command
from experiments.sets.training import Problem

NODES, CLASSES, FEATURES = 2000, 4, 16
DEGREES = 6.0, 4.0  # neighbours of a node's own class and of others
SPLIT = 400, 400  # nodes of the train and the valid part; the rest are the test part
# Tests by the share of nodes whose features become noise
OUTLIERS = {"outliers_10": 0.1, "outliers_20": 0.2, "outliers_30": 0.3}
NOISE, OUTLIER_NOISE = 4.0, 10.0  # standard deviations; the centres of classes have 1
WIDTH, DROPOUT = 32, 0.2  # hidden size, share of features left out before each layer


class NodeNetwork(nn.Module):
    """A linear layer, two SAGE layers with this aggregator, a linear head."""

    def __init__(self, name: str, norm: str | None) -> None:
        super().__init__()
        self.encoder, self.head = nn.Linear(FEATURES, WIDTH), nn.Linear(WIDTH, CLASSES)
        aggregators = [Normed(AGGREGATORS[name](WIDTH), norm, WIDTH, WIDTH) for _ in range(2)]
        self.layers = nn.ModuleList([SAGEConv(WIDTH, WIDTH, aggr=own) for own in aggregators])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Logits ``[N, 4]``."""
        x = self.encoder(x)
        for layer in self.layers:
            x = layer(F.dropout(x.relu(), DROPOUT, self.training), edges)
        return self.head(x.relu())


def sample_graph(seed: int) -> Data:
    """A graph with features x, labels y, and masks of its parts."""
    torch.manual_seed(seed)
    labels = torch.arange(CLASSES).repeat_interleave(NODES // CLASSES)
    x = torch.randn(CLASSES, FEATURES)[labels] + NOISE * torch.randn(NODES, FEATURES)
    sizes, same = [NODES // CLASSES] * CLASSES, torch.eye(CLASSES)
    chances = CLASSES / NODES * (DEGREES[0] * same + DEGREES[1] / (CLASSES - 1) * (1 - same))
    graph = Data(x=x, y=labels, edge_index=stochastic_blockmodel_graph(sizes, chances))
    return RandomNodeSplit(num_val=SPLIT[1], num_test=NODES - sum(SPLIT))(graph)


def evaluate(model: nn.Module, graph: Data, part: str) -> dict[str, float]:
    """Accuracy on the nodes of a part that are not outliers. Parts of :data:`OUTLIERS` are the test
    part with outliers.
    """
    generator = Generator().manual_seed(0)
    is_outlier = torch.rand(NODES, generator=generator) < OUTLIERS.get(part, 0.0)
    noise = OUTLIER_NOISE * torch.randn(NODES, FEATURES, generator=generator)
    x = torch.where(is_outlier[:, None], noise, graph.x)
    used = (graph.val_mask if part == "valid" else graph.test_mask) & ~is_outlier
    right = model(x, graph.edge_index).argmax(dim=1) == graph.y
    return {"accuracy": right[used].double().mean().item()}


def problem(run: Run) -> Problem:
    """Network and graph of a run; a step trains on the whole graph."""
    graph = sample_graph(run.seed)
    model, own = NodeNetwork(run.row, run.settings.get("norm")), graph.train_mask

    def loss() -> Tensor:
        return F.cross_entropy(model(graph.x, graph.edge_index)[own], graph.y[own])

    return Problem(model, loss, lambda part, is_last: evaluate(model, graph, part))


TASK = Task(
    name="nodes",
    description="Node classification on block-model graphs",
    data="block-model graphs",
    methods=["sum", "mean", "median", "attention", "deepsets", "ea", "sum_ea"],
    problem=problem,
    metric="accuracy",
    defaults={"seeds": 5, "steps": 100, "tuning_steps": 100},
    tests=tuple(OUTLIERS),
    reference="sum",
)
main = study_command(TASK)

if __name__ == "__main__":
    sys.exit(main())
